"""MessagePack as `flax.serialization` writes trees of arrays; the format is T5X's, Flax is not
needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

# flax.serialization's extension types.
_ARRAY, _SCALAR = 1, 3
# Arrays above 1 GiB are cut into a dict with this key.
_CHUNKED = "__msgpack_chunked_array__"


def decode(raw: bytes) -> Any:
    """Reads a tree of dicts with arrays, numbers and strings as leaves.

    Raises:
        ValueError: If the bytes are not of this format, or are cut off.
    """
    try:
        return msgpack.unpackb(raw, ext_hook=_unpack, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"not MessagePack, or cut off: {error}") from None


def encode(tree: Any) -> bytes:
    """Writes a tree of dicts with arrays (below 1 GiB), numbers and strings as leaves."""
    return msgpack.packb(tree, default=_pack, strict_types=True)


def named_leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a tree by path; a TensorStore spec is a leaf, None is none."""
    if isinstance(tree, dict) and _CHUNKED in tree:
        yield name, _join(tree)
    elif isinstance(tree, dict) and "kvstore" not in tree:
        for key, node in tree.items():
            yield from named_leaves(node, f"{name}/{key}" if name else key)
    elif tree is not None:
        yield name, tree


def _pack(leaf: Any) -> msgpack.ExtType:
    if not isinstance(leaf, np.ndarray | np.generic):
        raise TypeError(f"cannot be written: {type(leaf).__name__}")
    array = np.asarray(leaf)
    kind = _SCALAR if isinstance(leaf, np.generic) else _ARRAY
    content = (array.shape, array.dtype.name, array.tobytes("C"))
    return msgpack.ExtType(kind, msgpack.packb(content, use_bin_type=True))


def _unpack(kind: int, data: bytes) -> Any:
    if kind not in (_ARRAY, _SCALAR):
        raise ValueError(f"extension type {kind} is unknown")
    shape, name, content = msgpack.unpackb(data)
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    array = np.frombuffer(content, dtype).reshape(shape)
    return array[()] if kind == _SCALAR else array


def _join(cut: dict[str, Any]) -> np.ndarray:
    """Parts and shape are dicts keyed '0', '1', ...; the parts are flat."""
    shape, parts = cut["shape"], cut["chunks"]
    flat = np.concatenate([parts[str(i)] for i in range(len(parts))])
    return flat.reshape([shape[str(i)] for i in range(len(shape))])
