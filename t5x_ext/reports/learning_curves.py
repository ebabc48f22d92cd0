"""How many more labels for a score? A saturating power law through each proposed arm's curve.

    score(n) = ceiling - drop * (n / largest) ** -rate        drop >= 0, ceiling <= 100

n is training examples per task and `largest` the largest budget tried, where the curve stands at
ceiling - drop. It is fitted by least squares to the means over tasks, once, and again to every
bootstrap draw of tasks and seeds; the bounds of an answer are percentiles of the draws' answers.

How easy each task is belongs to the question ("score 70 on these tasks"), not to the uncertainty:
each task's own level is taken out before the draws and the mean level put back, so what varies is
how tasks respond to more labels (see `_draw_means`). Where test inputs are drawn in place of tasks,
the draws are used as they are.

Where the data do not support an answer, none is given, and the reason is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from t5x_ext.metrics.resampling import Interval, percentile_bounds
from t5x_ext.reports.comparisons import MIN_TASKS
from t5x_ext.reports.score_grid import Point, ScoreGrid
from t5x_ext.reports.study_files import Study

MIN_BUDGETS = 4  # three parameters fit three budgets whatever the scores are
MAX_EXTRAPOLATION = 2.0  # times the largest budget
# Slower curves are straight on a logarithmic axis, faster ones flat from the first budget on.
_RATES = np.geomspace(0.05, 3.0, 40)
_MISFIT_POINTS = 1.0  # ROUGE-L; a smaller one does not justify a refusal, however certain it is


@dataclass(frozen=True)
class Curves:
    """Fitted curves, one per row of scores; all arrays [rows].

    `largest` is the number of labels at which a curve stands at ceiling - drop.
    """

    ceiling: np.ndarray
    drop: np.ndarray
    rate: np.ndarray
    largest: float

    def scores(self, labels: np.ndarray) -> np.ndarray:
        """Percent at `labels` [budgets] -> [rows, budgets]."""
        falls = (labels / self.largest) ** -self.rate[:, None]
        return self.ceiling[:, None] - self.drop[:, None] * falls

    def labels(self, score: float) -> np.ndarray:
        """Labels per task at which each curve reaches `score` [rows]; inf where it never does."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            needed = self.largest * (self.drop / (self.ceiling - score)) ** (1 / self.rate)
        flat_above = (self.drop == 0) & (self.ceiling >= score)
        return np.where(flat_above, 0.0, np.where(self.ceiling > score, needed, np.inf))


def fit(labels: np.ndarray, scores: np.ndarray) -> Curves:
    """Least squares in ceiling and drop at each of many rates, the best rate taken.

    Args:
        labels: [budgets] training examples per task, ascending, all positive.
        scores: [rows, budgets] percent.
    """
    shares = labels / labels[-1]
    rates = np.broadcast_to(_RATES, (len(scores), len(_RATES)))
    step = _RATES[1] / _RATES[0]
    for finer in np.geomspace(1 / step, step, 21), None:
        ceiling, drop, error = _solve(shares, scores, rates)
        best = error.argmin(axis=1)[:, None]
        rate = np.take_along_axis(rates, best, axis=1)
        if finer is not None:
            rates = np.clip(rate * finer, _RATES[0], _RATES[-1])
    ceiling, drop = (np.take_along_axis(found, best, axis=1)[:, 0] for found in (ceiling, drop))
    return Curves(ceiling, drop, rate[:, 0], float(labels[-1]))


def _solve(
    shares: np.ndarray, scores: np.ndarray, rates: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ceiling, drop and squared error of every row at its rates: each [rows, rates]."""
    falls = shares ** -rates[:, :, None]  # [rows, rates, budgets]
    scores = scores[:, None, :]
    fall, score = falls.mean(axis=2), scores.mean(axis=2)
    slope = ((falls - fall[:, :, None]) * (scores - score[:, :, None])).sum(axis=2)
    drop = np.maximum(0.0, -slope / ((falls - fall[:, :, None]) ** 2).sum(axis=2))
    ceiling = score + drop * fall
    # Nothing scores above 100: there, the best drop for a ceiling of 100.
    at_100 = ((100.0 - scores) * falls).sum(axis=2) / (falls**2).sum(axis=2)
    drop = np.where(ceiling > 100.0, at_100, drop)
    ceiling = np.minimum(ceiling, 100.0)
    error = ((scores - ceiling[:, :, None] + drop[:, :, None] * falls) ** 2).sum(axis=2)
    return ceiling, drop, error


@dataclass(frozen=True)
class Need:
    """Labels per task for a score.

    Attributes:
        score: percent, the one asked for.
        labels, low, high: the estimate and its bounds; `high` is infinite where it lies beyond what
            may be extrapolated. All three are None if `refusal` says why.
        at_most: the smallest budget is already enough, and `labels` is that budget.
    """

    score: float
    labels: float | None = None
    low: float | None = None
    high: float | None = None
    at_most: bool = False
    refusal: str = ""


@dataclass(frozen=True)
class LearningCurve:
    """The fit of one arm, or the reason why there is none.

    Attributes:
        labels, scores: [budgets] what was measured, on the tasks that every budget has.
        estimate: the fit to `scores`, one row.
        draws: the fits to the bootstrap draws.
        refusal: empty, or why the curve answers nothing; then `estimate` and `draws` are None.
    """

    point: Point  # the largest budget
    labels: np.ndarray
    scores: np.ndarray
    tasks: int
    estimate: Curves | None = None
    draws: Curves | None = None
    refusal: str = ""

    @property
    def limit(self) -> float:
        """Labels per task up to which the curve is trusted."""
        return MAX_EXTRAPOLATION * float(self.labels[-1])

    @property
    def fits(self) -> tuple[Curves, Curves]:
        """`estimate` and `draws` of a curve without refusal."""
        assert self.estimate is not None and self.draws is not None, self.refusal
        return self.estimate, self.draws

    @property
    def ceiling(self) -> Interval:
        """The score that more labels lead to, percent; of a curve without refusal."""
        estimate, draws = self.fits
        return Interval(float(estimate.ceiling[0]), *percentile_bounds(draws.ceiling))

    @property
    def targets(self) -> tuple[float, ...]:
        """Scores worth asking for: the next full points above the largest budget's."""
        above = math.ceil(self.scores[-1])
        return tuple(float(above + more) for more in (0, 1, 2, 5) if above + more <= 100)

    def need(self, score: float) -> Need:
        """Answers "how many labels per task for this score", or says why it cannot."""
        if self.refusal:
            return Need(score, refusal=self.refusal)
        estimate, draws = self.fits
        if score <= estimate.scores(self.labels[:1])[0, 0]:
            smallest = float(self.labels[0])
            return Need(score, smallest, smallest, smallest, at_most=True)
        if score >= self.ceiling.high:
            ceiling = self.ceiling
            return Need(
                score,
                refusal=f"above the curve’s ceiling of {ceiling.mean:.1f} "
                f"[{ceiling.low:.1f}, {ceiling.high:.1f}]",
            )
        labels = float(estimate.labels(score)[0])
        low, high = percentile_bounds(draws.labels(score))
        if labels > self.limit:
            least = f"; at least {low:,.0f}" if low < self.limit else ""
            return Need(
                score,
                refusal=f"beyond {MAX_EXTRAPOLATION:g} times the largest budget "
                f"({self.limit:,.0f} labels per task), where nothing supports the curve{least}",
            )
        return Need(score, labels, low, high if high <= self.limit else math.inf)


def fit_learning_curves(study: Study, grid: ScoreGrid) -> list[LearningCurve]:
    """One for each proposed arm that was trained at all, in study order."""
    curves = (grid.curve(arm.name, zero_shot=False) for arm in study.arms if not arm.baseline)
    return [_learning_curve(grid, curve) for curve in curves if curve]


def _learning_curve(grid: ScoreGrid, curve: Sequence[Point]) -> LearningCurve:
    common = np.all([~np.isnan(point.scores).all(axis=0) for point in curve], axis=0)
    labels = np.array([point.labels_per_task for point in curve])
    scores = [np.where(common, point.scores, np.nan) for point in curve]
    tasks = int(common.sum())
    means = np.array([np.nanmean(each) if tasks else np.nan for each in scores])
    found = LearningCurve(curve[-1], labels, means, tasks)
    if len(labels) < MIN_BUDGETS or len(set(labels)) < len(labels):
        number = len(set(labels))
        tried = "only one budget was" if number == 1 else f"{number} budgets of different size were"
        return replace(found, refusal=f"{tried} tried; a curve with a ceiling needs {MIN_BUDGETS}")
    # Few tasks say little where tasks are drawn; test inputs are many.
    if curve[0].draws is None and tasks < MIN_TASKS or not tasks:
        return replace(
            found,
            refusal=f"{tasks} tasks have finished at every budget; {MIN_TASKS} are needed",
        )
    if curve[0].draws is None:
        sampled = _draw_means(grid, scores, tasks)
    else:
        sampled = np.stack([grid.draw_means(point, common) for point in curve], axis=1)
    gain_low, _ = percentile_bounds(sampled[:, -1] - sampled[:, 0])
    if gain_low <= 0:
        return replace(found, refusal="scores do not clearly rise with labels")
    estimate, draws = fit(labels, means[None]), fit(labels, sampled)
    misses = means - estimate.scores(labels)[0]
    noise = (sampled - draws.scores(labels)).std(axis=0)
    if np.any(np.abs(misses) > np.maximum(_MISFIT_POINTS, 3 * noise)):
        return replace(
            found,
            refusal="the scores do not follow a curve that rises ever more slowly: the best one "
            f"misses a budget by {np.abs(misses).max():.1f} points, more than noise explains",
        )
    return replace(found, estimate=estimate, draws=draws)


def _draw_means(grid: ScoreGrid, scores: Sequence[np.ndarray], tasks: int) -> np.ndarray:
    """Bootstrap draws of every budget's mean, task levels taken as given: [samples, budgets].

    With the levels goes the noise of their mean, 1 / budgets of all noise; what is left varies by
    (budgets - 1) / budgets of it. A normal shift of each draw puts the missing part back.
    """
    with np.errstate(invalid="ignore"):
        levels = np.mean([_seed_means(each) for each in scores], axis=0)  # [tasks]
    level = np.nanmean(levels)
    # Drawing from few tasks shows (tasks - 1) / tasks of their variance.
    wider = math.sqrt(tasks / (tasks - 1))
    samples = []
    for each in scores:
        centred = each - levels + level
        mean = np.nanmean(centred)
        samples.append(mean + wider * (grid.resampler.means(centred) - mean))
    drawn = np.stack(samples, axis=1)
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    spread = math.sqrt(drawn.var(axis=0).mean() / (len(scores) - 1))
    return drawn + np.random.default_rng(0).normal(0, spread, size=(len(drawn), 1))


def _seed_means(scores: np.ndarray) -> np.ndarray:
    """Mean over the seeds that are there: [seeds, tasks] -> [tasks], NaN where none is."""
    there = ~np.isnan(scores)
    return np.where(there, scores, 0.0).sum(axis=0) / there.sum(axis=0)
