"""Lines of text files, as data sets come in them."""

from __future__ import annotations

from mixtures import files
from mixtures.files import StrPath
from mixtures.records import read_utf8


def read_lines(path: StrPath) -> list[str]:
    """The lines of a file, without their ends.

    Only a line feed ends a line, with a carriage return before it or not: other characters that
    Unicode counts as line breaks occur inside of sentences. The last line may lack its end.

    Raises:
        DataError: the file cannot be read or is not UTF-8.
    """
    text = read_utf8(files.path(path, "data file"))
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines
