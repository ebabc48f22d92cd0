"""Hashes of checkpoints: of their files, without reading gigabytes, and of all their values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from etils import epath

from t5x_ext.checkpoints import tensorstores
from t5x_ext.checkpoints.sources import LazyTensor

_ENDS_HASHED = 1 << 20  # bytes at each end of a large file that enter its hash


def hash_files(paths: Iterable[epath.Path], directory: epath.Path, ends: int = _ENDS_HASHED) -> str:
    """Hashes every file's name and size, and its bytes near either end.

    Args:
        paths: Files below `directory`, in any order.
        directory: What their names are relative to: a copy of it has the same hash.
        ends: Bytes hashed at each end of a file.

    Returns:
        64 hexadecimal digits (SHA-256).
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().length
        digest.update(f"{path.relative_to(directory)} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(ends))
            if size > ends:
                file.seek(max(ends, size - ends))
                digest.update(file.read(ends))
    return digest.hexdigest()


def hash_tensors(tensors: Mapping[str, LazyTensor]) -> str:
    """Hashes every tensor's name, dtype, shape and values, in the order of the names.

    Returns:
        64 hexadecimal digits (SHA-256); for parameters, what `params.hash_params` gives.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        for index in tensorstores.slabs(tensor.shape, tensor.dtype.itemsize):
            digest.update(np.atleast_1d(tensor.read(index)).view(np.uint8).data)
    return digest.hexdigest()
