"""Metrics on text: pure functions of a predictions file, without JAX or TensorFlow."""

from t5x_ext.metrics.aggregate import task_scores
from t5x_ext.metrics.catalogue import NAMES, get_metric
from t5x_ext.metrics.metric import Metric
from t5x_ext.metrics.predictions import (
    Answer,
    Prediction,
    PredictionLog,
    read_predictions,
    write_predictions,
)
from t5x_ext.metrics.scoring import METRICS, Measured, measure, score_rows, score_text

__all__ = [
    "METRICS",
    "NAMES",
    "Answer",
    "Measured",
    "Metric",
    "Prediction",
    "PredictionLog",
    "get_metric",
    "measure",
    "read_predictions",
    "score_rows",
    "score_text",
    "task_scores",
    "write_predictions",
]
