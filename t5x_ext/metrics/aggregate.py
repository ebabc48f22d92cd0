"""Means over scored predictions and bootstrap intervals.

Two overall means are in use and both are given: over instances (Tk-Instruct's evaluation) and over
tasks (the Quick Learners paper), where each task counts the same however many instances it has.
Scores leave this module as percent, 0..100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from t5x_ext.metrics.predictions import Prediction
from t5x_ext.metrics.scoring import METRICS

BOOTSTRAP_SAMPLES = 2000
LEVEL = 0.95
_CHUNK = 100  # resamples drawn at once: 100 x 11,810 indices are 9 MB


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile bootstrap interval at `LEVEL`; all three in the same unit."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """Scores of one task, one category or everything, in percent.

    `means` maps each metric to its mean over units (instances, or tasks); `n` counts the units.
    """

    name: str
    n: int
    means: dict[str, Interval]


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> Interval:
    """Mean of `values` and its interval when the values are drawn again with replacement.

    Args:
        values: [n] float, n >= 1.
        seed: of the resampling; the result is a pure function of (values, seed).
    """
    rng = np.random.default_rng(seed)
    n = len(values)
    means = [
        values[rng.integers(n, size=(_CHUNK, n))].mean(axis=1)
        for _ in range(BOOTSTRAP_SAMPLES // _CHUNK)
    ]
    low, high = percentile_bounds(np.concatenate(means))
    return Interval(float(values.mean()), low, high)


def percentile_bounds(samples: np.ndarray) -> tuple[float, float]:
    """The central `LEVEL` of bootstrap samples [n]; infinite samples are kept as they are."""
    tail = (1 - LEVEL) / 2
    # "nearest" never averages a finite value with an infinite one.
    low, high = np.quantile(samples, [tail, 1 - tail], method="nearest")
    return float(low), float(high)


def _group(name: str, values: dict[str, np.ndarray]) -> Group:
    n = len(next(iter(values.values())))
    means = {metric: bootstrap_interval(100 * column) for metric, column in values.items()}
    return Group(name, n, means)


def _columns(rows: Sequence[Prediction]) -> dict[str, np.ndarray]:
    scores = [row.score or {} for row in rows]  # of a row without a score, no metric is found
    return {metric: np.array([score[metric] for score in scores]) for metric in METRICS}


def _split(rows: Sequence[Prediction], field: str) -> dict[str, list[Prediction]]:
    groups: dict[str, list[Prediction]] = {}
    for row in rows:
        groups.setdefault(getattr(row, field), []).append(row)
    return groups


def over_instances(rows: Sequence[Prediction]) -> Group:
    """Mean over all instances; the interval resamples instances."""
    return _group("instances", _columns(rows))


def over_tasks(rows: Sequence[Prediction]) -> Group:
    """Mean over tasks of each task's mean; the interval resamples tasks."""
    columns = [_columns(task_rows) for task_rows in _split(rows, "task").values()]
    return _group("tasks", {m: np.array([column[m].mean() for column in columns]) for m in METRICS})


def by_field(rows: Sequence[Prediction], field: str) -> list[Group]:
    """Mean over the instances of each `task` or `category`, in order of first appearance."""
    return [_group(name, _columns(part)) for name, part in _split(rows, field).items()]


def task_scores(rows: Sequence[Prediction]) -> dict[str, dict[str, str | int | float]]:
    """What a study's result file holds: {task: {category, n, rougeL, rouge1, exact_match}}."""
    scores: dict[str, dict[str, str | int | float]] = {}
    for task, part in _split(rows, "task").items():
        means = {metric: 100 * float(column.mean()) for metric, column in _columns(part).items()}
        scores[task] = {"category": part[0].category, "n": len(part), **means}
    return scores
