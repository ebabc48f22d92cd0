"""Scores of a predictions file: over everything, by task, by category, and against another file.

Two overall scores are in use and both are given: over instances (Tk-Instruct's evaluation; for a
corpus metric, all rows as one corpus) and over tasks (the Quick Learners paper), where each task
counts the same however many instances it has. Scores leave this module as percent, 0..100.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from t5x_ext.errors import ConfigError
from t5x_ext.metrics import resampling
from t5x_ext.metrics.metric import mean_of, with_ones
from t5x_ext.metrics.resampling import Interval, mean_interval
from t5x_ext.metrics.scoring import Column, Measured


@dataclass(frozen=True)
class Group:
    """Scores of one task, one category or everything, in percent.

    `means` maps each metric's key to its score; a metric that no row of the group has is left out.
    `n` counts instances, or tasks.
    """

    name: str
    n: int
    means: dict[str, Interval]


def over_instances(measured: Measured) -> Group:
    """Scores of all instances together; the intervals resample instances."""
    return _group("instances", measured, np.arange(len(measured.rows)))


def over_tasks(measured: Measured) -> Group:
    """Mean over tasks of each task's score; the intervals resample tasks."""
    places = _split(measured, "task")
    means = {}
    for column in measured.columns:
        scores = _scores_of(column, places)
        means[column.metric.key] = mean_interval(np.array(list(scores.values())))
    return Group("tasks", len(places), means)


def by_field(measured: Measured, field: str) -> list[Group]:
    """Scores of each `task` or `category`, in order of first appearance."""
    groups = _split(measured, field)
    return [_group(name, measured, places) for name, places in groups.items()]


def task_scores(measured: Measured) -> dict[str, dict[str, str | int | float]]:
    """What a study's result file holds: {task: {category, n, metric: score, ...}}."""
    places = _split(measured, "task")
    scores: dict[str, dict[str, str | int | float]] = {
        task: {"category": measured.rows[rows[0]].category, "n": len(rows)}
        for task, rows in places.items()
    }
    for column in measured.columns:
        for task, score in _scores_of(column, places).items():
            scores[task][column.metric.key] = score
    return scores


def differences(first: Measured, second: Measured) -> list[Group]:
    """How much higher the first file scores than the second: over instances and over tasks.

    The rows are drawn in pairs, so the intervals are those of the difference and mostly far
    narrower than the two files' own. Over tasks, tasks are drawn.

    Raises:
        ConfigError: the files differ in their instances or metrics.
    """
    _check_same(first, second)
    places = _split(first, "task")
    instances, tasks = {}, {}
    for mine, other in zip(first.columns, second.columns, strict=True):
        key = mine.metric.key
        units = first.units[mine.places]
        found = resampling.difference_interval(
            resampling.sum_units(mine.statistics, units),
            resampling.sum_units(other.statistics, units),
            mine.metric.finish,
        )
        instances[key] = _percent(found)
        one, two = (np.array(list(_scores_of(each, places).values())) for each in (mine, other))
        tasks[key] = resampling.difference_interval(with_ones(one), with_ones(two), mean_of)
    return [
        Group("instances", len(first.rows), instances),
        Group("tasks", len(places), tasks),
    ]


def _check_same(first: Measured, second: Measured) -> None:
    if len(first.rows) != len(second.rows):
        raise ConfigError(
            f"--compare: {len(second.rows)} predictions beside {len(first.rows)}; "
            "allowed: predictions of the same instances"
        )
    for number, (one, other) in enumerate(zip(first.rows, second.rows, strict=True), start=1):
        for field in ("task", "id", "source", "references"):
            if getattr(one, field) != getattr(other, field):
                raise ConfigError(
                    f"--compare: prediction {number}: field '{field}' differs: "
                    f"{str(getattr(one, field))[:60]!r} and {str(getattr(other, field))[:60]!r}; "
                    "allowed: predictions of the same instances in the same order"
                )
    keys = [[column.metric.key for column in each.columns] for each in (first, second)]
    if keys[0] != keys[1]:
        raise ConfigError(f"--compare: metrics {keys[1]} beside {keys[0]}; allowed: the same")


def _split(measured: Measured, field: str) -> dict[str, np.ndarray]:
    """The rows of each value of a field, in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(measured.rows):
        groups.setdefault(getattr(row, field), []).append(place)
    return {name: np.array(places) for name, places in groups.items()}


def _group(name: str, measured: Measured, places: np.ndarray) -> Group:
    means = {}
    for column in measured.columns:
        own = column.part(places)
        if len(own):
            units = measured.units[np.intersect1d(column.places, places)]
            statistics = resampling.sum_units(own, units)
            found = resampling.interval(statistics, column.metric.finish)
            means[column.metric.key] = _percent(found)
    return Group(name, len(places), means)


def _scores_of(column: Column, groups: dict[str, np.ndarray]) -> dict[str, float]:
    """Percent of each group of rows that the metric applies to."""
    parts = {name: column.part(places) for name, places in groups.items()}
    finish = column.metric.finish
    return {
        name: 100 * float(finish(resampling.total(part)))
        for name, part in parts.items()
        if len(part)
    }


def _percent(interval: Interval) -> Interval:
    return Interval(100 * interval.mean, 100 * interval.low, 100 * interval.high)
