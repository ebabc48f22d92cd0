"""What outputs look like, whatever their score: most differences in scores begin here.

unchanged    share of outputs that repeat their source, up to tokenisation
empty        share of outputs without text
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from t5x_ext.metrics.metric import Metric, mean_of, with_ones
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.metrics.tokens import letters


class Share(Metric):
    """Share of rows of which something holds."""

    def __init__(self, name: str, holds: Callable[[Prediction], bool], needs: tuple[str, ...] = ()):
        """Takes what to ask of a row, and the fields it needs for that."""
        self.name = self.key = name
        self.needs = needs
        self._holds = holds

    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """(holds, 1) of each row."""
        return with_ones(np.array([float(self._holds(row)) for row in rows]))

    def finish(self, totals: np.ndarray) -> np.ndarray:
        """Share of rows."""
        return mean_of(totals)


def unchanged() -> Metric:
    """Outputs equal to their source; white space and the form of quotation marks do not count."""
    return Share(
        "unchanged", lambda row: letters(row.prediction) == letters(row.source or ""), ("source",)
    )


def empty() -> Metric:
    """Outputs without text."""
    return Share("empty", lambda row: not row.prediction.strip())
