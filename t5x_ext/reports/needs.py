"""How many labels a score needs, as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from t5x_ext.reports.documents.document import Table
from t5x_ext.reports.learning_curves import LearningCurve, Need
from t5x_ext.reports.wording import ABSENT, interval_text


def need_table(curve: LearningCurve, targets: Sequence[float], measure: str = "ROUGE-L") -> Table:
    """Labels per task for each of these scores, read off a fitted curve."""
    arm, ceiling = curve.point.arm, curve.ceiling
    what_varies = (
        "The interval is over how tasks and seeds respond to labels; how hard the tasks are is "
        "taken as given."
        if curve.point.draws is None
        else "The interval is over test inputs and seeds."
    )
    return Table(
        f"{arm.setting}: labels that “{arm.label}” needs for a score",
        (f"{measure} wanted", "answer", "labels per task", "95% interval", "more than now"),
        tuple(_need_row(curve, curve.need(score)) for score in targets),
        note=f"From a saturating power law through {len(curve.labels)} budgets and {curve.tasks} "
        f"tasks, which rises to {interval_text(ceiling)} and is trusted up to {curve.limit:,.0f} "
        f"labels per task. “More than now”: than the largest budget, {curve.labels[-1]:,.0f} "
        f"labels per task with {curve.scores[-1]:.2f} {measure}. {what_varies}",
        text_columns=2,
        setting=arm.setting,
    )


def _need_row(curve: LearningCurve, need: Need) -> tuple[str, ...]:
    score = f"{need.score:.2f}"
    if need.refusal:
        return (score, f"no answer: {need.refusal}", ABSENT, ABSENT, ABSENT)
    assert need.labels is not None and need.low is not None and need.high is not None
    if need.at_most:
        return (score, "the smallest budget is enough", f"≤ {need.labels:,.0f}", ABSENT, ABSENT)
    times = need.labels / curve.labels[-1]
    high = f"{need.high:,.0f}" if math.isfinite(need.high) else f"more than {curve.limit:,.0f}"
    return (
        score,
        f"{times:.2f} times the largest budget",
        f"{need.labels:,.0f}",
        f"{need.low:,.0f} to {high}",
        f"{max(0.0, need.labels - curve.labels[-1]):,.0f}",
    )


def curve_json(curve: LearningCurve, targets: Sequence[float]) -> dict[str, Any]:
    """A learning curve with its answers for `targets`, or for scores that it chooses."""
    return {
        "setting": curve.point.arm.setting,
        "arm": curve.point.arm.name,
        "labels_per_task": curve.labels.tolist(),
        "refusal": curve.refusal,
        "ceiling": None if curve.refusal else asdict(curve.ceiling),
        "needs": [without_infinity(asdict(curve.need(s))) for s in targets or curve.targets],
    }


def without_infinity(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with None for what JSON has no number for."""
    infinite = [k for k, v in fields.items() if isinstance(v, float) and not math.isfinite(v)]
    return fields | dict.fromkeys(infinite)
