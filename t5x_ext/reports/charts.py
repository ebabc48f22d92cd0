"""The data of the page's interactive figure: score against budget, by setting and category."""

from __future__ import annotations

import math

import numpy as np

from t5x_ext.reports.documents.document import Chart, Line, Mark, Panel
from t5x_ext.reports.looks import BudgetAxis, budget_axis, looks_of
from t5x_ext.reports.score_grid import Point, ScoreGrid
from t5x_ext.reports.study_files import SETTING_TITLES, SETTINGS, Study

ALL_TASKS = ""


def score_chart(study: Study, grid: ScoreGrid, caption: str, alt: str) -> Chart:
    """A panel for each setting over all tasks, and for each setting and category.

    Panels of one category share the vertical axis, so that settings can be compared.
    """
    categories = sorted(dict.fromkeys(grid.categories))
    panels = []
    for category in (ALL_TASKS, *categories) if len(categories) > 1 else (ALL_TASKS,):
        lines = {setting: _lines(study, grid, setting, category) for setting in SETTINGS}
        marks = [mark for each in lines.values() for line in each for mark in line.marks]
        if not marks:
            continue
        top = max(10.0, 10 * math.ceil(max(mark.high for mark in marks) / 10))
        bottom = max(0.0, 10 * math.floor(min(mark.low for mark in marks) / 10))
        y_range = min(bottom, top - 10), top  # all scores may be the same
        for setting, drawn in lines.items():
            if drawn:
                axis = _axis(grid, setting)
                title = SETTING_TITLES[setting] + (f": {category}" if category else "")
                panels.append(
                    Panel(title, setting, category, axis.limits, y_range, axis.ticks, drawn)
                )
    return Chart("scores", caption, alt, tuple(panels))


def _axis(grid: ScoreGrid, setting: str) -> BudgetAxis:
    return budget_axis([p for p in grid.points if p.arm.setting == setting])


def _lines(study: Study, grid: ScoreGrid, setting: str, category: str) -> tuple[Line, ...]:
    looks = looks_of(study)
    members = np.array([category in (ALL_TASKS, c) for c in grid.categories])
    lines = []
    for arm in study.arms:
        curve = grid.curve(arm.name) if arm.setting == setting else []
        axis = _axis(grid, setting)
        marks = (_mark(grid, point, axis.place(point), members) for point in curve)
        there = tuple(mark for mark in marks if mark)
        if there:
            lines.append(Line(arm.label, looks[arm.label], arm.baseline, there))
    return tuple(lines)


def _mark(grid: ScoreGrid, point: Point, x: float, members: np.ndarray) -> Mark | None:
    there = ~np.isnan(point.scores) & members
    if not there.any():
        return None
    found = grid.interval(point, members)
    tasks = int(there.any(axis=0).sum())
    labels = f"{point.labels_per_task:,.0f} labels per task, {100 * point.share:.3g}% of the data"
    text = (
        f"{point.arm.label}\n"
        f"{grid.measure} {found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]\n"
        f"{'zero-shot' if point.zero_shot else labels}\n"
        f"{tasks} task{'s' if tasks > 1 else ''}"
    )
    return Mark(x, found.mean, found.low, found.high, text)
