"""Directories of the local cache that take long to make, such as stores of examples.

Each is made once, next to its place, and moved there when it is whole. Of several processes that
share the cache one makes it, and the others wait.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from t5x_ext import files, locks


def directory(name: str) -> Path:
    """$T5X_EXT_CACHE/<name>, else ~/.cache/t5x_ext/<name>.

    Raises:
        ConfigError: The variable names no local path.
    """
    root = os.environ.get("T5X_EXT_CACHE") or "~/.cache/t5x_ext"
    return Path(files.local_path(root, "T5X_EXT_CACHE")) / name


def make_once(place: Path, finished: str, make: Callable[[Path], None]) -> None:
    """Makes a directory, unless it is there already: whole, or not at all.

    Args:
        place: Where it is to be.
        finished: A file that it has.
        make: Writes its files into the empty directory that it is given.

    Raises:
        ConfigError: Nothing can be written there.
    """
    if (place / finished).is_file():
        return
    with files.writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock, is_held = locks.hold(f"{place}.lock")
    with lock:
        if (place / finished).is_file():
            return
        for stale in place.parent.glob(f"{place.name}.unfinished-*") if is_held else ():
            shutil.rmtree(stale, ignore_errors=True)  # its process was killed
        with files.writing(place):
            unfinished = tempfile.mkdtemp(prefix=f"{place.name}.unfinished-", dir=place.parent)
        try:
            make(Path(unfinished))
            with files.writing(place):
                _move(unfinished, place, finished)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _move(unfinished: str, place: Path, finished: str) -> None:
    try:
        os.rename(unfinished, place)
    except OSError:
        # On a disk without locks another process may have made it meanwhile.
        if not (place / finished).is_file():
            raise
