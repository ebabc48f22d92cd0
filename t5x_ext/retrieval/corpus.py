"""A corpus: one passage a line, read where it lies.

    {"id": "ncbi-1307230", "title": "...", "text": "..."}

`title` may be absent; other fields are passed over. The file of a local corpus is mapped, so it may
be larger than memory.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mixtures.errors import DataError
from mixtures.jsonl import check_text, parse_object
from t5x_ext import files
from t5x_ext.errors import ConfigError

_ALLOWED = 'one object per line: {"id": ..., "title": ..., "text": ...}'
_PIECE = 1 << 24  # bytes hashed at a time
_SHORT = 1 << 12  # bytes of a passage; a file with room for a sample of these is read whole


class Passage(NamedTuple):
    """One passage of a corpus; `title` may be empty."""

    id: str
    title: str
    text: str

    @property
    def whole(self) -> str:
        """What is searched, and what a prompt shows: the title, then the text."""
        return f"{self.title}\n{self.text}" if self.title else self.text


class Corpus:
    """The passages of a JSONL file."""

    def __init__(self, path: files.StrPath):
        """Opens the file.

        Raises:
            ConfigError: it cannot be read, or is empty.
        """
        self.path = files.path(path, "corpus")
        if not files.is_remote(self.path) and files.is_file(self.path):
            files.refuse_endless(self.path)
            with open(self.path, "rb") as opened:
                # An empty file cannot be mapped.
                empty = not opened.read(1)
                self._content = b"" if empty else _map(opened.fileno())
        else:
            self._content = files.read_bytes(self.path)
        if not len(self._content):
            raise ConfigError(f"{self.path}: empty; allowed: {_ALLOWED}")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        digest = hashlib.sha256()
        for start in range(0, len(self._content), _PIECE):
            digest.update(self._content[start : start + _PIECE])
        return digest.hexdigest()

    def scan(self) -> Iterator[tuple[int, int, Passage]]:
        """Start, end (in bytes) and content of each passage, in the order of the file.

        Raises:
            ConfigError: a line is no passage, an id is used twice, or there is no passage.
        """
        hashes, lines = [], []
        start = number = 0
        while start < len(self._content):
            end = self._content.find(b"\n", start)
            end = len(self._content) if end < 0 else end
            number += 1
            if self._content[start:end].strip():
                passage = self._read(start, end, f"{self.path}: line {number}")
                hashes.append(hash(passage.id))
                lines.append(number)
                yield start, end, passage
            start = end + 1
        if not lines:
            raise ConfigError(f"{self.path}: holds no passage; allowed: {_ALLOWED}")
        self._refuse_repeated_ids(np.array(hashes, np.int64), np.array(lines))

    def sample(self, count: int) -> tuple[list[Passage], int]:
        """Some passages, and about how many there are, after a look at a part of the file.

        Args:
            count: how many at most, at equal distances in bytes; of a small corpus these are all.

        Raises:
            ConfigError: a line that was looked at is no passage, or there is none.
        """
        size = len(self._content)
        if size <= count * _SHORT:
            found = [passage for *_, passage in self.scan()]
            return found[:: -(-len(found) // count)], len(found)
        passages, seen, end = [], 0, 0
        for number in range(count):
            # The line after the one in the middle of which this byte is.
            start = self._content.find(b"\n", max(end, number * size // count)) + 1
            if not 0 < start < size:
                break
            end = self._content.find(b"\n", start)
            end = size if end < 0 else end
            if self._content[start:end].strip():
                passages.append(self._read(start, end, f"{self.path}: byte {start}"))
                seen += end + 1 - start
        if not passages:
            raise ConfigError(f"{self.path}: holds no passage; allowed: {_ALLOWED}")
        return passages, round(size * len(passages) / seen)

    def passage(self, start: int, end: int) -> Passage:
        """The passage that `scan` found at these bytes."""
        return self._read(start, end, f"{self.path}: byte {start}")

    def _read(self, start: int, end: int, where: str) -> Passage:
        try:
            value = {"title": "", **parse_object(self._content[start:end], where, _ALLOWED)}
            name, title, text = (
                check_text(where, field, value.get(field), field == "title", _ALLOWED)
                for field in ("id", "title", "text")
            )
        except DataError as error:
            raise ConfigError(str(error)) from None
        return Passage(name, title.strip(), text.strip())

    def _refuse_repeated_ids(self, hashes: np.ndarray, lines: np.ndarray) -> None:
        """By hashes: the ids of 30 million passages would take gigabytes."""
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        if len(same):
            first, second = sorted(lines[order[same[0] : same[0] + 2]].tolist())
            raise ConfigError(
                f"{self.path}: line {second} has the id of line {first}; allowed: an id used once"
            )


def _map(descriptor: int) -> mmap.mmap:
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
