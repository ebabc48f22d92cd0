"""Metrics on text: pure functions of a predictions file, without JAX or TensorFlow."""

from t5x_ext.metrics.aggregate import task_scores
from t5x_ext.metrics.predictions import (
    Prediction,
    PredictionLog,
    read_predictions,
    write_predictions,
)
from t5x_ext.metrics.scoring import METRICS, score_rows, score_text

__all__ = [
    "METRICS",
    "Prediction",
    "PredictionLog",
    "read_predictions",
    "score_rows",
    "score_text",
    "task_scores",
    "write_predictions",
]
