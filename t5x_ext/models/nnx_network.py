"""A Flax NNX module of your own as a network; docs/your_own_model.md has a whole example.

The module is an ordinary one: its constructor makes the parameters, from `rngs`. Nothing of it
takes part in training but the parameters, as a nested dictionary named after its attributes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_ext.errors import ConfigError
from t5x_ext.models.network import Network, fingerprint_of
from t5x_ext.models.network_config import NetworkConfig
from t5x_ext.models.parameters import Params, ParamSpec, drawn_by_network

_REQUIRED = ("hidden_states", "output")


@dataclasses.dataclass(frozen=True)
class NNXNetwork(Network):
    """A network from the constructor of a module.

    The module has `hidden_states` and `output`, see `t5x_ext.models.network`. With `start` and
    `step` it is decoded with cached keys and values, otherwise by reading each prefix again.

    Attributes:
      build: called as `build(config, rngs=rngs)`; gives the module. In gin, its class: `@mine.Net`.
      config: vocabulary, dtype and dropout, and whatever fields a subclass adds.
    """

    build: Callable[..., nnx.Module]
    config: NetworkConfig

    def replace(self, config: Any) -> NNXNetwork:
        return NNXNetwork(self.build, config)

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self._module)

    @functools.cached_property
    def specs(self) -> Params:
        def spec(variable: nnx.Variable) -> ParamSpec:
            shape, metadata = variable.get_value().shape, variable.get_metadata()
            axes = metadata.get("axes") or (None,) * len(shape)
            return ParamSpec(shape, axes, drawn_by_network, metadata.get("is_kernel", False))

        return _by_name({path: spec(variable) for path, variable in self._variables})

    @property
    def has_cache(self) -> bool:
        return hasattr(self._module, "start") and hasattr(self._module, "step")

    @property
    def continues_prompts(self) -> bool:
        return hasattr(self._module, "start_after")

    def bind(self, params: Params) -> Any:
        leaves = {path: _leaf(params, path) for path, _ in self._variables}
        graph = nnx.split(self._module)[0]
        return nnx.merge(graph, nnx.from_flat_state(leaves))

    def init(self, key: jax.Array) -> Params:
        """Random parameters in float32, as the constructor draws them from `nnx.Rngs(key)`."""
        module = self.build(self.config, rngs=nnx.Rngs(key))
        drawn = nnx.to_flat_state(nnx.state(module, nnx.Param))
        return _by_name({path: v.get_value().astype(jnp.float32) for path, v in drawn})

    @functools.cached_property
    def _module(self) -> Any:
        """The module with an abstract value in every parameter."""
        module = nnx.eval_shape(lambda: self.build(self.config, rngs=nnx.Rngs(0)))
        for name in _REQUIRED:
            if not hasattr(module, name):
                raise ConfigError(
                    f"NNXNetwork.build: {type(module).__name__} has no method {name!r}; "
                    f"allowed: modules with {' and '.join(_REQUIRED)}"
                )
        for path, variable in nnx.to_flat_state(nnx.state(module)):
            if not isinstance(variable, nnx.Param):
                raise ConfigError(
                    f"NNXNetwork.build: {'/'.join(map(str, path))!r} is a "
                    f"{type(variable).__name__}; allowed: parameters only (dropout takes its "
                    "`rngs` when it is called, not when it is made)"
                )
        return module

    @functools.cached_property
    def _variables(self) -> list[tuple[tuple[Any, ...], Any]]:
        return list(nnx.to_flat_state(nnx.state(self._module)))


def _by_name(leaves: dict[tuple[Any, ...], Any]) -> Params:
    """A nested dictionary; numbers in lists of modules become names, as checkpoints have them."""
    tree: Params = {}
    for path, leaf in leaves.items():
        inner = tree
        for name in path[:-1]:
            inner = inner.setdefault(str(name), {})
        inner[str(path[-1])] = leaf
    return tree


def _leaf(params: Params, path: tuple[Any, ...]) -> Any:
    return functools.reduce(lambda tree, name: tree[str(name)], path, params)
