"""What is known of parameters before they exist, and how they are drawn.

Parameters are a nested dictionary of arrays; their declarations are the same dictionary with a
`ParamSpec` in every place. Whatever needs shapes, logical axes or initial values without allocating
anything reads that tree: initialisation, checkpoints, sharding, ahead-of-time compilation.
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


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Biases start at zero."""
    del key
    return jnp.zeros(shape, dtype)


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
    """One parameter, before it exists.

    Attributes:
      shape: of the whole array.
      axes: logical axis names, one for each dimension; see `partitioning`.
      init: draws the initial value.
      is_kernel: a factor of matrix products, used in the compute dtype. Everything else (norms,
        position tables, embeddings, which are looked up as well) stays float32 until it is used.
      is_adapter: belongs to an adapter; where a network has any, training changes these alone.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Initializer
    is_kernel: bool = False
    is_adapter: bool = False

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"shape {self.shape} and axes {self.axes} differ in length")


def _is_spec(x: Any) -> bool:
    return isinstance(x, ParamSpec)


def drawn_by_network(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Stands in the specs of a network whose constructor draws all parameters at once."""
    raise TypeError("this network draws its parameters in Network.init, not one by one")


def stacked_init(init: Initializer) -> Initializer:
    """Draws [layers, ...] layer by layer, as the same layer alone would be drawn."""

    def stacked(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        keys = jax.random.split(key, shape[0])
        return jax.vmap(lambda k: init(k, shape[1:], dtype))(keys)

    return stacked


def cast_kernels(specs: Params, params: Params, dtype: Any) -> Params:
    """Kernels in the compute dtype, everything else (quantised kernels too) as it is."""

    def cast(spec: ParamSpec, x: Any) -> Any:
        return x.astype(dtype) if spec.is_kernel and hasattr(x, "astype") else x

    return map_specs(cast, specs, params)


def trainable(specs: Params) -> Params:
    """The part of a tree of `ParamSpec` that training changes: the adapters, or all without any."""
    return _prune(specs, lambda spec: spec.is_adapter) or specs


def frozen(specs: Params) -> Params:
    """The other part, which a network with adapters keeps as it is."""
    return _prune(specs, lambda spec: not spec.is_adapter) if trainable(specs) != specs else {}


def _prune(specs: Params, keep: Callable[[ParamSpec], bool]) -> Params:
    kept: Params = {}
    for name, inner in specs.items():
        if isinstance(inner, ParamSpec):
            if keep(inner):
                kept[name] = inner
        elif part := _prune(inner, keep):
            kept[name] = part
    return kept


def select(part: Params, tree: Params) -> Params:
    """What `tree` has in the places of `part`; its other places are left out."""
    return {
        name: select(inner, tree[name]) if isinstance(inner, dict) else tree[name]
        for name, inner in part.items()
    }


def without(part: Params, tree: Params) -> Params:
    """What `tree` has in other places than those of `part`."""
    rest: Params = {}
    for name, inner in tree.items():
        if name not in part:
            rest[name] = inner
        elif isinstance(inner, dict) and (left := without(part[name], inner)):
            rest[name] = left
    return rest


def join(first: Params, second: Params) -> Params:
    """One tree of two that have no leaf in common, such as the frozen and the trained part."""
    joined = dict(first)
    for name, inner in second.items():
        joined[name] = join(joined[name], inner) if name in joined else inner
    return joined


def map_specs(function: Callable[..., Any], specs: Params, *trees: Params) -> Params:
    """`jax.tree.map` over a tree of `ParamSpec` and trees of the same structure."""
    return jax.tree.map(function, specs, *trees, is_leaf=_is_spec)


def init_params(specs: Params, key: jax.Array) -> Params:
    """Draws every parameter in float32 from its own key, so adding one leaves the others unchanged.

    Args:
      specs: tree of `ParamSpec`.
      key: PRNG key.

    Returns:
      The tree of specs with arrays of `spec.shape` in place of specs.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(specs, is_leaf=_is_spec)
    arrays = [
        spec.init(jax.random.fold_in(key, _stable_hash(path)), spec.shape, jnp.float32)
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
