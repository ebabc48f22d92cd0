"""The one exception class for mistakes a user can correct."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration, checkpoint or command cannot be used as given.

    The message is one line: it names the file, field or flag at fault, its value and what is
    allowed. Commands print it as `error: ...` without a traceback and exit with status 1.
    """
