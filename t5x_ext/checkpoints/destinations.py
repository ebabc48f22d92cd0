"""A directory that is written completely or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from etils import epath

from t5x_ext import files
from t5x_ext.errors import ConfigError

_UNFINISHED = ".unfinished"


@contextmanager
def complete_or_absent(path: str) -> Iterator[epath.Path]:
    """Gives a temporary sibling of a directory that is renamed once everything is in it.

    On a bucket the rename copies: it is not atomic there, but it comes last, and an interrupted
    one leaves the `.unfinished` files behind.

    Args:
        path: Directory to create, local or `gs://`; must not exist.

    Yields:
        The directory to write into.

    Raises:
        ConfigError: If the path exists, or its parent directory cannot be written to.
    """
    final = files.absolute(path)
    if final.exists():
        raise ConfigError(f"{final}: already exists; nothing is written over, give another path")
    unfinished = final.parent / (final.name + _UNFINISHED)
    try:
        if unfinished.exists():  # of a run that was killed
            unfinished.rmtree()
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{final}: cannot be written: {error}") from None
    try:
        yield unfinished
        unfinished.rename(final)
    except BaseException:
        unfinished.rmtree(missing_ok=True)
        raise
