"""`t5x.examples.scalable_t5.network`: every layer has a table of relative positions of its own."""

from __future__ import annotations

import dataclasses

from t5x_ext.errors import ConfigError
from t5x_ext.models import network

__all__ = ["T5Config", "Transformer"]

_OWN_TABLES = "position_table_per_layer"


@dataclasses.dataclass(frozen=True)
class T5Config(network.T5Config):
    """The fields of `t5x_ext.models.network.T5Config`, to be given to this module's Transformer."""


def Transformer(config: T5Config) -> network.Transformer:  # noqa: N802  # T5X's name of a class
    """The network with a position table per layer.

    Args:
      config: shape and numerics.

    Raises:
      ConfigError: T5Config cannot say that its layers have tables of their own.
    """
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(network.T5Config)}
    if _OWN_TABLES not in fields:
        raise ConfigError(
            "t5x.examples.scalable_t5.network: its layers each have a table of relative positions, "
            "those of T5Config share one; allowed: t5x.examples.t5.network"
        )
    return network.Transformer(network.T5Config(**{**fields, _OWN_TABLES: True}))
