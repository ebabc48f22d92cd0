"""Does the instruction-tuned start beat the baselines at equal budget? Paired, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from t5x_ext.metrics.resampling import Interval
from t5x_ext.reports.score_grid import Point, ScoreGrid
from t5x_ext.reports.study_files import SETTING_TITLES, SETTINGS, Arm, Study
from t5x_ext.reports.wording import budgets_phrase, signed

# With fewer tasks, resampling them says too little: four of four positive has p = 1/16.
MIN_TASKS = 5


@dataclass(frozen=True)
class Comparison:
    """`arm` minus `baseline`, each (seed, task) of one with the same (seed, task) of the other.

    `difference` is in ROUGE-L points with its interval over tasks and seeds; `tasks` and `seeds`
    count what both have finished.
    """

    arm: Arm
    baseline: Arm
    budgets: tuple[str, ...]  # one, or all that are averaged over
    difference: Interval
    tasks: int
    seeds: int

    @property
    def verdict(self) -> str:
        """ "ahead", "behind", "unclear" (the interval includes 0) or "too few tasks"."""
        if self.tasks < MIN_TASKS:
            return "too few tasks"
        if self.difference.low > 0:
            return "ahead"
        return "behind" if self.difference.high < 0 else "unclear"


@dataclass(frozen=True)
class Claim:
    """The study's headline: a verdict, what it means here, and the sentences that support it."""

    verdict: str  # "Supported", "Partly supported", "Not supported" or "Not tested"
    meaning: str
    sentences: tuple[str, ...]


def compare_at_equal_budgets(study: Study, grid: ScoreGrid) -> list[Comparison]:
    """One comparison for each proposed arm, baseline of its setting, and budget both have.

    Zero-shot scores are compared too, under the budget n0.
    """
    comparisons = []
    for arm, baseline in _pairs(study):
        for point in grid.curve(arm.name):
            other = grid.point(baseline.name, point.budget)
            found = other and _comparison(grid, [(point, other)])
            if found:
                comparisons.append(found)
    return comparisons


def compare_over_budgets(study: Study, grid: ScoreGrid) -> list[Comparison]:
    """One comparison for each proposed arm and baseline: the mean over the trained budgets."""
    comparisons = []
    for arm, baseline in _pairs(study):
        curve = grid.curve(arm.name, zero_shot=False)
        both = [(point, grid.point(baseline.name, point.budget)) for point in curve]
        found = _comparison(grid, [(point, other) for point, other in both if other])
        if found:
            comparisons.append(found)
    return comparisons


def _pairs(study: Study) -> list[tuple[Arm, Arm]]:
    return [
        (arm, baseline)
        for setting in SETTINGS
        for arm in study.arms
        for baseline in study.arms
        if arm.setting == baseline.setting == setting and baseline.baseline and not arm.baseline
    ]


def _comparison(grid: ScoreGrid, pairs: list[tuple[Point, Point]]) -> Comparison | None:
    if not pairs:
        return None
    # A (seed, task) counts only where every budget is there: all budgets weigh the same.
    differences = np.mean([ours.scores - theirs.scores for ours, theirs in pairs], axis=0)
    there = ~np.isnan(differences)
    if not there.any():
        return None
    return Comparison(
        arm=pairs[0][0].arm,
        baseline=pairs[0][1].arm,
        budgets=tuple(ours.budget for ours, _ in pairs),
        difference=grid.resampler.interval(differences),
        tasks=int(there.any(axis=0).sum()),
        seeds=int(there.any(axis=1).sum()),
    )


def state_claim(comparisons: list[Comparison]) -> Claim:
    """Puts the comparisons over budgets into words; nothing but the intervals decides.

    Args:
        comparisons: from `compare_over_budgets`.
    """
    if not comparisons:
        sentence = (
            "No baseline was trained on a budget that the proposed arm of its setting has too, so "
            "this study does not say which learns more from the same data."
        )
        return Claim("Not tested", "no equal budgets to compare at", (sentence,))
    ahead = sum(comparison.verdict == "ahead" for comparison in comparisons)
    names = dict.fromkeys(f"“{comparison.arm.label}”" for comparison in comparisons)
    who = f"at equal budgets, {' and '.join(names)} beats"
    sentences = tuple(_sentence(comparison) for comparison in comparisons)
    if ahead == len(comparisons):
        return Claim("Supported", f"{who} every baseline that shares a budget with it", sentences)
    if not ahead:
        return Claim("Not supported", f"{who} no baseline", sentences)
    return Claim(
        "Partly supported", f"{who} the baseline in {ahead} of {len(comparisons)} cases", sentences
    )


def _sentence(comparison: Comparison) -> str:
    difference = comparison.difference
    found = {
        "ahead": f"scores {difference.mean:.2f} ROUGE-L points above",
        "behind": f"scores {-difference.mean:.2f} ROUGE-L points below",
        "unclear": f"cannot be told apart (difference {signed(difference.mean)} ROUGE-L) from",
        "too few tasks": f"differs by {signed(difference.mean)} ROUGE-L points, on too few tasks "
        "to conclude anything, from",
    }[comparison.verdict]
    return (
        f"{SETTING_TITLES[comparison.arm.setting]}, {budgets_phrase(comparison.budgets)}: "
        f"“{comparison.arm.label}” {found} “{comparison.baseline.label}” (95% interval "
        f"{signed(difference.low)} to {signed(difference.high)}; {comparison.tasks} tasks, "
        f"{comparison.seeds} seed{'s' if comparison.seeds > 1 else ''})."
    )
