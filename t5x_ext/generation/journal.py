"""Append-only JSONL from which a killed run resumes.

A process may die at any byte. What is then left of a line is cut away when the file is opened
again; every line before it stays.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from mixtures.errors import DataError
from mixtures.jsonl import parse_object
from t5x_ext import files
from t5x_ext.errors import ConfigError
from t5x_ext.locks import DirectoryLock
from t5x_ext.terminal import note

Record = dict[str, Any]

# What a run may do whose settings differ from those of the run before; see `check_same`.
BEGUN_WITH = "the weights, dtype and settings that the file was begun with, or another directory"


@contextlib.contextmanager
def only_run(directory: epath.Path) -> Iterator[None]:
    """Keeps a directory on a local disk from a second run while its body runs.

    Raises:
        ConfigError: another run has it, or it cannot be written.
    """
    lock = DirectoryLock(directory, "directory")
    try:
        yield
    finally:
        lock.release()


class Journal:
    """A file of JSON objects, one a line.

    Attributes:
        path: the file's.
        records: those that it holds, in order.
    """

    def __init__(self, path: files.StrPath):
        """Opens the file, or makes it.

        Raises:
            ConfigError: it cannot be read or written, or has a line that is not a JSON object; an
                incomplete last line is not an error.
        """
        self.path = files.path(path)
        self.records: list[Record] = []

        def take(content: bytes) -> bytes:
            self.records, kept = _sound_part(content, self.path)
            return kept

        with files.writing(self.path):
            self._file = files.GrowingFile(self.path, take)

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds one record; see `GrowingFile` for when it is safe.

        Raises:
            ConfigError: it cannot be written.
        """
        self.records.append(dict(record))
        with files.writing(self.path):
            self._file.append(_line(record))

    def close(self) -> None:
        """Writes what is left."""
        with files.writing(self.path):
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Replayed:
    """A journal whose records follow from others, so that a resumed run makes them again.

    Records that are there already are compared with what is put, and the rest is appended.
    """

    def __init__(self, path: files.StrPath, source: str):
        """Opens the file; see `Journal`.

        Args:
            path: the file's.
            source: name of the file that the records follow from, for messages.
        """
        self._journal = Journal(path)
        self._source = source
        self.old = tuple(self._journal.records)  # those that it held when it was opened
        self.count = 0  # records that were put

    def put(self, record: Mapping[str, Any]) -> None:
        """Puts the next record.

        Raises:
            ConfigError: the file has another one in its place.
        """
        self.count += 1
        if self.count > len(self.old):
            self._journal.append(record)
        elif as_read(record) != self.old[self.count - 1]:
            raise self._differs(self.count)

    def close(self) -> None:
        """Writes what is left."""
        self._journal.close()

    def finish(self) -> None:
        """To be called after the last record.

        Raises:
            ConfigError: the file has more records than were put.
        """
        if self.count < len(self.old):
            raise self._differs(self.count + 1)

    def _differs(self, number: int) -> ConfigError:
        return ConfigError(
            f"{self._journal.path}: line {number} is not what {self._source} gives under these "
            "settings; allowed: the settings that the file was begun with, or delete the file, "
            "and it is written again"
        )


def read_records(path: files.StrPath) -> list[Record]:
    """The records of a journal that another stage has written.

    Raises:
        ConfigError: the file cannot be read or a line is wrong; an incomplete last line is left
            out.
    """
    return _sound_part(files.read_bytes(files.path(path)), path)[0]


def check_texts(where: str, record: Mapping[str, Any], fields: Sequence[str]) -> None:
    """Refuses a record, perhaps edited by hand, that lacks a text.

    Raises:
        ConfigError: names the field.
    """
    for field in fields:
        if not isinstance(record.get(field), str):
            raise ConfigError(f"{where}: field '{field}': not a text")


def check_same(
    where: str, record: Mapping[str, Any], expected: Mapping[str, Any], allowed: str
) -> None:
    """Refuses a record that an earlier run wrote under other settings.

    Args:
        where: the file and line, for the message.
        record: what is there.
        expected: fields that this run would give it; those of an inner object are compared singly.
        allowed: what may be done about it.

    Raises:
        ConfigError: names the field that differs, and both values.
    """
    for field, value in expected.items():
        old = record.get(field)
        if isinstance(old, dict) and isinstance(value, dict):
            had, has = (
                {f"{field}.{name}": each for name, each in of.items()} for of in (old, value)
            )
            check_same(where, had, has, allowed)
        elif old != value:
            before, now = _apart(old, value)
            raise ConfigError(
                f"{where}: field '{field}': {before}, but this run has {now}; allowed: {allowed}"
            )


def _apart(*values: Any) -> list[str]:
    """Values as a message has them: of long ones the part where they begin to differ."""
    texts = list(map(repr, values))
    first = max(0, len(os.path.commonprefix(texts)) - 20)
    if max(map(len, texts)) <= 60:
        return texts
    return [f"{'...' * bool(first)}{text[first : first + 60]}" for text in texts]


def _sound_part(content: bytes, path: files.StrPath) -> tuple[list[Record], bytes]:
    """The records of a file, and its content without an incomplete last line."""
    *whole, last = content.split(b"\n")
    records = [
        _parse(line, f"{path}: line {number}")
        for number, line in enumerate(whole, start=1)
        if line.strip()
    ]
    kept = content[: len(content) - len(last)]
    if not last.strip():
        return records, kept
    try:
        # Complete but for its line end, as an editor may leave it.
        return [*records, _parse(last, "")], content + b"\n"
    except ConfigError:
        note(f"{path}: line {len(whole) + 1} is incomplete and is written again")
        return records, kept


def as_read(record: Mapping[str, Any]) -> Record:
    """A record as it is read again once it is written."""
    return json.loads(_line(record))


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _parse(line: bytes, where: str) -> Record:
    try:
        return parse_object(line, where, "a JSON object")
    except DataError as error:
        raise ConfigError(str(error)) from None
