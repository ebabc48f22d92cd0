"""Scores of single predictions: the one place that says which metrics there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from t5x_ext.metrics import exact_match, rouge
from t5x_ext.metrics.predictions import Prediction

METRICS = ("rougeL", "rouge1", "exact_match")


def score_text(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """Every metric of one prediction, 0..1, each the maximum over the references."""
    rouge1, rouge_l = rouge.score(prediction, references)
    exact = exact_match.score(prediction, references)
    return {"rougeL": rouge_l, "rouge1": rouge1, "exact_match": exact}


def score_rows(rows: Iterable[Prediction]) -> list[Prediction]:
    """The same rows in the same order with `score` filled in; an earlier score is replaced."""
    return [replace(row, score=score_text(row.prediction, row.references)) for row in rows]
