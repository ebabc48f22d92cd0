"""Scores of a study as arrays: for each arm and budget, one number per seed and task."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from t5x_ext.metrics.resampling import BOOTSTRAP_SAMPLES, Interval, percentile_bounds
from t5x_ext.reports.study_files import ZERO_SHOT, Arm, Study


@dataclass(frozen=True)
class Point:
    """One arm at one budget.

    Attributes:
        scores: [seeds, tasks] percent, NaN where the cell is not there yet.
        labels_per_task: training examples per task, mean over the tasks that are there.
        share: training examples used, of all that these tasks have, 0..1.
        draws: [samples, tasks] percent, the scores under bootstrap draws of test instances, where
            these are drawn; None if tasks and seeds are.
        train_rows: rows that one model was tuned on, of these tasks and others, mean over models;
            0 if not recorded.
    """

    arm: Arm
    budget: str
    scores: np.ndarray
    labels_per_task: float
    share: float
    draws: np.ndarray | None = None
    train_rows: float = 0.0

    @property
    def counts_in_all(self) -> bool:
        """Whether the budget counts a model's rows and not those of each task."""
        return round(self.train_rows) == round(self.labels_per_task)

    @property
    def zero_shot(self) -> bool:
        """Whether the starting point was scored as it is."""
        return self.budget == ZERO_SHOT


class Resampler:
    """Bootstrap draws of seeds and tasks, the same for every array, so that arms stay paired."""

    def __init__(self, seeds: int, tasks: int, seed: int = 0):
        """Draws `BOOTSTRAP_SAMPLES` times `seeds` seeds and `tasks` tasks with replacement."""
        rng = np.random.default_rng(seed)
        # How often each seed and each task was drawn: [samples, seeds], [samples, tasks].
        self._seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), BOOTSTRAP_SAMPLES)
        self._tasks = rng.multinomial(tasks, np.full(tasks, 1 / tasks), BOOTSTRAP_SAMPLES)

    def means(self, scores: np.ndarray) -> np.ndarray:
        """Mean of [seeds, tasks] under each draw -> [samples]; NaN where nothing was drawn."""
        there = ~np.isnan(scores)
        totals = (self._seeds @ np.where(there, scores, 0.0) * self._tasks).sum(axis=1)
        counts = (self._seeds @ there * self._tasks).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return totals / counts

    def interval(self, scores: np.ndarray) -> Interval:
        """Mean over all that is there, with its interval over seeds and tasks."""
        samples = self.means(scores)
        low, high = percentile_bounds(samples[~np.isnan(samples)])
        return Interval(float(np.nanmean(scores)), low, high)


@dataclass(frozen=True)
class ScoreGrid:
    """All points of a study for one measure, arms in study order, budgets from small to large.

    The measure is one metric, or of each task the metric that heads its column.
    """

    tasks: tuple[str, ...]
    categories: tuple[str, ...]  # of each task
    points: tuple[Point, ...]
    resampler: Resampler
    measure: str = "ROUGE-L"

    def curve(self, arm: str, zero_shot: bool = True) -> list[Point]:
        """The points of one arm from the smallest budget to the largest."""
        return [p for p in self.points if p.arm.name == arm and (zero_shot or not p.zero_shot)]

    def point(self, arm: str, budget: str) -> Point | None:
        """One point, or None if no cell of it has finished."""
        return next((p for p in self.curve(arm) if p.budget == budget), None)

    def same_point(self, other: Point) -> Point:
        """The point of the arm and budget of another metric's; it has the same cells."""
        return next(p for p in self.curve(other.arm.name) if p.budget == other.budget)

    def draw_means(self, point: Point, members: np.ndarray | None = None) -> np.ndarray:
        """The point's mean under each bootstrap draw, [samples]; NaN where nothing was drawn.

        Args:
            point: of this grid.
            members: [tasks] bool, the tasks to take the mean of; None takes all.
        """
        if members is None:
            members = np.ones(len(self.tasks), bool)
        if point.draws is None:
            return self.resampler.means(np.where(members, point.scores, np.nan))
        return point.draws[:, members & ~np.isnan(point.scores).all(axis=0)].mean(axis=1)

    def interval(self, point: Point, members: np.ndarray | None = None) -> Interval:
        """The point's mean with its bootstrap interval; `members` as in `draw_means`."""
        scores = point.scores if members is None else np.where(members, point.scores, np.nan)
        samples = self.draw_means(point, members)
        return Interval(float(np.nanmean(scores)), *percentile_bounds(samples[~np.isnan(samples)]))

    def category_means(self, point: Point) -> dict[str, float]:
        """Mean over the tasks of each category (and seeds); categories without a score left out."""
        means = {}
        for category in dict.fromkeys(self.categories):
            part = point.scores[:, [c == category for c in self.categories]]
            if not np.isnan(part).all():
                means[category] = float(np.nanmean(part))
        return means


def build_grid(study: Study, metric: str = "rougeL", without: Collection[str] = ()) -> ScoreGrid:
    """Arranges the finished cells of a study.

    Args:
        study: as read.
        metric: one of `metrics.METRICS`.
        without: names of tasks to leave out (leaked ones).
    """
    tasks = [task for task in study.tasks if task.name not in without]
    points = []
    for arm in study.arms:
        curve = [_point(study, arm, budget, metric, tasks) for budget in arm.budgets]
        there = [point for point in curve if point is not None]
        points += sorted(there, key=lambda point: point.share)
    return ScoreGrid(
        tasks=tuple(task.name for task in tasks),
        categories=tuple(task.category for task in tasks),
        points=tuple(points),
        resampler=Resampler(len(study.seeds), max(len(tasks), 1)),
    )


def _point(study: Study, arm: Arm, budget: str, metric: str, tasks: list) -> Point | None:
    place = {task.name: column for column, task in enumerate(tasks)}
    available = {task.name: task.train_instances for task in tasks}
    scores = np.full((len(study.seeds), len(tasks)), np.nan)
    used = np.full_like(scores, np.nan)
    cells = study.cells_of(arm.name, budget)
    for cell in cells:
        row = study.seeds.index(cell.seed)
        for task in cell.scores.keys() & place.keys():
            scores[row, place[task]] = cell.scores[task][metric]
            used[row, place[task]] = cell.train_examples_by_task.get(task, 0)
    there = ~np.isnan(scores).all(axis=0)
    if not there.any():
        return None
    if budget == ZERO_SHOT:  # no training, so no seed: one score stands for every seed
        scores[:, there] = np.where(
            np.isnan(scores[:, there]), np.nanmean(scores[:, there], axis=0), scores[:, there]
        )
    labels = np.nanmean(used[:, there], axis=0)
    in_all = sum(available[task.name] for task, here in zip(tasks, there, strict=True) if here)
    share = float(labels.sum() / in_all) if in_all else 0.0
    rows = float(np.mean([cell.train_examples for cell in cells]))
    return Point(arm, budget, scores, float(labels.mean()), share, train_rows=rows)
