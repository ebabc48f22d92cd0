"""How much of the data does the instruction-tuned curve need to pass each baseline?

The curve is read between budgets along the logarithm of the data used, and the first place where it
reaches the baseline's score counts. Curve and baseline are compared on the tasks that every point
involved has finished, and the interval resamples these tasks and the seeds for both at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from t5x_ext.metrics.resampling import percentile_bounds
from t5x_ext.reports.score_grid import Point, ScoreGrid
from t5x_ext.reports.study_files import SETTINGS, Arm, Study


@dataclass(frozen=True)
class Crossing:
    """Where the curve of `arm` passes `baseline` at the baseline's budget.

    Attributes:
        score: the baseline's, percent.
        share: of the available training data, 0..1; infinite where the curve does not get there.
        labels: training examples per task at this place; infinite likewise.
        low, high: bounds of `share`.
        at_most: the curve was already above at its smallest trained budget, so `share` and
            `labels` are upper bounds.
    """

    arm: Arm
    baseline: Arm
    budget: str
    baseline_labels: float
    baseline_share: float
    score: float
    share: float
    labels: float
    low: float
    high: float
    at_most: bool
    tasks: int

    @property
    def reached(self) -> bool:
        """Whether the curve reaches the baseline at all within the budgets tried."""
        return math.isfinite(self.share)

    @property
    def times_fewer_labels(self) -> float | None:
        """Labels of the baseline over labels of the arm at the same score; None if not defined."""
        return self.baseline_labels / self.labels if self.reached and self.labels else None


def find_crossings(study: Study, grid: ScoreGrid) -> list[Crossing]:
    """For each proposed arm, every trained point of every baseline in the same setting."""
    crossings = []
    for setting in SETTINGS:
        arms = [arm for arm in study.arms if arm.setting == setting]
        for arm in (arm for arm in arms if not arm.baseline):
            for baseline in (arm for arm in arms if arm.baseline):
                for target in grid.curve(baseline.name, zero_shot=False):
                    found = _crossing(grid, grid.curve(arm.name), target)
                    if found:
                        crossings.append(found)
    return crossings


def first_passing(scores: np.ndarray, target: float) -> float:
    """Index, between points if need be, where `scores` [points] first reaches `target`, or inf.

    scores 40 50 60, target 55 -> 1.5;  target 30 -> 0.0;  target 61 -> inf
    """
    above = np.flatnonzero(scores >= target)
    if not above.size:
        return math.inf
    after = int(above[0])
    if after == 0:
        return 0.0
    before = after - 1
    return before + float((target - scores[before]) / (scores[after] - scores[before]))


def amount_at(place: float, amounts: list[float]) -> float:
    """The amount of data at an index between points, along the logarithm; inf stays inf.

    place 0.5, amounts 10 1000 -> 100.0

    A curve that starts at zero-shot has no logarithm there: between zero-shot and the smallest
    trained budget, that budget is the answer (an upper bound).
    """
    if not math.isfinite(place):
        return math.inf
    if place == 0.0:
        return amounts[0]
    before = math.ceil(place) - 1
    low, high = amounts[before], amounts[before + 1]
    if low <= 0:
        return high
    return math.exp(math.log(low) + (place - before) * (math.log(high) - math.log(low)))


def _crossing(grid: ScoreGrid, curve: list[Point], target: Point) -> Crossing | None:
    if not any(not point.zero_shot for point in curve):
        return None
    everything = [*(point.scores for point in curve), target.scores]
    common = np.all([~np.isnan(scores).all(axis=0) for scores in everything], axis=0)
    if not common.any():
        return None
    *ours, theirs = (float(np.nanmean(scores[:, common])) for scores in everything)
    place = first_passing(np.array(ours), theirs)

    shares = [point.share for point in curve]
    draws = np.stack([grid.draw_means(point, common) for point in (*curve, target)], axis=1)
    draws = draws[~np.isnan(draws).any(axis=1)]
    low, high = percentile_bounds(
        np.array([amount_at(first_passing(draw[:-1], draw[-1]), shares) for draw in draws])
    )
    starts_at_zero = curve[0].zero_shot
    return Crossing(
        arm=curve[0].arm,
        baseline=target.arm,
        budget=target.budget,
        baseline_labels=target.labels_per_task,
        baseline_share=target.share,
        score=theirs,
        share=amount_at(place, shares),
        labels=amount_at(place, [point.labels_per_task for point in curve]),
        low=low,
        high=high,
        at_most=0 < place < 1 if starts_at_zero else place == 0,
        tasks=int(common.sum()),
    )
