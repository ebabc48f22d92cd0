"""The one error that data can cause, and warnings about data that can still be used."""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Iterable

_logger = logging.getLogger("mixtures")


class DataError(ValueError):
    """A data file, a split list or a data setting is wrong.

    The message is one line that names the file, the field and what is allowed. What would end the
    line, in a name or a value, is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


def hint(name: str, allowed: Iterable[str], count: int = 1) -> str:
    """`; did you mean 'x'?` with the allowed names that are nearest to a wrong one, or ''.

    Args:
        name: what was written.
        allowed: the valid names.
        count: the most names to suggest.
    """
    near = difflib.get_close_matches(name, list(allowed), n=count)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def quoted(text: str) -> str:
    """A text from a file as a message shows it: on one line, in quotes, cut to 80 characters."""
    return f"{text if len(text) <= 80 else text[:77] + '...'!r}"


@functools.cache
def warn_once(message: str) -> None:
    """Logs one line, once a process: a command opens the same directories and tasks repeatedly."""
    _logger.warning(message)
