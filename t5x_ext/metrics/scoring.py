"""Rows to statistics: which metrics there are, and what each counts on a predictions file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mixtures.task_metrics import DEFAULT_METRICS, metrics_of
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.catalogue import get_metric
from t5x_ext.metrics.counting import Count, statistics_of
from t5x_ext.metrics.metric import Metric
from t5x_ext.metrics.predictions import Prediction

METRICS = DEFAULT_METRICS


@dataclass(frozen=True)
class Column:
    """One metric's statistics.

    Attributes:
        metric: what was counted.
        places: [n] int, the rows that the metric applies to, ascending.
        statistics: [n, k] of these rows.
    """

    metric: Metric
    places: np.ndarray
    statistics: np.ndarray

    def part(self, places: np.ndarray) -> np.ndarray:
        """Statistics of those of the rows that the metric applies to."""
        return self.statistics[np.isin(self.places, places)]


@dataclass(frozen=True)
class Measured:
    """Rows of a predictions file and what the metrics count on them.

    Attributes:
        rows: with `score` filled in.
        columns: one per metric, in the order in which the tasks name them.
        units: [rows] int. Rows of equal number answer the same input, and are drawn together when
            an interval is computed: more answers to one input say little about other inputs.
    """

    rows: list[Prediction]
    columns: tuple[Column, ...]
    units: np.ndarray


def measure(
    rows: Iterable[Prediction],
    metrics: Sequence[str] | None = None,
    always: Sequence[str] = (),
    processes: int = 1,
) -> Measured:
    """Counts every metric on the rows; an earlier `score` is replaced.

    Args:
        rows: in file order, which some metrics depend on: GLEU draws references row by row, and
            edit scores choose the annotator that suits the rows so far.
        metrics: names for all rows; None takes those that each task names for itself.
        always: names to put before the task's own.
        processes: to share the work, at most; see `counting.statistics_of`.

    Raises:
        ConfigError: an unknown metric, or a row lacks a field that its metric needs.
    """
    rows = list(rows)
    by_task = _places_by_task(rows)
    named = {task: (*always, *(metrics or metrics_of(task))) for task in by_task}
    names = list(dict.fromkeys(name for task in by_task for name in named[task]))
    all_metrics = list(map(get_metric, names))
    parts_of = [
        [places for task, places in by_task.items() if metric.name in named[task]]
        for metric in all_metrics
    ]
    counts = [
        Count(metric, [rows[i] for i in places])
        for metric, parts in zip(all_metrics, parts_of, strict=True)
        for places in parts
    ]
    for count in counts:
        _check_fields(count.metric, count.rows)
    statistics = iter(statistics_of(counts, processes))
    columns = []
    for metric, parts in zip(all_metrics, parts_of, strict=True):
        places = np.concatenate(parts)
        found = np.concatenate([next(statistics) for _ in parts])
        order = np.argsort(places)
        columns.append(Column(metric, places[order], found[order]))
    return Measured(_with_scores(rows, columns), tuple(columns), _units(rows))


def score_rows(
    rows: Iterable[Prediction], metrics: Sequence[str] | None = None
) -> list[Prediction]:
    """The same rows in the same order with `score` filled in; see `measure`."""
    return measure(rows, metrics).rows


def score_text(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """`METRICS` of one prediction, 0..1, each the maximum over the references."""
    row = Prediction("", "", "", "", tuple(references), prediction)
    return measure([row], METRICS).rows[0].score or {}


def _places_by_task(rows: Sequence[Prediction]) -> dict[str, np.ndarray]:
    places: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        places.setdefault(row.task, []).append(i)
    return {task: np.array(found) for task, found in places.items()}


def _check_fields(metric: Metric, rows: Sequence[Prediction]) -> None:
    for field in metric.needs:
        lacking = next((row for row in rows if getattr(row, field) is None), None)
        if lacking is not None:
            how = " (--m2 FILE reads them)" if field == "edits" else ""
            raise ConfigError(
                f"metric '{metric.name}': task '{lacking.task}', id '{lacking.id}': field "
                f"'{field}': missing; allowed: predictions that carry {field}{how}"
            )


def _with_scores(rows: Sequence[Prediction], columns: Sequence[Column]) -> list[Prediction]:
    scores: list[dict[str, float]] = [{} for _ in rows]
    for column in columns:
        values = column.metric.finish_row(column.statistics)
        for i, value in zip(column.places, values.tolist(), strict=True):
            scores[i][column.metric.key] = value
    return [replace(row, score=score) for row, score in zip(rows, scores, strict=True)]


def _units(rows: Sequence[Prediction]) -> np.ndarray:
    """The row itself, or the first row of the task with the same source."""
    first: dict[tuple[str, str], int] = {}
    numbers = range(len(rows))
    return np.array(
        [
            i if row.source is None else first.setdefault((row.task, row.source), i)
            for i, row in zip(numbers, rows, strict=True)
        ]
    )
