"""Reading arrays from a checkpoint into a wanted tree: names, shapes, dtypes and placement.

A *wanted* tree is the tree to be returned, with `jax.ShapeDtypeStruct` (or array) leaves whose
shardings say where each tensor goes; a checkpoint may have been written on any other number of
devices. Tensors are named by their path, e.g. `params/encoder/mlp/wi_0/kernel`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext.checkpoints.sources import Index, LazyTensor
from t5x_ext.errors import ConfigError
from t5x_ext.models.nf4 import NF4
from t5x_ext.models.quantizing import quantize

PyTree = Any

# float16 is refused: activations may overflow it. There is no reason to prefer it on disk.
DTYPES = ("float32", "bfloat16")

_MAX_NAMES = 4  # tensors named per kind of mismatch; the rest are counted


def check_dtype(dtype: str | None, field: str) -> None:
    """Refuses dtypes that parameters are not stored in.

    Args:
        dtype: Name of a dtype, or None to keep dtypes as they are.
        field: What to call it in the message, e.g. `SaveCheckpointConfig.dtype`.

    Raises:
        ConfigError: If the dtype is neither None nor one of `DTYPES`.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"{field} = {dtype!r}: allowed are {', '.join(DTYPES)} and None")


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by path, e.g. `{"params/embed": ..., "opt_state/0/count": ...}`.

    A quantised kernel is one leaf, with the shape of the kernel.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_quantised)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def map_params(
    fn: Callable[[Any], Any], tree: PyTree, otherwise: Callable[[Any], Any] = lambda leaf: leaf
) -> PyTree:
    """Applies `fn` to the floating-point leaves under the tree's `params`, `otherwise` to others.

    As in T5X, a checkpoint's dtype is that of its parameters: optimizer statistics keep theirs.
    """

    def visit(path: tuple, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path[:1], simple=True)
        return fn(leaf) if name == "params" and is_floating(leaf) else otherwise(leaf)

    return jax.tree_util.tree_map_with_path(visit, tree)


def is_floating(leaf: Any) -> bool:
    """True for leaves (arrays or their descriptions) that a change of dtype applies to."""
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def wanted_params(params: PyTree, dtype: str | None = None) -> PyTree:
    """A tree of `wanted_leaf`, with `dtype` for floating-point parameters but quantised ones."""

    def visit(leaf: Any) -> Any:
        if _is_quantised(leaf):
            return jax.tree.map(wanted_leaf, leaf)
        return wanted_leaf(leaf, dtype if is_floating(leaf) else None)

    return jax.tree.map(visit, params, is_leaf=_is_quantised)


def _is_quantised(leaf: Any) -> bool:
    return isinstance(leaf, NF4)


def wanted_leaf(leaf: Any, dtype: str | None = None) -> jax.ShapeDtypeStruct:
    """Describes a tensor to restore; one without a sharding goes to the first local device."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=sharding)


def check_tree(source: Any, saved: PyTree, wanted: PyTree) -> None:
    """Checks that a checkpoint holds every wanted tensor, in the wanted shape.

    Args:
        source: The checkpoint, for the message.
        saved: Tree whose leaves have a shape.
        wanted: Tree whose leaves have a shape.

    Raises:
        ConfigError: If a tensor is missing, surplus or of another shape; names them in one line.
    """
    have, want = named_leaves(saved), named_leaves(wanted)
    missing = [name for name in want if name not in have]
    surplus = [name for name in have if name not in want]
    misshapen = [
        f"{name} (saved {tuple(have[name].shape)}, wanted {tuple(want[name].shape)})"
        for name in want
        if name in have and tuple(have[name].shape) != tuple(want[name].shape)
    ]
    problems = [
        f"{len(names)} {kind}: {_shorten(names)}"
        for kind, names in (
            ("missing in the checkpoint", missing),
            ("not in the model", surplus),
            ("of another shape", misshapen),
        )
        if names
    ]
    if not problems:
        return
    hint = ""
    if all(name.startswith("opt_state") for name in missing + surplus + misshapen):
        hint = (
            "; only the optimizer's state differs: give this checkpoint as"
            " INITIAL_CHECKPOINT_PATH with a new MODEL_DIR to start a new optimizer"
        )
    raise ConfigError(f"{source}: tensors do not match the model: {'; '.join(problems)}{hint}")


def read_onto_devices(tensors: Mapping[str, LazyTensor], wanted: PyTree) -> PyTree:
    """Reads tensors straight into their placement; each process reads what its devices hold.

    Kernels that are wanted as `NF4` are quantised matrix by matrix while they are read: never more
    than one is in memory in floating point. Every process reads and quantises the whole of these,
    as one offset belongs to all magnitudes of a matrix.

    Args:
        tensors: By name, as `check_tree` has found them to be.
        wanted: Tree of `wanted_params`.

    Raises:
        ConfigError: If a number to be quantised is not finite.
    """

    def read(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if _is_quantised(leaf):
            return _quantised_on_devices(name, tensors[name], leaf)
        return _on_devices(tensors[name], leaf)

    return jax.tree_util.tree_map_with_path(read, wanted, is_leaf=_is_quantised)


def _quantised_on_devices(name: str, tensor: LazyTensor, wanted: NF4) -> NF4:
    arrays = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), wanted)
    for place in np.ndindex(*tensor.shape[:-2]):
        index = (*(slice(i, i + 1) for i in place), slice(None), slice(None))
        try:
            matrix = quantize(tensor.read(index).reshape(tensor.shape[-2:]))
        except ValueError as error:
            raise ConfigError(f"{name}: {error}, and cannot be quantised") from None
        jax.tree.map(lambda whole, part: whole.__setitem__(place, part), arrays, matrix)  # noqa: B023
    return jax.tree.map(
        lambda leaf, whole: jax.make_array_from_callback(
            leaf.shape, leaf.sharding, lambda index: whole[index]
        ),
        wanted,
        arrays,
    )


def _on_devices(tensor: LazyTensor, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Reads what this process's devices hold of a tensor, as one piece where that is no more."""
    indices = leaf.sharding.addressable_devices_indices_map(leaf.shape).values()
    distinct = {_bounds(index, leaf.shape) for index in indices}
    hull = tuple(
        (min(low for low, _ in axis), max(high for _, high in axis))
        for axis in zip(*distinct, strict=True)
    )
    pieces = {hull} if sum(map(_size, distinct)) >= _size(hull) else distinct
    read = {
        piece: tensor.read(tuple(slice(*ends) for ends in piece)).astype(leaf.dtype, copy=False)
        for piece in pieces
    }

    def part(index: Any) -> np.ndarray:
        bounds = _bounds(index, leaf.shape)
        if bounds in read:
            return read[bounds]
        offsets = zip(bounds, hull, strict=True)
        return read[hull][tuple(slice(a - start, b - start) for (a, b), (start, _) in offsets)]

    return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)


def _bounds(index: Index, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _size(bounds: tuple[tuple[int, int], ...]) -> int:
    return math.prod(high - low for low, high in bounds)


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:_MAX_NAMES])
    more = len(names) - _MAX_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
