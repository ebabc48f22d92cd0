"""Hashes of checkpoints: of their files, and of all their values."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from etils import epath

from t5x_ext.checkpoints import tensorstores
from t5x_ext.checkpoints.sources import LazyTensor

_BLOCK_BYTES = 8 << 20


def hash_files(paths: Iterable[epath.Path], directory: epath.Path) -> str:
    """Hashes every file's name, size and content.

    That reads all of them, at about 1 GB/s from a warm disk. The result is kept for the rest of
    the process, as long as no file changes its size or time.

    Args:
        paths: Files below `directory`, in any order.
        directory: What their names are relative to: a copy of it has the same hash.

    Returns:
        64 hexadecimal digits (SHA-256).
    """
    stats = ((path, path.stat()) for path in sorted(paths))
    return _hash_files(directory, tuple((path, stat.length, stat.mtime) for path, stat in stats))


@functools.lru_cache(maxsize=64)
def _hash_files(directory: epath.Path, files: tuple[tuple[epath.Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, size, _ in files:
        digest.update(f"{path.relative_to(directory)} {size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
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
