"""The one error that data can cause."""

from __future__ import annotations


class DataError(ValueError):
    """A data file, a split list or a data setting is wrong.

    The message is one line that names the file, the field and what is allowed.
    """
