"""Reading arrays from a checkpoint into a wanted tree: names, shapes, dtypes and placement.

A *wanted* tree is the tree to be returned, with `jax.ShapeDtypeStruct` (or array) leaves whose
shardings say where each tensor goes; a checkpoint may have been written on any other number of
devices. Tensors are named by their path, e.g. `params/encoder/mlp/wi_0/kernel`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from t5x_ext.checkpoints import event_loops
from t5x_ext.errors import ConfigError

PyTree = Any

# float16 is refused: T5's activations overflow it, and there is no reason to prefer it on disk.
DTYPES = ("float32", "bfloat16")

_MAX_NAMES = 4  # tensors named per kind of mismatch; the rest are counted


@functools.cache
def orbax() -> ModuleType:
    """Imports Orbax at first use: it takes a second, which a config error must not wait for."""
    import orbax.checkpoint as ocp

    # Orbax logs through absl: dozens of lines a save, and warnings and errors about files it can
    # do without. What matters it raises. Other users of absl are not silenced.
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    event_loops.finish_before_closing()
    return ocp


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
    """The leaves of a tree by path, e.g. `{"params/embed": ..., "opt_state/0/count": ...}`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


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


def wanted_leaf(leaf: Any, dtype: str | None = None) -> jax.ShapeDtypeStruct:
    """Describes a tensor to restore; one without a sharding goes to the first local device."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=sharding)


def saved_tree(state_dir: Any) -> PyTree:
    """The tree of array descriptions (shape, dtype) in a checkpoint, without reading arrays.

    Raises:
        Exception: Of many kinds, if the checkpoint's own description is damaged.
    """
    ocp = orbax()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        metadata = reader.metadata(state_dir).item_metadata
    if metadata is None or not named_leaves(metadata.tree):
        raise ValueError("its list of tensors is missing")
    return metadata.tree


def check_tree(source: Any, saved: PyTree, wanted: PyTree) -> None:
    """Checks that a checkpoint holds every wanted tensor, in the wanted shape.

    Args:
        source: The checkpoint, for the message.
        saved: Tree whose leaves have a shape, as from `saved_tree`.
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


def restore_args(wanted: PyTree) -> Any:
    """Orbax's arguments for reading into `wanted`: each tensor in its dtype and placement."""
    ocp = orbax()
    return ocp.args.PyTreeRestore(
        wanted,
        restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
    )


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:_MAX_NAMES])
    more = len(names) - _MAX_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
