"""How arms look and where budgets stand, the same in every figure of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from t5x_ext.reports.score_grid import Point
from t5x_ext.reports.study_files import Study
from t5x_ext.reports.wording import budget_text

# Okabe and Ito's palette, told apart under every common colour blindness and in grey by its
# lightness; each colour also has its own marker (Matplotlib's letters).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Look:
    """Colour and marker of an arm."""

    colour: str
    marker: str


def looks_of(study: Study) -> dict[str, Look]:
    """A colour and marker per arm label, proposed arms first; both settings share them."""
    labels = dict.fromkeys(a.label for a in sorted(study.arms, key=lambda arm: arm.baseline))
    return {
        label: Look(_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)])
        for i, label in enumerate(labels)
    }


@dataclass(frozen=True)
class BudgetAxis:
    """A logarithmic axis of training examples per task, for the points of one setting.

    Attributes:
        zero_at: where zero-shot stands, and arms tuned on other data than the tasks': 0 has no
            place on a logarithmic axis.
        limits: left and right end.
        ticks: (place, text); budgets whose names would overlap share one.
    """

    zero_at: float
    limits: tuple[float, float]
    ticks: tuple[tuple[float, str], ...]

    def place(self, point: Point) -> float:
        """Where a point stands."""
        return point.labels_per_task or self.zero_at


def budget_axis(points: Sequence[Point]) -> BudgetAxis:
    """The axis on which all these points have a place."""
    trained = [p.labels_per_task for p in points if p.labels_per_task > 0] or [1.0]
    zero_at = min(trained) / 4
    names: dict[float, list[str]] = {}
    for point in sorted(points, key=lambda p: p.labels_per_task):
        x = point.labels_per_task or zero_at
        near = next((at for at in names if abs(math.log(at / x)) < 0.18), x)
        name = budget_text(point.budget) if point.labels_per_task else "0-shot"
        if name not in names.setdefault(near, []):
            names[near].append(name)
    left = min(trained) if all(p.labels_per_task for p in points) else zero_at
    return BudgetAxis(
        zero_at=zero_at,
        limits=(left / 1.4, max(trained) * 1.4),
        ticks=tuple((at, ", ".join(texts)) for at, texts in names.items()),
    )
