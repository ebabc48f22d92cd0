"""Precision, recall and F1 of sets of (surface, type) pairs, such as named entities.

Answers list entities with their types in angle brackets:

    cells <Anatomy>, right eye <Anatomy>  ->  {("cells", "anatomy"), ("right eye", "anatomy")}

An answer without brackets is a list at commas, of items without type. Order and repetition count
for nothing. Of several references the one with the best F1 is taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from t5x_ext.metrics.exact_match import normalise
from t5x_ext.metrics.metric import Metric, f_score
from t5x_ext.metrics.predictions import Prediction

_TYPED = re.compile(r"([^<>]*)<([^<>]*)>")
_PARTS = ("precision", "recall", "f1")

Pair = tuple[str, str]


class PairScore(Metric):
    """One of precision, recall and F1, of counts over the corpus."""

    def __init__(self, part: Literal["precision", "recall", "f1"]):
        """Takes which of the three to report."""
        self._part = _PARTS.index(part)
        self.name = self.key = f"pairs_{part}"

    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """(pairs in common, pairs found, pairs wanted) of each row."""
        return np.array([_counts(row) for row in rows], float)

    def finish(self, totals: np.ndarray) -> np.ndarray:
        """Of no pairs found (or wanted) the precision (or recall) is 1."""
        return f_score(totals[..., 0], totals[..., 1], totals[..., 2], empty=1.0)[self._part]


def parse_pairs(text: str) -> set[Pair]:
    """The (surface, type) pairs that a text lists, normalised; the type may be ''."""
    typed = _TYPED.findall(text) if "<" in text else []
    pairs = typed or [(item, "") for item in text.split(",")]
    found = {(normalise(surface), normalise(kind)) for surface, kind in pairs}
    return {pair for pair in found if pair[0]}


def _counts(row: Prediction) -> tuple[int, int, int]:
    found = parse_pairs(row.prediction)
    return max((_against(found, parse_pairs(text)) for text in row.references), key=_f1)


def _against(found: set[Pair], wanted: set[Pair]) -> tuple[int, int, int]:
    return len(found & wanted), len(found), len(wanted)


def _f1(counts: tuple[int, int, int]) -> float:
    common, found, wanted = counts
    return 2 * common / (found + wanted) if found + wanted else 1.0
