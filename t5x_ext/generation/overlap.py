"""Finds texts that are the same, or share many words in a row with evaluation rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mixtures.records import Row

WORDS_IN_A_ROW = 13


class Overlap(NamedTuple):
    """Words in a row that a text shares with an evaluation row.

    Attributes:
        task: of the evaluation row.
        id: of the evaluation row.
        words: those that both have, lower-cased; of several runs the one that fewest rows have.
        evaluation_text: the row's input or reference that has them.
        num_rows: evaluation rows that have them; boilerplate is in many, a copied text in one.
    """

    task: str
    id: str
    words: str
    evaluation_text: str
    num_rows: int


class EvaluationTexts:
    """The inputs and references of evaluation rows, by their words in a row.

    Instructions are left out: seeds share them on purpose.
    """

    def __init__(self, rows: Iterable[Row], size: int = WORDS_IN_A_ROW):
        """Reads the rows.

        Args:
            rows: those to protect.
            size: how many words in a row count as shared.
        """
        self._size = size
        self._texts: list[tuple[Row, str]] = []
        # By hash of the words: the place in _texts of the first text, and how many rows.
        self._first_with: dict[int, int] = {}
        self._num_with: Counter[int] = Counter()
        for row in rows:
            of_row = set()
            for text in (row.input, *row.references):
                found = {hash(words) for words in _in_a_row(text, size)}
                for key in found:
                    self._first_with.setdefault(key, len(self._texts))
                self._texts.append((row, text))
                of_row |= found
            self._num_with.update(of_row)

    def find(self, text: str) -> Overlap | None:
        """The overlap of a text with the rows, None without one."""
        shared = [words for words in _in_a_row(text, self._size) if hash(words) in self._num_with]
        if not shared:
            return None
        words = min(shared, key=lambda words: self._num_with[hash(words)])
        row, found = self._texts[self._first_with[hash(words)]]
        return Overlap(row.task, row.id, " ".join(words), found, self._num_with[hash(words)])


def rows_with(texts: Iterable[str], rows: Iterable[Row]) -> set[tuple[str, str]]:
    """(task, id) of the rows whose input or a reference shares 13 words in a row with a text.

    Args:
        texts: such as those that a model is tuned on.
        rows: to be looked through.
    """
    known = {hash(words) for text in texts for words in _in_a_row(text, WORDS_IN_A_ROW)}
    return {
        (row.task, row.id)
        for row in rows
        for text in (row.input, *row.references)
        if any(hash(words) in known for words in _in_a_row(text, WORDS_IN_A_ROW))
    }


def fold(text: str) -> str:
    """The text as it is compared: texts that differ in case or white space alone are the same."""
    return " ".join(text.casefold().split())


def _in_a_row(text: str, size: int) -> Iterator[tuple[str, ...]]:
    words: Sequence[str] = re.findall(r"\w+", text.casefold())
    for start in range(len(words) - size + 1):
        yield tuple(words[start : start + size])
