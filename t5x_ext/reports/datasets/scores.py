"""Scores of every arm on every dataset, each by the metrics that the dataset names.

Statistics are counted on the predictions themselves and drawn again with their test inputs, so that
the interval of a score, of a mean over datasets and of a difference between two arms are the same
formula on other sums, whatever the metric. Rows of one source are drawn together; all arms see the
same draws, so that differences are paired. With several seeds these are drawn too.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mixtures.errors import DataError
from mixtures.specialization.names import PREFIX, parse_name
from mixtures.specialization.rows import COMPANIONS
from t5x_ext.errors import ConfigError
from t5x_ext.metrics import resampling
from t5x_ext.metrics.catalogue import get_metric
from t5x_ext.metrics.metric import Metric
from t5x_ext.metrics.predictions import Answer, Prediction
from t5x_ext.metrics.resampling import BOOTSTRAP_SAMPLES, Interval, percentile_bounds
from t5x_ext.metrics.scoring import measure
from t5x_ext.reports.answers import check_score, path_of, read_answers
from t5x_ext.reports.score_grid import Point, ScoreGrid, build_grid
from t5x_ext.reports.study_files import FinishedCell, Study, Task

# What outputs look like, whatever their score, where rows carry what a trait needs.
TRAITS = ("unchanged", "over_corrected", "empty", "run_away", "stopped", "words", "edit_distance")
COPIED = "the source, copied"

RowId = tuple[str, str]  # set of a `self.*` name, id


def set_and_shots(task: str) -> tuple[str, int] | None:
    """`"self.harbour.log.k5"` -> `("log", 5)`, set and demonstrations; None of other names."""
    if not task.startswith(PREFIX):
        return None
    try:
        name = parse_name(task)
    except DataError:
        return None
    return ":".join(name.parts), name.shots


@dataclass(frozen=True)
class Column:
    """One metric on one dataset; `is_trait` marks what explains a score without being one."""

    task: str
    metric: Metric
    is_trait: bool = False


@dataclass(frozen=True)
class Row:
    """One system: an arm at one budget, or a bound such as copying the source.

    Attributes:
        label: what tables call it.
        point: the arm and budget; None for a bound.
        by_seed: [seeds, columns] percent, NaN where a cell is not there.
        draws: [samples, columns] percent, the mean over seeds under each bootstrap draw.
        parts: column -> precision, recall and F, percent, for metrics made of these.
        bound: name of a bound, see `BOUNDS`; '' for an arm.
    """

    label: str
    point: Point | None
    by_seed: np.ndarray
    draws: np.ndarray
    parts: dict[int, np.ndarray]
    bound: str = ""

    @property
    def arm(self) -> str:
        """The arm's name, or '' for a bound."""
        return self.point.arm.name if self.point else ""

    @property
    def budget(self) -> str:
        """The budget, or '' for a bound."""
        return self.point.budget if self.point else ""

    @property
    def values(self) -> np.ndarray:
        """[columns] percent, mean over the seeds that are there; NaN where none is."""
        there = ~np.isnan(self.by_seed)
        with np.errstate(invalid="ignore"):
            return np.where(there, self.by_seed, 0.0).sum(axis=0) / there.sum(axis=0)

    def has(self, columns: Sequence[int]) -> bool:
        """Whether every one of the columns has a value."""
        return bool(columns) and not np.isnan(self.values[list(columns)]).any()

    def interval(self, columns: Sequence[int]) -> Interval | None:
        """Mean over columns with its interval; None if one is missing."""
        if not self.has(columns):
            return None
        chosen = list(columns)
        bounds = percentile_bounds(self.draws[:, chosen].mean(axis=1))
        return Interval(float(self.values[chosen].mean()), *bounds)

    def above(self, other: Row, columns: Sequence[int]) -> Interval | None:
        """How much higher than another row, mean over columns, draw by draw; None if missing."""
        if not (self.has(columns) and other.has(columns)):
            return None
        chosen = list(columns)
        apart = (self.draws - other.draws)[:, chosen].mean(axis=1)
        mean = float((self.values - other.values)[chosen].mean())
        return Interval(mean, *percentile_bounds(apart))


@dataclass(frozen=True)
class DatasetScores:
    """All rows of a study over the same columns."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]  # arms in study order, budgets from small to large
    bounds: tuple[Row, ...]  # the source copied, a reference taken for the output
    grid: ScoreGrid  # the first metric of each dataset, for curves over budgets

    @property
    def heads(self) -> list[int]:
        """The column of each dataset that heads it: its first metric."""
        first: dict[str, int] = {}
        for place, column in enumerate(self.columns):
            first.setdefault(column.task, place)
        return list(first.values())

    def places(self, traits: bool = False) -> list[int]:
        """The columns of scores, or those of traits."""
        return [i for i, column in enumerate(self.columns) if column.is_trait == traits]

    def trait(self, name: str) -> list[int]:
        """The columns of one trait, one for each dataset that has it."""
        return [i for i in self.places(traits=True) if self.columns[i].metric.name == name]

    @property
    def references(self) -> list[Row]:
        """What other arms are compared with: the baselines at their largest budgets, or row 1."""
        largest = {row.arm: row for row in self.rows if row.point and row.point.arm.baseline}
        return list(largest.values()) or list(self.rows[:1])


def score_datasets(study: Study, without: Collection[RowId] = ()) -> DatasetScores:
    """Scores every finished cell of a study again, from its predictions.

    Args:
        study: as read.
        without: test inputs to leave out; the scores then are not those of result.json.

    Raises:
        ConfigError: predictions are missing, malformed, not those of result.json, or of other
            instances in one cell than in another.
    """
    instances: dict[str, list[Prediction]] = {}  # of the first cell that has the task
    found: dict[str, _Found] = {}
    for cell in study.cells:
        answers = read_answers(cell)
        _check_same_instances(cell, answers, instances)
        if without:
            found[cell.key] = _score_clean(answers, study.tasks, without)
        else:
            found[cell.key] = _score_cell(cell, answers, study.tasks)
    columns = _columns(study.tasks, found.values())
    there = {column.task for column in columns}
    base = build_grid(study, without=[t.name for t in study.tasks if t.name not in there])
    rows = tuple(_arm_row(study, point, columns, found) for point in base.points)
    scores = DatasetScores(columns, rows, _bounds(study, columns, instances), base)
    return replace(scores, grid=_headline_grid(base, scores))


class _Score(NamedTuple):
    """One metric on the answers to one dataset, percent; draws [samples], parts [3] or none."""

    metric: Metric
    value: float
    draws: np.ndarray
    parts: np.ndarray | None


_Found = dict[tuple[str, str], _Score]  # by task and name of metric


def _score_cell(
    cell: FinishedCell, answers: Mapping[str, Sequence[Prediction]], tasks: Iterable[Task]
) -> _Found:
    found: _Found = {}
    for task in (task for task in tasks if task.name in cell.scores):
        if task.name not in answers:
            raise ConfigError(
                f"{path_of(cell)}: no predictions for task '{task.name}', which result.json "
                "scores; allowed: the predictions of that cell"
            )
        found |= _score(task, answers[task.name])
        for name in task.metrics:
            metric, value, *_ = found[task.name, name]
            check_score(cell, task.name, metric.key, value)
    return found


def _score_clean(
    answers: Mapping[str, Sequence[Prediction]], tasks: Iterable[Task], without: Collection[RowId]
) -> _Found:
    found: _Found = {}
    for task in tasks:
        place = set_and_shots(task.name)
        rows = [
            row
            for row in answers.get(task.name, ())
            if place is None or (place[0], row.id) not in without
        ]
        found |= _score(task, rows) if rows else {}
    return found


def _score(task: Task, rows: Sequence[Prediction]) -> _Found:
    """Every score and trait of answers to one dataset.

    Draws are seeded by the name: those of two datasets of one size are independent, and those of
    one set after several numbers of demonstrations are the same, as its questions are.
    """
    place = set_and_shots(task.name)
    seed = zlib.crc32((place[0] if place else task.name).encode())
    carried = {name for name in ("source", "finish") if all(getattr(row, name) for row in rows)}
    traits = [name for name in TRAITS if carried.issuperset(get_metric(name).needs)]
    if place:
        traits += [each for name in task.metrics for each in COMPANIONS.get(name, ())]
    measured = measure(rows, tuple(dict.fromkeys((*task.metrics, *traits))))
    found = {}
    for column in measured.columns:
        metric = column.metric
        if metric.name in TRAITS and not column.statistics[:, -1].any():
            continue  # of no row here: texts that are right may be in none
        statistics = resampling.sum_units(column.statistics, measured.units)
        total = resampling.total(statistics)
        draws = 100 * resampling.resample(statistics, metric.finish, seed)
        split = getattr(metric, "parts", None)
        parts = 100 * np.array(split(total)) if split else None
        score = _Score(metric, 100 * float(metric.finish(total)), draws, parts)
        found[task.name, metric.name] = score
    return found


def _check_same_instances(
    cell: FinishedCell,
    answers: Mapping[str, list[Prediction]],
    instances: dict[str, list[Prediction]],
) -> None:
    for task, rows in answers.items():
        expected = instances.setdefault(task, rows)
        if [row.id for row in rows] != [row.id for row in expected]:
            raise ConfigError(
                f"{path_of(cell)}: task '{task}': other instances than in other cells; "
                "allowed: the same in the same order"
            )


def _columns(tasks: Sequence[Task], found: Iterable[_Found]) -> tuple[Column, ...]:
    together: dict[tuple[str, str], Metric] = {}
    for each in found:
        for place, score in each.items():
            together.setdefault(place, score.metric)
    return tuple(
        Column(task.name, metric, name not in task.metrics)
        for task in tasks
        for (of_task, name), metric in together.items()
        if of_task == task.name
    )


def _arm_row(
    study: Study, point: Point, columns: Sequence[Column], found: Mapping[str, _Found]
) -> Row:
    seeds: list[_Found] = [{} for _ in study.seeds]
    for cell in study.cells_of(point.arm.name, point.budget):
        seeds[study.seeds.index(cell.seed)] |= found[cell.key]
    return _row(point.arm.label, point, columns, seeds)


def _row(
    label: str, point: Point | None, columns: Sequence[Column], seeds: Sequence[_Found]
) -> Row:
    by_seed = np.full((len(seeds), len(columns)), np.nan)
    draws = np.full((BOOTSTRAP_SAMPLES, len(seeds), len(columns)), np.nan)
    parts: dict[int, list[np.ndarray]] = {}
    for seed, found in enumerate(seeds):
        for i, column in enumerate(columns):
            score = found.get((column.task, column.metric.name))
            if score is None:
                continue
            by_seed[seed, i], draws[:, seed, i] = score.value, score.draws
            if score.parts is not None:
                parts.setdefault(i, []).append(score.parts)
    means = {i: np.mean(each, axis=0) for i, each in parts.items()}
    return Row(label, point, by_seed, _over_seeds(draws), means)


def _over_seeds(draws: np.ndarray) -> np.ndarray:
    """Mean over seeds drawn with replacement, [samples, seeds, columns] -> [samples, columns].

    Where none of the seeds drawn is there, as in a study that is not finished, all that are there
    count.
    """
    samples, seeds, _ = draws.shape
    rng = np.random.default_rng(0)
    times = rng.multinomial(seeds, np.full(seeds, 1 / seeds), samples)[:, :, None]
    there = ~np.isnan(draws)
    weights = np.where((times * there).sum(axis=1, keepdims=True) > 0, times * there, there)
    with np.errstate(invalid="ignore"):
        return (weights * np.where(there, draws, 0.0)).sum(axis=1) / weights.sum(axis=1)


def _bounds(
    study: Study, columns: Sequence[Column], instances: Mapping[str, Sequence[Prediction]]
) -> tuple[Row, ...]:
    """What texts that take no model would score."""
    rows = []
    for bound, (label, answered) in BOUNDS.items():
        found: _Found = {}
        for task in study.tasks:
            # In the set's own tokens, whatever prompts show.
            said = [replace(row, inputs="") for row in answered(instances.get(task.name, ()))]
            if said and all(row.prediction for row in said):
                found |= _score(task, said)
        if found:
            rows.append(replace(_row(label, None, columns, [found]), bound=bound))
    return tuple(rows)


def _copied(rows: Sequence[Prediction]) -> list[Prediction]:
    return [row.with_answer(Answer(row.source or "")) for row in rows]


def _most_frequent(rows: Sequence[Prediction]) -> list[Prediction]:
    """Answered with the reference of most rows, whatever is asked; nothing for other tasks."""
    if not rows or set_and_shots(rows[0].task) is None:
        return []
    counts = Counter(row.references[0] for row in rows)
    answer = Answer(counts.most_common(1)[0][0])
    return [row.with_answer(answer) for row in rows]


def _first_reference(rows: Sequence[Prediction]) -> list[Prediction]:
    """Answered with the first reference.

    Of a text that is rewritten it is set against the other references, if there are any, as a
    person's answer would be: against itself it is right by definition. The references of a question
    are forms of one answer.
    """
    said = [row.with_answer(Answer(row.references[0])) for row in rows]
    return [_without_first_reference(row) if row.source is not None else row for row in said]


def _without_first_reference(row: Prediction) -> Prediction:
    if len(row.references) < 2:
        return row
    edits = row.edits
    if edits is not None and len(edits) == len(row.references):  # one annotator made each
        edits = {name: edits[name] for name in sorted(edits)[1:]}
    return replace(row, references=row.references[1:], edits=edits)


# By name: what tables call it, and the rows of a dataset answered so.
BOUNDS: Mapping[str, tuple[str, Callable[[Sequence[Prediction]], list[Prediction]]]] = {
    "copy": (COPIED, _copied),
    "most_frequent": ("the most frequent answer", _most_frequent),
    "reference_0": ("the first reference", _first_reference),
}


def _headline_grid(base: ScoreGrid, scores: DatasetScores) -> ScoreGrid:
    """The grid of curves: the score of each dataset is that of its first metric."""
    heads = scores.heads
    points = tuple(
        replace(row.point, scores=row.by_seed[:, heads], draws=row.draws[:, heads])
        for row in scores.rows
        if row.point
    )
    keys = {scores.columns[i].metric.key for i in heads}
    return replace(base, points=points, measure=keys.pop() if len(keys) == 1 else "score")
