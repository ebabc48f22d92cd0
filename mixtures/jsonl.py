"""JSON Lines: one object a line; lines that are blank are passed over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mixtures import files
from mixtures.errors import DataError
from mixtures.files import StrPath
from mixtures.records import numbered_lines, parse_json_text

ONE_PER_LINE = "one object per line"


def read_objects(
    path: StrPath, allowed: str = ONE_PER_LINE
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, object) of each line, as they are asked for.

    Args:
        path: the file.
        allowed: what should be there, for messages.

    Raises:
        DataError: the file cannot be read, or a line is wrong; see `parse_object`.
    """
    path = files.path(path, "data file")
    for number, line in numbered_lines(path):
        if line.strip():
            where = f"{path}: line {number}"
            yield where, parse_object(line, where, allowed)


def parse_object(line: str | bytes, where: str, allowed: str = ONE_PER_LINE) -> dict[str, Any]:
    """The object of one line.

    Args:
        line: JSON, in UTF-8 where it is bytes.
        where: file and line, for messages.
        allowed: what should be there, for messages.

    Raises:
        DataError: it is not UTF-8, not JSON or not an object; a key is repeated; or a text cannot
            be written as UTF-8.
    """
    if isinstance(line, bytes):
        try:
            line = line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 ({error.reason}); allowed: {allowed}") from None
    value = parse_json_text(line, where, allowed)
    if not isinstance(value, dict):
        raise DataError(f"{where}: not an object; allowed: {allowed}")
    return value


def check_text(
    where: str, field: str, value: Any, may_be_blank: bool = True, allowed: str = "text"
) -> str:
    """The value of a field that holds a text.

    Args:
        where: file and line, for the message.
        field: its name.
        value: None where the field is missing.
        may_be_blank: whether it may be empty or white space.
        allowed: what should be there, for the message.

    Raises:
        DataError: it is not a text, or blank and must not be.
    """
    if not isinstance(value, str) or not (may_be_blank or value.strip()):
        raise wrong_field(where, field, value, allowed)
    return value


def is_texts(value: Any) -> bool:
    """Whether a value is a list of texts."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and all(isinstance(text, str) for text in value)


def wrong_field(where: str, field: str, value: Any, allowed: str) -> DataError:
    """The error for a field's value; None says that it is missing."""
    problem = "missing" if value is None else f"{value!r:.60}"
    return DataError(f"{where}: field '{field}': {problem}; allowed: {allowed}")
