"""What a metric is: statistics of each prediction that add up, and a score of their sum.

    statistics(rows) -> [rows, k]        finish(sum over rows -> [k]) -> score, 0..1

A mean over rows has the statistics (value, 1) and finishes by dividing. A corpus metric such as
SARI or F0.5 counts, and finishes with a formula. Scores of a corpus, a task, a category or a
bootstrap sample are then the same two steps on different rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from t5x_ext.metrics.predictions import Prediction


class Metric(ABC):
    """One way to score predictions.

    Attributes:
        name: what `--metrics` and tasks call it.
        key: the name with the variant behind the number, such as `sari[easse,13a,lower]`. Columns
            and files use it, so that numbers which cannot be compared never share a name.
        needs: fields that a prediction must carry besides its references: `source`, `edits`,
            `finish`.
    """

    name: str
    key: str
    needs: tuple[str, ...] = ()

    @abstractmethod
    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """Statistics of the rows of one task, in file order -> [rows, k] float."""

    @abstractmethod
    def finish(self, totals: np.ndarray) -> np.ndarray:
        """Scores of summed statistics: [..., k] -> [...], 0..1."""

    def finish_row(self, statistics: np.ndarray) -> np.ndarray:
        """Scores of single rows, [rows, k] -> [rows]."""
        return self.finish(statistics)

    @property
    def variant(self) -> str:
        """What the key's brackets say in a sentence, or '' for a metric with one variant."""
        return ""


class RowMean(Metric):
    """The mean over rows of a score that each row has by itself."""

    def __init__(
        self,
        name: str,
        score: Callable[[str, Sequence[str]], float],
        key: str = "",
        variant: str = "",
    ):
        """Takes `score(prediction, references)` -> 0..1."""
        self.name, self.key = name, key or name
        self._score, self._variant = score, variant

    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """(value, 1) of each row."""
        values = [self._score(row.prediction, row.references) for row in rows]
        return with_ones(np.array(values))

    def finish(self, totals: np.ndarray) -> np.ndarray:
        """Sum of the values over the number of rows."""
        return mean_of(totals)

    @property
    def variant(self) -> str:
        """See `Metric`."""
        return self._variant


def with_ones(values: np.ndarray) -> np.ndarray:
    """[n] values -> [n, 2] statistics that `mean_of` finishes."""
    return np.stack([values, np.ones(len(values))], axis=1)


def mean_of(totals: np.ndarray) -> np.ndarray:
    """[..., 2] sums of values and counts -> [...] means."""
    return totals[..., 0] / totals[..., 1]


def ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float = 0.0) -> np.ndarray:
    """`numerator / denominator`, and `empty` where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    result = np.full(denominator.shape, empty)
    return np.divide(numerator, denominator, out=result, where=denominator != 0)


def f_score(
    hits: np.ndarray, found: np.ndarray, wanted: np.ndarray, beta: float = 1.0, empty: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F of counts; `empty` is the precision (recall) of 0 found (wanted)."""
    precision, recall = ratio(hits, found, empty), ratio(hits, wanted, empty)
    square = beta * beta
    return precision, recall, ratio((1 + square) * precision * recall, square * precision + recall)
