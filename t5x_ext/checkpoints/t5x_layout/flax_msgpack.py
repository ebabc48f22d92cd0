"""The index of a T5X checkpoint: a tree of arrays and specs as `flax.serialization` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack


def decode(raw: bytes) -> Any:
    """Reads a tree of dicts with arrays, numbers and strings as leaves.

    Raises:
        ValueError: If the bytes are not of this format, or are cut off.
    """
    from flax import serialization  # slow: only where such a checkpoint is read

    try:
        return serialization.msgpack_restore(raw)
    except (ValueError, TypeError, AttributeError, KeyError, msgpack.UnpackException) as error:
        raise ValueError(f"not MessagePack, or cut off: {error}") from None


def encode(tree: Any) -> bytes:
    """Writes a tree of dicts with arrays, numbers and strings as leaves."""
    from flax import serialization

    return serialization.msgpack_serialize(tree)


def named_leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a tree by path; a TensorStore spec is a leaf, None is none."""
    if isinstance(tree, dict) and "kvstore" not in tree:
        for key, node in tree.items():
            yield from named_leaves(node, f"{name}/{key}" if name else key)
    elif tree is not None:
        yield name, tree
