"""A Linen module, as T5X's users have it, as a network; docs/your_own_model.md has an example.

The module's `__call__` gives scores, float32 [B, T, V]. Of a batch it is handed the features that
its signature names (`encoder_input_tokens`, `decoder_segment_ids` and so on), and of T5X's flags
`decode=False` and `enable_dropout` if it has them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta, unfreeze

from t5x_ext.errors import ConfigError
from t5x_ext.models.network import Network, fingerprint_of
from t5x_ext.models.network_config import NetworkConfig
from t5x_ext.models.parameters import Params, ParamSpec, drawn_by_network

_ALLOWED = {"params", "params_axes"}
_FEATURES = (
    *("encoder_input_tokens", "encoder_segment_ids", "encoder_positions"),
    *("decoder_input_tokens", "decoder_target_tokens", "decoder_segment_ids"),
    *("decoder_positions", "decoder_causal_attention"),
)
_EXAMPLE_SHAPE = (1, 8)  # [B, T] of the batch that parameters are made with; they have no such axis


@dataclasses.dataclass(frozen=True)
class LinenNetwork(Network):
    """A network from a Linen module.

    Parameters are split over a mesh by the logical axes that the module states, with T5X's
    `param_with_axes` or with `nn.with_logical_partitioning`; those without any stay whole.

    Attributes:
      module: gives scores; computes in its own dtype from parameters in float32.
      config: vocabulary, dtype and dropout; the module's own settings are its own affair, and have
        to agree with it.
    """

    module: nn.Module
    config: NetworkConfig

    def replace(self, config: Any) -> LinenNetwork:
        return LinenNetwork(self.module, config)

    @property
    def has_cache(self) -> bool:
        return False

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.module)

    @functools.cached_property
    def specs(self) -> Params:
        variables = jax.eval_shape(self._variables, jax.random.key(0))
        unknown = sorted(variables.keys() - _ALLOWED)
        if unknown:
            raise ConfigError(
                f"LinenNetwork.module: {type(self.module).__name__} has a collection "
                f"{unknown[0]!r}; allowed: {', '.join(sorted(_ALLOWED))}"
            )
        return _specs(variables["params"], variables.get("params_axes", {}))

    def bind(self, params: Params) -> BoundLinen:
        return BoundLinen(self, params)

    def init(self, key: jax.Array) -> Params:
        """Random parameters in float32, as `module.init` draws them."""
        drawn = meta.unbox(self._variables(key)["params"])
        return jax.tree.map(lambda x: x.astype(jnp.float32), drawn)

    def arguments(self, batch: dict[str, jax.Array], with_dropout: bool) -> dict[str, Any]:
        """What of a batch, and of T5X's flags, the module's signature asks for."""
        flags = {"decode": False, "enable_dropout": with_dropout, "deterministic": not with_dropout}
        given: dict[str, Any] = {**batch, **flags}
        return {name: x for name, x in given.items() if name in self._names}

    @functools.cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(inspect.signature(type(self.module).__call__).parameters)

    def _variables(self, key: jax.Array) -> dict[str, Any]:
        ones = {name: jnp.ones(_EXAMPLE_SHAPE, jnp.int32) for name in _FEATURES}
        return dict(unfreeze(self.module.init(key, **self.arguments(ones, with_dropout=False))))


@dataclasses.dataclass(frozen=True)
class BoundLinen:
    """A Linen module with its parameters, under the interface of `t5x_ext.models.network`."""

    network: LinenNetwork
    params: Params

    def hidden_states(
        self, batch: dict[str, jax.Array], dropout_key: jax.Array | None
    ) -> jax.Array:
        """Scores [B, T, V]; `output` says that they need no projection."""
        arguments = self.network.arguments(batch, with_dropout=dropout_key is not None)
        rngs = None if dropout_key is None else {"dropout": dropout_key}
        apply: Any = self.network.module.apply
        return apply({"params": self.params}, rngs=rngs, **arguments)

    def output(self) -> tuple[None, float]:
        """No projection is left to do."""
        return None, 1.0


def _specs(params: Params, axes: Params) -> Params:
    """`ParamSpec` for each parameter; its axes are next to it, as `<name>_axes`, or around it."""
    specs: Params = {}
    for name, value in params.items():
        if isinstance(value, dict):
            specs[name] = _specs(value, axes.get(name, {}))
            continue
        stated = axes.get(f"{name}_axes", value)
        shape = meta.unbox(value).shape
        names = getattr(stated, "names", (None,) * len(shape))
        specs[name] = ParamSpec(shape, tuple(names), drawn_by_network)
    return specs
