"""Parameter declarations: one table gives initial values, shapes and logical axes.

A model is a nested dictionary of `ParamSpec`. Everything that needs to know about parameters
before (or without) allocating them reads that one tree: initialisation, abstract shapes for
checkpoints and ahead-of-time compilation, logical axes for sharding, parameter counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, Any]
Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]


def ones(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Norm scales start at one."""
    del key
    return jnp.ones(shape, dtype)


def normal(stddev: float) -> Initializer:
    """Gaussian with a fixed standard deviation."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return stddev * jax.random.normal(key, shape, dtype)

    return init


def fan_in(scale: float = 1.0, truncated: bool = False) -> Initializer:
    """Variance scaling over the input axis of a `[in, out]` kernel, as T5X initialises kernels."""
    return jax.nn.initializers.variance_scaling(
        scale, "fan_in", "truncated_normal" if truncated else "normal"
    )


def fan_avg_uniform() -> Initializer:
    """Uniform variance scaling, as T5X initialises the relative position table."""
    return jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """One parameter: `shape` and `axes` (logical axis names) have equal length."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init: Initializer

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"shape {self.shape} and axes {self.axes} differ in length")


def _is_spec(x: Any) -> bool:
    return isinstance(x, ParamSpec)


def stack_specs(specs: Params, num_layers: int) -> Params:
    """Adds a leading `layers` axis to every spec: the layout that `lax.scan` walks."""

    def stack(spec: ParamSpec) -> ParamSpec:
        def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            keys = jax.random.split(key, shape[0])
            return jax.vmap(lambda k: spec.init(k, shape[1:], dtype))(keys)

        return ParamSpec((num_layers, *spec.shape), ("layers", *spec.axes), init)

    return jax.tree.map(stack, specs, is_leaf=_is_spec)


def map_specs(function: Callable[..., Any], specs: Params, *trees: Params) -> Params:
    """`jax.tree.map` over a tree of `ParamSpec` and trees of the same structure."""
    return jax.tree.map(function, specs, *trees, is_leaf=_is_spec)


def init_params(specs: Params, key: jax.Array, dtype: Any = jnp.float32) -> Params:
    """Draws every parameter from its own key, so adding one leaves the others unchanged.

    Args:
      specs: tree of `ParamSpec`.
      key: PRNG key.
      dtype: dtype of all parameters.

    Returns:
      The tree of specs with arrays of `spec.shape` in place of specs.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(specs, is_leaf=_is_spec)
    arrays = [
        spec.init(jax.random.fold_in(key, _stable_hash(path)), spec.shape, dtype)
        for path, spec in leaves
    ]
    return jax.tree.unflatten(treedef, arrays)


def abstract_params(specs: Params, dtype: Any = jnp.float32) -> Params:
    """`jax.ShapeDtypeStruct` for every parameter; nothing is allocated."""
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), specs, is_leaf=_is_spec)


def param_axes(specs: Params) -> Params:
    """Logical axis names (a tuple of strings) for every parameter."""
    return jax.tree.map(lambda s: s.axes, specs, is_leaf=_is_spec)


def count_params(specs: Params) -> int:
    """Number of scalars in the model."""
    return sum(math.prod(s.shape) for s in jax.tree.leaves(specs, is_leaf=_is_spec))


def path_name(path: tuple[Any, ...]) -> str:
    """'encoder/layers/mlp/wi_0/kernel' for a key path of a nested dictionary."""
    return "/".join(str(getattr(entry, "key", getattr(entry, "name", entry))) for entry in path)


def _stable_hash(path: tuple[Any, ...]) -> np.uint32:
    """FNV-1a of the parameter's name: unlike `hash()`, equal in every process."""
    value = 2166136261
    for byte in path_name(path).encode():
        value = ((value ^ byte) * 16777619) % 2**32
    return np.uint32(value)
