"""The report's tables of scores, differences and crossings, as plain text cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from t5x_ext.metrics.resampling import Interval
from t5x_ext.reports.comparisons import Comparison
from t5x_ext.reports.crossings import Crossing
from t5x_ext.reports.documents.document import Table
from t5x_ext.reports.plots import category_points
from t5x_ext.reports.score_grid import ScoreGrid
from t5x_ext.reports.study_files import Study
from t5x_ext.reports.wording import ABSENT, budget_text, interval_text, percent, signed


def score_table(
    grids: dict[str, ScoreGrid], over_instances: dict[tuple[str, str], Interval], setting: str
) -> Table:
    """Every point of one setting with all metrics.

    Args:
        grids: one per metric.
        over_instances: intervals by (arm, budget); points may be missing.
        setting: STL or MTL.
    """
    rows: list[tuple[str, ...]] = []
    strong: set[int] = set()
    for point in (p for p in grids["rougeL"].points if p.arm.setting == setting):
        others = (grids[metric].same_point(point) for metric in ("rouge1", "exact_match"))
        there = ~np.isnan(point.scores)
        instances = over_instances.get((point.arm.name, point.budget))
        if not point.arm.baseline:
            strong.add(len(rows))
        rows.append(
            (
                point.arm.label,
                budget_text(point.budget),
                f"{point.labels_per_task:.0f}",
                percent(point.share),
                interval_text(grids["rougeL"].interval(point)),
                f"[{instances.low:.2f}, {instances.high:.2f}]" if instances else ABSENT,
                *(f"{np.nanmean(other.scores):.2f}" for other in others),
                f"{there.sum()} of {there.size}",
            )
        )
    return Table(
        f"{setting}: scores at each budget",
        (
            "model",
            "budget",
            "labels per task",
            "share of data",
            "ROUGE-L [95% over tasks]",
            "[95% over instances]",
            "ROUGE-1",
            "exact match",
            "scores",
        ),
        tuple(rows),
        note="Means over all scores, of which there is one per task and seed. The interval over "
        "tasks resamples tasks and seeds: it says how far scores would move with other tasks, and "
        "is much wider than the uncertainty of a difference between two models on the same tasks. "
        "The interval over instances keeps tasks and trained models and resamples the test "
        "instances of each task: what other test questions would change.",
        text_columns=1,
        strong_rows=frozenset(strong),
        setting=setting,
    )


def comparison_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """Differences at equal budget, in words and numbers, a table per setting."""
    settings = dict.fromkeys(c.arm.setting for c in comparisons)
    return [
        _comparison_table(setting, [c for c in comparisons if c.arm.setting == setting])
        for setting in settings
    ]


def _comparison_table(setting: str, comparisons: Sequence[Comparison]) -> Table:
    rows = tuple(
        (
            f"{c.arm.label} − {c.baseline.label}",
            ", ".join(budget_text(budget) for budget in c.budgets),
            signed(c.difference.mean),
            f"{signed(c.difference.low)} to {signed(c.difference.high)}",
            f"{c.tasks} × {c.seeds}",
            c.verdict,
        )
        for c in comparisons
    )
    return Table(
        f"{setting}: difference at equal budget, ROUGE-L points",
        (
            "proposed − baseline",
            "budget",
            "difference",
            "95% interval",
            "tasks × seeds",
            "proposed is",
        ),
        rows,
        note="Paired: each task and seed of one model with the same task and seed of the other. "
        "“Unclear” means that the interval, over tasks and seeds, includes 0. The intervals "
        "are not adjusted for multiple comparisons.",
        strong_rows=frozenset(i for i, c in enumerate(comparisons) if len(c.budgets) > 1),
        setting=setting,
    )


def crossing_tables(crossings: Sequence[Crossing]) -> list[Table]:
    """Data needed to pass each baseline, a table per proposed arm."""
    arms = {crossing.arm.name: crossing.arm for crossing in crossings}
    return [
        Table(
            f"{arm.setting}: training data that “{arm.label}” needs to pass each baseline",
            (
                "baseline",
                "budget",
                "ROUGE-L",
                "share of data",
                "share of data",
                "95% interval",
                "labels per task",
                "times fewer",
            ),
            tuple(_crossing_row(c) for c in crossings if c.arm.name == name),
            note="Read off the curve between budgets, along the logarithm of the data. “≤”: the "
            "smallest trained budget is already above. “Not reached”: no budget tried is enough.",
            groups=(("", 1), ("of the baseline", 3), ("needed", 4)),
            setting=arm.setting,
        )
        for name, arm in arms.items()
    ]


def _crossing_row(crossing: Crossing) -> tuple[str, ...]:
    mark = "≤ " if crossing.at_most else ""
    low, high = percent(crossing.low), percent(crossing.high)
    fewer = crossing.times_fewer_labels
    return (
        crossing.baseline.label,
        budget_text(crossing.budget),
        f"{crossing.score:.2f}",
        percent(crossing.baseline_share),
        mark + percent(crossing.share),
        mark + low if low == high else f"{low} to {high}",
        f"{mark}{crossing.labels:.0f}" if crossing.reached else ABSENT,
        f"{'≥ ' if mark else ''}{fewer:.1f}" if fewer else ABSENT,
    )


def category_table(grid: ScoreGrid, setting: str) -> Table:
    """Each category's mean over its tasks, a column per arm and budget."""
    points = [p for p in grid.points if p.arm.setting == setting]
    means = [grid.category_means(point) for point in points]
    counts = {c: grid.categories.count(c) for c in dict.fromkeys(grid.categories)}
    categories = tuple(sorted(counts, key=lambda c: (-counts[c], c)))
    rows = tuple(
        (category, str(counts[category]), *_cells(found.get(category) for found in means))
        for category in categories
    )
    overall = _cells(float(np.nanmean(point.scores)) for point in points)
    labels = [p.arm.label for p in points]
    spans = {label: labels.count(label) for label in labels}
    return Table(
        f"{setting}: ROUGE-L by category and labels per task",
        ("category", "tasks", *(budget_text(p.budget) for p in points)),
        (*rows, ("All", str(len(grid.tasks)), *overall)),
        strong_rows=frozenset({len(rows)}),
        groups=(("", 2), *spans.items()),
        setting=setting,
        categories=categories,
    )


def task_table(study: Study, grid: ScoreGrid, setting: str) -> Table:
    """Each task's mean over seeds, for the points that the figure by category shows."""
    points = category_points(study, grid, setting)
    leaked = set(study.leaked_tasks)
    rows = []
    for i, (task, category) in enumerate(zip(grid.tasks, grid.categories, strict=True)):
        columns = (p.scores[:, i] for p in points)
        means = (None if np.isnan(c).all() else float(np.nanmean(c)) for c in columns)
        rows.append((task + (" (leaked)" if task in leaked else ""), category, *_cells(means)))
    heads = (f"{p.arm.label} @ {budget_text(p.budget)}" for p in points)
    return Table(
        f"{setting}: ROUGE-L by task",
        ("task", "category", *heads),
        tuple(rows),
        text_columns=2,
        setting=setting,
        categories=grid.categories,
    )


def _cells(values: Iterable[float | None]) -> list[str]:
    return [ABSENT if value is None else f"{value:.2f}" for value in values]
