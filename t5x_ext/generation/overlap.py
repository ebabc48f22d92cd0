"""Finds texts that share many words in a row with evaluation rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from t5x_ext.generation.records import EvaluationRow

WORDS_IN_A_ROW = 13


class Overlap(NamedTuple):
    """Words in a row that a text shares with an evaluation row.

    Attributes:
        task: of the evaluation row.
        id: of the evaluation row.
        words: the first words that both have, lower-cased.
        evaluation_text: the row's input or reference that has them.
    """

    task: str
    id: str
    words: str
    evaluation_text: str


class EvaluationTexts:
    """The inputs and references of evaluation rows, by their words in a row.

    Instructions are left out: seeds share them on purpose.
    """

    def __init__(self, rows: Iterable[EvaluationRow], size: int = WORDS_IN_A_ROW):
        """Reads the rows.

        Args:
            rows: those to protect.
            size: how many words in a row count as shared.
        """
        self._size = size
        self._texts: list[tuple[EvaluationRow, str]] = []
        self._first_with: dict[int, int] = {}  # hash of the words -> place in _texts
        for row in rows:
            for text in (row.input, *row.references):
                place = len(self._texts)
                self._texts.append((row, text))
                for words in _in_a_row(text, size):
                    self._first_with.setdefault(hash(words), place)

    def find(self, text: str) -> Overlap | None:
        """The first overlap of a text with any row, None without one."""
        for words in _in_a_row(text, self._size):
            place = self._first_with.get(hash(words))
            if place is not None:
                row, found = self._texts[place]
                return Overlap(row.task, row.id, " ".join(words), found)
        return None


def _in_a_row(text: str, size: int) -> Iterator[tuple[str, ...]]:
    words: Sequence[str] = re.findall(r"\w+", text.casefold())
    for start in range(len(words) - size + 1):
        yield tuple(words[start : start + size])
