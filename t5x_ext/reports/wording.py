"""How reports word numbers, in cells and in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from t5x_ext.metrics.resampling import Interval

ABSENT = "–"  # what a cell says that has no value


def interval_text(interval: Interval) -> str:
    """`"61.20 [55.01, 66.90]"`."""
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def percent(share: float) -> str:
    """`0.0591` -> `"5.9%"`; small shares keep two digits, infinite ones are "not reached"."""
    if not math.isfinite(share):
        return "not reached"
    return f"{100 * share:.1f}%" if share >= 0.01 or share == 0 else f"{100 * share:.2g}%"


def duration(secs: float) -> str:
    """`95` -> `"1 min 35 s"`, `7300` -> `"2 h 02 min"`, `1.24` -> `"1.2 s"`."""
    if secs < 60:
        return f"{secs:.1f} s"
    minutes, seconds = divmod(round(secs), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def signed(value: float) -> str:
    """`1.5` -> `"+1.50"`, `-1.5` -> `"−1.50"` (a minus sign, not a hyphen)."""
    return f"{value:+.2f}".replace("-", "−")


def budgets_phrase(budgets: Sequence[str]) -> str:
    """`("n10", "n100", "all")` -> `"10 and 100 labels per task, all data"`."""
    counts = [budget_text(budget) for budget in budgets if budget.startswith("n")]
    parts = []
    if counts:
        *first, last = counts
        parts.append((f"{', '.join(first)} and " if first else "") + f"{last} labels per task")
    parts += [f"{budget_text(budget)} of the data" for budget in budgets if budget[0] == "p"]
    return ", ".join(parts + ["all data"] * ("all" in budgets))


def budget_text(budget: str) -> str:
    """For readers: `"n100"` -> `"100"`, `"p1"` -> `"1%"`, `"n0"` -> `"0"`, `"all"` -> `"all"`."""
    if budget.startswith("n"):
        return budget[1:]
    return f"{budget[1:]}%" if budget.startswith("p") else budget
