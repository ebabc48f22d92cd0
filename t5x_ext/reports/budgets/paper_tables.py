"""The paper's tables next to this study's numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t5x_ext.reports.budgets import paper
from t5x_ext.reports.documents.document import Table
from t5x_ext.reports.score_grid import Point, ScoreGrid
from t5x_ext.reports.study_files import SETTINGS, Study
from t5x_ext.reports.wording import ABSENT, budget_text, budgets_phrase, interval_text


def paper_table(study: Study, grid: ScoreGrid) -> Table:
    """The paper's overall results with ours at the same arm and budget."""
    rows = []
    for setting in SETTINGS:
        for (arm, budget), theirs in paper.OVERALL[setting].items():
            role = paper.ROLES[arm.partition("_")[2]]
            point = grid.point(arm, budget)
            ours = interval_text(grid.interval(point)) if point else ABSENT
            rows.append((setting, role, budget_text(budget), f"{theirs:.2f}", ours))
    rows.append(
        ("", "zero-shot, instruction-tuned", "0", f"{paper.ZERO_SHOT:.2f}", _zero_shot(study, grid))
    )
    return Table(
        "Overall results in the form of the paper’s",
        ("setting", "model", "labels per task", "paper", "here [95% interval]"),
        tuple(rows),
        note=f"Paper: {paper.SOURCE}; models of 3 billion parameters, 119 tasks. Here a dash "
        "stands where this study has no such arm and budget. With other models and tasks only "
        "the order and the spacing of the rows can be compared, not their level.",
        text_columns=2,
    )


def _zero_shot(study: Study, grid: ScoreGrid) -> str:
    proposed = [arm.name for arm in study.arms if not arm.baseline]
    points = [p for p in grid.points if p.zero_shot and p.arm.name in proposed]
    return interval_text(grid.interval(points[0])) if points else ABSENT


def paper_category_table(grid: ScoreGrid) -> Table:
    """Baselines by the paper's seven columns, the paper's row and ours below each other."""
    columns = [paper.column_of(category) for category in grid.categories]
    rows, strong = [], set()
    for (arm, budget), theirs in paper.BY_CATEGORY.items():
        setting, _, role = arm.partition("_")
        name = f"{setting.upper()} {role.replace('_', ' ')}, {budgets_phrase([budget])}"
        rows.append((name, "paper", *(f"{value:.2f}" for value in theirs)))
        point = grid.point(arm, budget)
        if point:
            strong.add(len(rows))
            rows.append((name, "here", *_by_column(point, columns)))
    return Table(
        "Baselines by category in the form of the paper’s",
        ("baseline", "source", *paper.COLUMNS),
        tuple(rows),
        note="; ".join(f"{short}: {name}" for short, name in paper.CATEGORIES.items())
        + ". "
        + paper.BY_CATEGORY_NOTE,
        text_columns=2,
        strong_rows=frozenset(strong),
    )


def _by_column(point: Point, columns: Sequence[str]) -> list[str]:
    cells = []
    for column in paper.COLUMNS:
        part = point.scores[:, [c == column for c in columns]]
        cells.append(ABSENT if np.isnan(part).all() else f"{np.nanmean(part):.2f}")
    return cells
