"""The report's figures. Matplotlib's object interface only: no display, no global state."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from t5x_ext import files
from t5x_ext.reports.comparisons import Comparison
from t5x_ext.reports.looks import BudgetAxis, Look, budget_axis, looks_of
from t5x_ext.reports.score_grid import Point, ScoreGrid
from t5x_ext.reports.study_files import SETTING_TITLES, SETTINGS, Arm, Study
from t5x_ext.reports.wording import budget_text, budgets_phrase

_INK, _FAINT = "#222b36", "#d9dee5"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#8792a2",
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "t5x_ext",  # the same study gives the same bytes
}
_PANEL_WIDTH = 4.6  # inches


def _arms(study: Study, setting: str) -> list[Arm]:
    return [arm for arm in study.arms if arm.setting == setting]


def _panels(grid: ScoreGrid, height: float, **axes) -> tuple[Figure, dict[str, Axes]]:
    """A figure with one panel per setting that has a score."""
    settings = [s for s in SETTINGS if any(p.arm.setting == s for p in grid.points)]
    figure = Figure(figsize=(_PANEL_WIDTH * max(len(settings), 1.3), height), layout="constrained")
    panels = figure.subplots(1, len(settings), squeeze=False, **axes)[0]
    for setting, panel in zip(settings, panels, strict=True):
        panel.set_title(SETTING_TITLES[setting])
    return figure, dict(zip(settings, panels, strict=True))


def _add_legend(figure: Figure, panels: dict[str, Axes]) -> None:
    """One legend under all panels: an arm looks the same in each."""
    entries: dict[str, Any] = {}
    for panel in panels.values():
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    columns = len(panels) if len(entries) > 1 else 1
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def save(figure: Figure, directory: epath.Path, name: str) -> None:
    """Writes `name`.png (150 dots per inch) and `name`.svg."""
    png, svg = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(png, format="png", dpi=150, facecolor="white")
        figure.savefig(svg, format="svg", facecolor="white", metadata={"Date": None})
    files.write_bytes(directory / f"{name}.png", png.getvalue())
    files.write_bytes(directory / f"{name}.svg", svg.getvalue())


def plot_scores(study: Study, grid: ScoreGrid) -> Figure:
    """Score against training examples per task, log axis, one panel per setting.

    Proposed arms are curves with a band; baselines are dashed curves, or horizontal lines with a
    marker where they were trained at one budget only. Zero-shot stands at the left edge.
    """
    with matplotlib.rc_context(_STYLE):
        looks = looks_of(study)
        figure, panels = _panels(grid, 4.2, sharey=True)
        for setting, panel in panels.items():
            points = [p for p in grid.points if p.arm.setting == setting]
            axis = budget_axis(points)
            panel.set_xscale("log")
            panel.set_xlim(*axis.limits)
            for i, arm in enumerate(_arms(study, setting)):
                # Arms trained on the same budgets stand a little apart, or whiskers would overlap.
                shift = 1 + 0.03 * i
                _draw_curve(panel, grid, grid.curve(arm.name), looks[arm.label], axis, shift)
            panel.set_xticks(*zip(*axis.ticks, strict=True))
            panel.set_xticks([], minor=True)
            if any(point.zero_shot for point in points):
                panel.axvline(axis.zero_at * 2, color=_FAINT, linewidth=1, linestyle=":")
            panel.set_xlabel("training examples per task (mean)")
            panel.grid(axis="x", visible=False)
        next(iter(panels.values())).set_ylabel(f"{grid.measure}, mean over tasks")
        _add_legend(figure, panels)
        return figure


def _draw_curve(
    panel: Axes,
    grid: ScoreGrid,
    points: list[Point],
    look: Look,
    axis: BudgetAxis,
    shift: float,
) -> None:
    if not points:
        return
    arm = points[0].arm
    x = [shift * axis.place(point) for point in points]
    intervals = [grid.interval(point) for point in points]
    means = np.array([interval.mean for interval in intervals])
    low = np.array([interval.low for interval in intervals])
    high = np.array([interval.high for interval in intervals])
    style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 5.5}
    style |= {"label": arm.label, "markeredgecolor": "white", "markeredgewidth": 0.6}
    if not arm.baseline:
        panel.fill_between(x, low, high, color=look.colour, alpha=0.13, linewidth=0)
        panel.plot(x, means, linewidth=2.2, zorder=4, **style)
        if len(points) == 1:
            panel.vlines(x, low, high, color=look.colour, linewidth=1.2)
        return
    if len(points) == 1:
        panel.axhline(means[0], color=look.colour, linewidth=1.1, linestyle=(0, (5, 3)))
    panel.vlines(x, low, high, color=look.colour, linewidth=0.9, alpha=0.55)
    panel.plot(x, means, linewidth=1.4, linestyle=(0, (5, 2)), zorder=3, **style)


def plot_differences(study: Study, comparisons: Sequence[Comparison]) -> Figure:
    """Proposed minus baseline at equal budget, a row per comparison, intervals over 0 or not."""
    with matplotlib.rc_context(_STYLE):
        looks = looks_of(study)
        figure = Figure(figsize=(7.6, 0.9 + 0.3 * len(comparisons)), layout="constrained")
        panel = figure.subplots()
        panel.axvline(0, color=_INK, linewidth=1)
        names = []
        for row, comparison in enumerate(comparisons):
            look, found = looks[comparison.baseline.label], comparison.difference
            # Filled markers are differences whose interval leaves 0 out.
            clear = comparison.verdict in ("ahead", "behind")
            panel.plot([found.low, found.high], [row, row], color=look.colour, linewidth=1.8)
            panel.plot(
                [found.mean],
                [row],
                look.marker,
                color=look.colour,
                markerfacecolor=look.colour if clear else "white",
                markersize=6.5,
            )
            budgets = ", ".join(map(budget_text, comparison.budgets))
            names.append(f"{comparison.arm.setting}, {budgets}: over {comparison.baseline.label}")
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.grid(axis="y", visible=False)
        panel.set_xlabel("difference in ROUGE-L points at equal budget (95% interval)")
        return figure


def category_points(study: Study, grid: ScoreGrid, setting: str) -> list[Point]:
    """One point per arm for the comparison by category.

    The trained budget that most arms of the setting have (the smallest of these); an arm without
    it is shown at its largest budget.
    """
    curves = [grid.curve(arm.name, zero_shot=False) for arm in _arms(study, setting)]
    curves = [curve for curve in curves if curve]
    if not curves:
        return []
    order = {p.budget: p.labels_per_task for curve in curves for p in curve}
    held = {b: sum(any(p.budget == b for p in curve) for curve in curves) for b in order}
    common = min(order, key=lambda b: (-held[b], order[b]))
    return [next((p for p in curve if p.budget == common), curve[-1]) for curve in curves]


def plot_categories(study: Study, grid: ScoreGrid) -> Figure:
    """Bars of the score by category, an arm a colour; dots are the single tasks."""
    with matplotlib.rc_context(_STYLE):
        looks = looks_of(study)
        counts = {c: grid.categories.count(c) for c in dict.fromkeys(grid.categories)}
        categories = sorted(counts, key=lambda category: (-counts[category], category))
        bars = max(len(category_points(study, grid, setting)) for setting in SETTINGS)
        height = 1.8 + len(categories) * max(0.14 * bars, 0.28)
        figure, panels = _panels(grid, height, sharey=True, sharex=True)
        for setting, panel in panels.items():
            points = category_points(study, grid, setting)
            for i, point in enumerate(points):
                _draw_bars(panel, grid, point, looks[point.arm.label], categories, i, len(points))
            panel.grid(axis="y", visible=False)
            panel.set_xlim(0, 100)
            panel.set_xlabel(grid.measure)
        first = next(iter(panels.values()))
        names = [f"{category} ({counts[category]})" for category in categories]
        first.set_yticks(range(len(categories)), names)
        first.set_ylim(len(categories) - 0.5, -0.5)
        _add_legend(figure, panels)
        return figure


def _draw_bars(
    panel: Axes,
    grid: ScoreGrid,
    point: Point,
    look: Look,
    categories: Sequence[str],
    index: int,
    bars: int,
) -> None:
    thickness = 0.8 / bars
    means = grid.category_means(point)
    rows = np.arange(len(categories)) - 0.4 + (index + 0.5) * thickness
    panel.barh(
        rows,
        [means.get(category, 0.0) for category in categories],
        height=thickness * 0.9,
        color=look.colour,
        alpha=0.85,
        label=f"{point.arm.label}, {budgets_phrase([point.budget])}",
    )
    there = ~np.isnan(point.scores).all(axis=0)
    by_task = np.nanmean(point.scores[:, there], axis=0)
    named = [c for c, here in zip(grid.categories, there, strict=True) if here]
    several = [i for i, c in enumerate(named) if grid.categories.count(c) > 1]
    if not several:  # an empty line would break the layout
        return
    where = [rows[categories.index(named[i])] for i in several]
    style: dict[str, Any] = {"markersize": 2.2, "color": _INK, "alpha": 0.5, "linewidth": 0}
    panel.plot(by_task[several], where, "o", clip_on=False, **style)
