"""A directory that is written completely or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from etils import epath

from t5x_ext import files
from t5x_ext.errors import ConfigError

Check = Callable[[epath.Path], object]


def unchecked(directory: epath.Path) -> None:
    """The check that takes what was written as it is."""


@contextmanager
def complete_or_absent(path: str) -> Iterator[epath.Path]:
    """Gives a temporary sibling of a directory that is renamed once everything is in it.

    The sibling's name, `<name>.<random>.unfinished`, is nobody else's: several may write to one
    path, and the first that is done has it. One that is killed leaves its sibling behind.

    On a bucket the rename copies: it is not atomic there, but it comes last.

    Args:
        path: Directory to create, local or `gs://`; must not exist.

    Yields:
        The directory to write into.

    Raises:
        ConfigError: If the path exists, before or afterwards, or its parent directory cannot be
            written to.
    """
    final = files.absolute(path)
    _check_absent(final)
    unfinished = final.parent / f"{final.name}.{secrets.token_hex(4)}.unfinished"
    try:
        unfinished.mkdir(parents=True, exist_ok=False)
    except OSError as error:
        raise ConfigError(f"{final}: cannot be written: {error}") from None
    try:
        yield unfinished
        _check_absent(final)
        unfinished.rename(final)
    except BaseException:
        unfinished.rmtree(missing_ok=True)
        raise


def _check_absent(final: epath.Path) -> None:
    if final.exists():
        raise ConfigError(f"{final}: already exists and is not overwritten; give another path")
    if os.path.islink(final):
        raise ConfigError(f"{final}: a link to nothing; allowed: a path that does not exist")
