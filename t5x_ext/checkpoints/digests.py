"""Hashes that tell one set of files from another without reading gigabytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from etils import epath

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
