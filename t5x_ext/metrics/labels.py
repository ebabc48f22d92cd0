"""Accuracy of closed labels, and how many outputs are labels at all.

The labels of a task are those that its references hold. Texts are compared under Tk-Instruct's
normalisation, which keeps articles: "A" is an answer.

    label_accuracy    share of outputs that are a right label
    label_validity    share of outputs that are a label of the task, right or wrong
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t5x_ext.metrics.exact_match import normalise, score
from t5x_ext.metrics.metric import Metric, RowMean, mean_of, with_ones
from t5x_ext.metrics.predictions import Prediction


def label_accuracy() -> Metric:
    """Exact match under another name, for tables of label tasks."""
    return RowMean("label_accuracy", score)


class LabelValidity(Metric):
    """Share of outputs inside the task's label set."""

    name = key = "label_validity"

    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """(is a label, 1) of each row."""
        labels = {normalise(text) for row in rows for text in row.references}
        return with_ones(np.array([float(normalise(row.prediction) in labels) for row in rows]))

    def finish(self, totals: np.ndarray) -> np.ndarray:
        """Share of rows."""
        return mean_of(totals)
