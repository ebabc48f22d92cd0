"""Scores by number of demonstrations: 0-shot, 1-shot, 5-shot, and the worst, mean and best of them.

For studies whose datasets are sets of `self.*` names, each asked after several numbers of
demonstrations. Worst and best are taken set by set, as in the paper of self-specialization.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from t5x_ext.generation.scores import OVER_SHOTS
from t5x_ext.metrics.resampling import Interval, percentile_bounds
from t5x_ext.reports.datasets.scores import DatasetScores, Row, set_and_shots
from t5x_ext.reports.datasets.tables import (
    ROWS_TITLE,
    difference_text,
    interval_lines,
    mean_text,
    means_of,
    metric_title,
    rows_used,
    strongest,
)
from t5x_ext.reports.documents.document import Table

SET_BY_SET = "Worst, mean and best are over the numbers of demonstrations, set by set."
# What explains F1, where datasets have it; each is a column of the second table.
_FURTHER = (
    "rougeL",
    "f1_box",
    "pairs_precision",
    "pairs_recall",
    "pairs_f1",
    "label_accuracy",
    "label_validity",
    "squad_em",
)


@dataclass(frozen=True)
class Shots:
    """One metric's columns.

    Attributes:
        columns: number of demonstrations -> a column of `DatasetScores` for each set, sets in one
            order.
    """

    columns: Mapping[int, tuple[int, ...]]

    @property
    def num_sets(self) -> int:
        """Sets that have the metric with each number of demonstrations."""
        return len(next(iter(self.columns.values())))

    def over(self, row: Row, how: str) -> Interval | None:
        """The worst, mean or best over demonstrations, set by set, on the mean over sets."""
        if not all(row.has(places) for places in self.columns.values()):
            return None
        places, reduce = np.array(list(self.columns.values())), OVER_SHOTS[how]  # [shots, sets]
        draws = reduce(row.draws[:, places], axis=1).mean(axis=1)
        return Interval(float(reduce(row.values[places], axis=0).mean()), *percentile_bounds(draws))

    def interval(self, row: Row, measure: str) -> Interval | None:
        """The mean over sets with a number of demonstrations, 'k5', or over these, 'worst'."""
        if measure in OVER_SHOTS:
            return self.over(row, measure)
        return row.interval(self.columns.get(int(measure.removeprefix("k")), ()))


def count_text(sets: int) -> str:
    """`"1 set"`, `"6 sets"`."""
    return f"{sets} set" if sets == 1 else f"{sets} sets"


def find_shots(scores: DatasetScores, metric: str = "f1") -> Shots | None:
    """The columns of a metric by demonstrations; None if its datasets are no such sets."""
    found: dict[int, dict[str, int]] = {}
    for place, column in enumerate(scores.columns):
        parsed = set_and_shots(column.task)
        if column.metric.name == metric and parsed:
            found.setdefault(parsed[1], {})[parsed[0]] = place
    common = [
        s for s in next(iter(found.values()), {}) if all(s in each for each in found.values())
    ]
    if not common:
        return None
    return Shots({k: tuple(found[k][name] for name in common) for k in sorted(found)})


def shots_table(scores: DatasetScores, shots: Shots, clean: DatasetScores | None) -> Table:
    """F1 of every arm and bound with each number of demonstrations, and over them.

    Args:
        scores: of all test inputs.
        shots: of F1.
        clean: without those that share words with what models wrote; None where there are none.
    """
    over = tuple(OVER_SHOTS) if len(shots.columns) > 1 else ()
    measures = [*(f"k{k}" for k in shots.columns), *over]
    without = {row.label + row.budget: row for row in clean.rows} if clean else {}
    clean_shots = find_shots(clean) if clean else None
    rows, means = [], []
    for row in (*scores.rows, *scores.bounds):
        intervals = [shots.interval(row, measure) for measure in measures]
        means.append([found.mean if found else math.nan for found in intervals])
        cells = [row.label, rows_used(row), *map(interval_lines, intervals)]
        if clean_shots:
            own = without.get(row.label + row.budget)
            cells.append(interval_lines(clean_shots.over(own, "mean")) if own else "")
        rows.append(tuple(cells))
    return Table(
        "F1 by number of demonstrations",
        (
            "model",
            ROWS_TITLE,
            *(f"{k}-shot" for k in shots.columns),
            *over,
            *(("mean without flagged rows",) if clean_shots else ()),
        ),
        tuple(rows),
        note=f"Percent, mean over {count_text(shots.num_sets)}; in brackets 95% bootstrap "
        "intervals over test inputs, and over seeds where there are several. The highest of each "
        "column is bold."
        + f" {SET_BY_SET}" * bool(over)
        + " Flagged: test inputs that share 13 words in a row with what models wrote."
        * bool(clean_shots),
        strong_cells=strongest(means[: len(scores.rows)], before=2),
    )


def set_tables(scores: DatasetScores) -> list[Table]:
    """A table for each set: every arm and bound by each metric, after each number of examples."""
    by_set: dict[str, list[int]] = {}
    for place in scores.places():
        parsed = set_and_shots(scores.columns[place].task)
        if parsed:
            by_set.setdefault(parsed[0], []).append(place)
    return [_set_table(scores, name, places) for name, places in by_set.items()]


def _set_table(scores: DatasetScores, name: str, places: Sequence[int]) -> Table:
    tasks = [scores.columns[i].task for i in places]
    shots = {task: parsed[1] for task in tasks if (parsed := set_and_shots(task))}
    return Table(
        name,
        ("model", ROWS_TITLE, *(metric_title(scores.columns[i].metric.key) for i in places)),
        tuple(
            (row.label, rows_used(row), *(interval_lines(row.interval([i])) for i in places))
            for row in (*scores.rows, *scores.bounds)
        ),
        note="Percent; in brackets 95% bootstrap intervals over test inputs. The highest of each "
        "column is bold.",
        groups=(("", 2), *((f"{k}-shot", tasks.count(task)) for task, k in shots.items())),
        strong_cells=strongest([list(row.values[places]) for row in scores.rows], before=2),
    )


def difference_tables(scores: DatasetScores, shots: Shots) -> list[Table]:
    """A table per reference arm: how much higher every other arm's F1 is, in pairs."""
    scopes = {f"{k}-shot": places for k, places in shots.columns.items()}
    if len(scopes) > 1:
        scopes["mean"] = tuple(place for places in shots.columns.values() for place in places)
    tables = []
    for reference in scores.references:
        others = [row for row in scores.rows if row is not reference]
        tables.append(
            Table(
                f"Points of F1 above “{reference.label}”",
                ("model", ROWS_TITLE, *scopes),
                tuple(
                    (
                        row.label,
                        rows_used(row),
                        *(
                            difference_text(row.above(reference, places))
                            for places in scopes.values()
                        ),
                    )
                    for row in others
                ),
                note="Test inputs are drawn in pairs. ▲ and ▼: the 95% interval excludes 0. The "
                "intervals are not adjusted for multiple comparisons.",
            )
        )
    return tables


def further_table(scores: DatasetScores) -> Table:
    """Every other metric, mean over the sets that have it and over demonstrations."""
    places = {name: _of_sets(scores, name) for name in _FURTHER}
    there = {name: found for name, found in places.items() if found}
    return Table(
        "Further measures",
        ("model", ROWS_TITLE, *map(metric_title, there)),
        tuple(
            (row.label, rows_used(row), *(mean_text(row, found) for found in there.values()))
            for row in (*scores.rows, *scores.bounds)
        ),
        note="Percent, mean over the sets that have a measure and over demonstrations. Pairs: "
        "(surface, type) of entities, counted over a set. Label validity: outputs that are one of "
        "the set’s answers, right or wrong. BoX’s F1 takes the best piece of an answer.",
        strong_cells=strongest([means_of(row, there.values()) for row in scores.rows], before=2),
    )


def _of_sets(scores: DatasetScores, metric: str) -> list[int]:
    return [
        place
        for place, column in enumerate(scores.columns)
        if column.metric.name == metric and set_and_shots(column.task)
    ]
