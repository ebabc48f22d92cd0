"""The exception for mistakes a user can correct."""

from __future__ import annotations

import difflib
from collections.abc import Collection

_MAX_CHARACTERS = 1200


class ConfigError(ValueError):
    """A configuration, checkpoint or command cannot be used as given.

    The message is one line: it names the file, field or flag at fault, its value and what is
    allowed. Commands print it as `error: ...` without a traceback and exit with status 1.

    What the file, field or value has in it that would end the line is escaped, and the middle of a
    very long message left out.
    """

    def __init__(self, message: str) -> None:
        message = printable(message)
        if len(message) > _MAX_CHARACTERS:
            message = f"{message[: _MAX_CHARACTERS // 2]} ... {message[-_MAX_CHARACTERS // 2 :]}"
        super().__init__(message)


class TryAgain(ConfigError):
    """What another process has to make first is not there: later, the same command goes on.

    Commands exit with status 75 (EX_TEMPFAIL), which schedulers can be told to queue again.
    """


def amount(number: int, unit: str) -> str:
    """'1 cell', '2 cells', '1,200 cells'; `unit` is in the singular."""
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """The text with what a terminal would obey or cannot show escaped: 'a\\x1b[2Jb', 'a\\nb'."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def nearest(name: str, allowed: Collection[str]) -> str:
    """Says which allowed name is closest to a wrong one.

    Args:
        name: What was written.
        allowed: The valid names.

    Returns:
        `; did you mean 'x'?`, or a list of the valid names if none is close, or an empty string if
        there are none.
    """
    # At 0.6, difflib's default, gc_period would be eval_period.
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.75)
    if close:
        return f"; did you mean '{close[0]}'?"
    names = sorted(allowed)
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return f"; allowed: {shown}" if names else ""
