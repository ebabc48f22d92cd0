"""How many training rows are worth what another arm has: where its score lies on an arm's curve.

An arm with several budgets is a curve. It is read between budgets as `crossings` reads it, on the
mean over datasets and on each of them, once for the scores and once for every bootstrap draw of
curve and target together. "How many writing rows pass the generic model", "how many the generic
rows save" and "how many human rows self-made data is worth" are all this question.

Nothing is extrapolated: a score above the curve is not reached, and where the curve does not
clearly rise between its smallest and largest budget there is no answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from t5x_ext.metrics.resampling import percentile_bounds
from t5x_ext.reports.crossings import amount_at, first_passing
from t5x_ext.reports.datasets.tables import rows_text, short_name
from t5x_ext.reports.documents.document import Table
from t5x_ext.reports.score_grid import Point, ScoreGrid
from t5x_ext.reports.study_files import Study
from t5x_ext.reports.wording import ABSENT


@dataclass(frozen=True)
class Equivalent:
    """Training rows per task at which a curve has the score of `target`.

    Attributes:
        curve: its largest budget.
        target: the other arm at one budget.
        dataset: '' for the mean over all that curve and target have.
        score: the target's, percent.
        rows: the estimate; infinite where the curve does not get there.
        low, high: bounds of `rows`, infinite likewise.
        smallest, largest: budgets of the curve. An estimate or bound of `smallest` means that so
            many rows or fewer are enough.
        rises: whether the curve clearly rises; without it the numbers say nothing.
        num_sets: rows in all per row of a task: the sets that the curve's arm is trained on.
    """

    curve: Point
    target: Point
    dataset: str
    score: float
    rows: float
    low: float
    high: float
    smallest: float
    largest: float
    rises: bool
    num_sets: float = 1.0

    @property
    def refusal(self) -> str:
        """Why there is no number, or ''."""
        if math.isinf(self.rows):
            return "not reached"
        return "" if self.rises or self.high <= self.smallest else "no clear rise"


def find_equivalents(
    grid: ScoreGrid, sets: Mapping[str, float] = MappingProxyType({})
) -> list[Equivalent]:
    """Every point of every other arm on every curve, over all datasets and on each.

    Args:
        grid: with bootstrap draws.
        sets: what `count_sets` gives; an arm that is not there has one.
    """
    found = []
    for curve in _curves(grid):
        num_sets = sets.get(curve[-1].arm.name, 1.0)
        for target in grid.points:
            if target.arm.name == curve[0].arm.name:
                continue
            everything = [*(point.scores for point in curve), target.scores]
            common = np.all([~np.isnan(scores).all(axis=0) for scores in everything], axis=0)
            scopes = {"": common} if common.any() else {}
            places = np.flatnonzero(common) if common.sum() > 1 else ()
            scopes |= {grid.tasks[i]: np.arange(len(common)) == i for i in places}
            found += [_read(grid, curve, target, *scope, num_sets) for scope in scopes.items()]
    return found


def count_sets(study: Study, grid: ScoreGrid) -> dict[str, float]:
    """Rows by which an arm's training data grows with its rows per task: sets of as many rows.

    What does not grow, such as the generic rows of a mixture, is not counted.
    """
    rows: dict[str, dict[float, int]] = {}
    for point in grid.points:
        counts = [cell.train_examples for cell in study.cells_of(point.arm.name, point.budget)]
        if point.labels_per_task > 0 and max(counts) > 0:
            rows.setdefault(point.arm.name, {})[point.labels_per_task] = max(counts)
    found = {}
    for arm, by_budget in rows.items():
        least, most = min(by_budget), max(by_budget)
        if least < most:
            found[arm] = (by_budget[most] - by_budget[least]) / (most - least)
    return found


def _curves(grid: ScoreGrid) -> list[list[Point]]:
    """The trained points of each arm that has several numbers of rows, from few to many."""
    arms = dict.fromkeys(point.arm.name for point in grid.points)
    curves = [[p for p in grid.curve(arm) if p.labels_per_task > 0] for arm in arms]
    return [curve for curve in curves if len({p.labels_per_task for p in curve}) > 1]


def _read(
    grid: ScoreGrid,
    curve: Sequence[Point],
    target: Point,
    dataset: str,
    members: np.ndarray,
    num_sets: float,
) -> Equivalent:
    amounts = [point.labels_per_task for point in curve]
    means = np.array([np.nanmean(point.scores[:, members]) for point in curve])
    score = float(np.nanmean(target.scores[:, members]))
    draws = np.stack([grid.draw_means(point, members) for point in (*curve, target)], axis=1)
    draws = draws[~np.isnan(draws).any(axis=1)]
    low, high = percentile_bounds(
        np.array([amount_at(first_passing(draw[:-1], draw[-1]), amounts) for draw in draws])
    )
    gain_low, _ = percentile_bounds(draws[:, -2] - draws[:, 0])
    return Equivalent(
        curve=curve[-1],
        target=target,
        dataset=dataset,
        score=score,
        rows=amount_at(first_passing(means, score), amounts),
        low=low,
        high=high,
        smallest=amounts[0],
        largest=amounts[-1],
        rises=gain_low > 0,
        num_sets=num_sets,
    )


def equivalent_tables(equivalents: Sequence[Equivalent]) -> list[Table]:
    """A table per curve: a row for each other arm and budget, a column for each dataset."""
    return [
        _table([each for each in equivalents if each.curve.arm.name == arm])
        for arm in dict.fromkeys(each.curve.arm.name for each in equivalents)
    ]


def _table(equivalents: Sequence[Equivalent]) -> Table:
    datasets = tuple(dict.fromkeys(each.dataset for each in equivalents))
    targets: dict[tuple[str, str], dict[str, Equivalent]] = {}
    for each in equivalents:
        place = each.target.arm.name, each.target.budget
        targets.setdefault(place, {})[each.dataset] = each
    first = equivalents[0]
    has_all = first.num_sets != 1 and "" in datasets
    rows = []
    for by_dataset in targets.values():
        target = next(iter(by_dataset.values())).target
        used = rows_text(target)
        cells = (_text(by_dataset[d]) if d in by_dataset else ABSENT for d in datasets)
        in_all = (_text(by_dataset[""], first.num_sets),) if has_all and "" in by_dataset else ()
        rows.append((target.arm.label, used, *in_all, *cells))
    return Table(
        f"Rows per task of “{first.curve.arm.label}” that give the score of another arm",
        (
            "score of",
            "its training rows",
            *(("mean: rows in all",) if has_all else ()),
            *(short_name(d) or "mean" for d in datasets),
        ),
        tuple(rows),
        note="Read off the curve between budgets, along the logarithm of the rows; in brackets "
        "95% intervals over the same draws of test inputs for both arms. "
        f"“≤ {first.smallest:,.0f}”: the smallest budget is enough. “Not reached”: more than the "
        f"{first.largest:,.0f} rows tried, if any number; no curve is continued beyond them. “No "
        "clear rise”: the interval of the gain from smallest to largest budget includes 0."
        + f" Rows in all: {first.num_sets:g} times those per task, one for each set; rows "
        "that are the same at every budget are not counted." * has_all,
    )


def _text(found: Equivalent, times: float = 1.0) -> str:
    if found.refusal:
        return found.refusal
    estimate, low, high = (_rows(found, n, times) for n in (found.rows, found.low, found.high))
    return f"{estimate}\n[{low}, {high}]"


def _rows(found: Equivalent, rows: float, times: float) -> str:
    if rows <= found.smallest:
        return f"≤ {times * found.smallest:,.0f}"
    return f"> {times * found.largest:,.0f}" if math.isinf(rows) else f"{times * rows:,.0f}"
