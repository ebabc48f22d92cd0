"""Hashes that tell one set of files from another without reading gigabytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from etils import epath

_ENDS_HASHED = 1 << 20  # bytes at each end of a large file that enter its hash


def hash_files(paths: Iterable[epath.Path], directory: epath.Path) -> str:
    """Hashes every file's name and size, and its bytes up to 1 MiB from either end.

    Args:
        paths: Files below `directory`, in any order.
        directory: What their names are relative to: a copy of it has the same hash.

    Returns:
        64 hexadecimal digits (SHA-256).
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().length
        digest.update(f"{path.relative_to(directory)} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_ENDS_HASHED))
            if size > _ENDS_HASHED:
                file.seek(max(_ENDS_HASHED, size - _ENDS_HASHED))
                digest.update(file.read(_ENDS_HASHED))
    return digest.hexdigest()
