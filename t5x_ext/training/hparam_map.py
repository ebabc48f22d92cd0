"""Settings of an optimizer that differ from parameter to parameter."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from t5x_ext.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class HParamMap:
    """A setting's value by the name of the parameter that it is for, as T5X has it.

    Attributes:
      rules: (regular expression, value) pairs. The first expression that is found anywhere in a
        parameter's name counts. Both the name here, `encoder/layers/mlp/wi/kernel`, and T5X's name
        of each layer, `encoder/layers_0/mlp/wi/kernel`, are looked at.
    """

    rules: Sequence[tuple[str, Any]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple((rule, value) for rule, value in self.rules))
        for rule, _ in self.rules:
            try:
                re.compile(rule)
            except re.error as error:
                raise ConfigError(
                    f"HParamMap.rules: {rule!r} is not a regular expression ({error})"
                ) from None

    def value_of(self, name: str, num_layers: int) -> Any:
        """The value for one parameter.

        Args:
          name: the parameter's path, joined by `/`.
          num_layers: length of its leading axis, if its path has `layers` in it.

        Raises:
          ConfigError: no rule matches, or one matches some of the layers only: the layers of a
            stack are one parameter here.
        """
        layers = [name.replace("/layers/", f"/layers_{i}/") for i in range(num_layers)]
        for rule, value in self.rules:
            if re.search(rule, name):
                return value
            found = [bool(re.search(rule, layer)) for layer in layers]
            if found and all(found):
                return value
            if any(found):
                raise ConfigError(
                    f"HParamMap.rules: {rule!r} matches layer {found.index(True)} of {name} and "
                    f"not layer {found.index(False)}; allowed: rules that are the same for all "
                    "layers of a stack"
                )
        raise ConfigError(f"HParamMap.rules: none matches {name}; add ('.*', VALUE) at the end")


def given_values(setting: Any) -> list[Any]:
    """Every value that a setting gives some parameter, but for None."""
    values = [value for _, value in setting.rules] if isinstance(setting, HParamMap) else [setting]
    return [value for value in values if value is not None]


def value_for(setting: Any, name: str, num_layers: int) -> Any:
    """A setting's value for one parameter: of an `HParamMap`, or the same for all."""
    return setting.value_of(name, num_layers) if isinstance(setting, HParamMap) else setting
