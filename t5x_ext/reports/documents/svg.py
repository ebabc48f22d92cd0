"""Draws a panel of the page's figure as inline SVG: text is text, every value has its tooltip."""

from __future__ import annotations

import math

from t5x_ext.reports.documents.document import Line, Mark, Panel, escape
from t5x_ext.reports.looks import Look

_WIDTH, _HEIGHT = 460, 330  # user units; the page scales them
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 30, 42
_APART = 4  # user units between arms
_Y_STEPS = (1, 2, 5, 10, 20)
# Outlines within -5..5, by Matplotlib's letters; "o" is a circle.
_OUTLINES = {
    "s": "M-4-4H4V4H-4Z",
    "^": "M0-5L5 4H-5Z",
    "D": "M0-5.4L5.4 0L0 5.4L-5.4 0Z",
    "v": "M0 5L5-4H-5Z",
    "P": "M-1.8-5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8Z",
    "X": "M-5-2.5L-2.5-5L0-2.5L2.5-5L5-2.5L2.5 0L5 2.5L2.5 5L0 2.5L-2.5 5L-5 2.5L-2.5 0Z",
}


def draw_symbol(look: Look) -> str:
    """An arm's marker around the origin."""
    paint = f'fill="{look.colour}" stroke="#fff"'
    if look.marker == "o":
        return f'<circle r="4.6" {paint}/>'
    return f'<path d="{_OUTLINES[look.marker]}" {paint}/>'


def draw_key(line: Line) -> str:
    """The small sample of a line that a legend shows."""
    return (
        f'<svg class="key" viewBox="-14 -7 28 14" width="28" height="14" aria-hidden="true">'
        f'<path d="M-14 0H14" {_stroke(line)}/>{draw_symbol(line.look)}</svg>'
    )


def draw_panel(panel: Panel) -> str:
    """The panel as one svg element."""
    scale = _Scale(panel)
    # Arms trained on the same budgets stand a little apart, or whiskers would overlap.
    middle = (len(panel.lines) - 1) / 2
    shifts = [round((i - middle) * _APART, 1) for i in range(len(panel.lines))]
    drawn = list(zip(panel.lines, shifts, strict=True))
    lines = "\n".join(_draw_line(line, scale, shift) for line, shift in drawn)
    # Marks lie above every band and line, or another arm's band would catch the pointer.
    marks = "\n".join(
        _draw_mark(mark, line, scale, shift) for line, shift in drawn for mark in line.marks
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="group" aria-label="{escape(panel.title)}">\n'
        f'<text class="title" x="{_LEFT}" y="14">{escape(panel.title)}</text>\n'
        f"{_draw_axes(panel, scale)}\n{lines}\n{marks}\n</svg>"
    )


class _Scale:
    """Data to user units."""

    def __init__(self, panel: Panel):
        self._x = [math.log(end) for end in panel.x_range]
        self._y = panel.y_range
        self.right, self.bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x(self, value: float) -> float:
        low, high = self._x
        share = (math.log(value) - low) / (high - low)
        return round(_LEFT + share * (self.right - _LEFT), 1)

    def y(self, value: float) -> float:
        low, high = self._y
        return round(self.bottom - (value - low) / (high - low) * (self.bottom - _TOP), 1)


def _draw_axes(panel: Panel, scale: _Scale) -> str:
    low, high = panel.y_range
    step = next((s for s in _Y_STEPS if (high - low) / s <= 6), _Y_STEPS[-1])
    parts = []
    for value in range(step * math.ceil(low / step), int(high) + 1, step):
        y = scale.y(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y}H{scale.right}"/>')
        parts.append(f'<text class="tick y" x="{_LEFT - 7}" y="{y + 3.5}">{value}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {scale.bottom}H{scale.right}"/>')
    for at, text in panel.ticks:
        x = scale.x(at)
        parts.append(f'<path class="axis" d="M{x} {scale.bottom}v4"/>')
        parts.append(f'<text class="tick" x="{x}" y="{scale.bottom + 17}">{escape(text)}</text>')
    middle = (_LEFT + scale.right) / 2
    parts.append(
        f'<text class="tick name" x="{middle}" y="{_HEIGHT - 6}">labels per task (log axis)</text>'
    )
    return "".join(parts)


def _stroke(line: Line) -> str:
    dash = ' stroke-dasharray="6 3"' if line.baseline else ""
    return f'fill="none" stroke="{line.look.colour}" stroke-width="{1.5 if dash else 2.4}"{dash}'


def _draw_line(line: Line, scale: _Scale, shift: float) -> str:
    parts = []
    xs = [scale.x(mark.x) + shift for mark in line.marks]
    ys = [scale.y(mark.mean) for mark in line.marks]
    if len(line.marks) == 1 and line.baseline:  # one budget: the level to compare with
        parts.append(f'<path d="M{_LEFT} {ys[0]}H{scale.right}" {_stroke(line)}/>')
    if len(line.marks) > 1 and not line.baseline:
        upper = [f"{x:.1f} {scale.y(mark.high)}" for x, mark in zip(xs, line.marks, strict=True)]
        lower = [f"{x:.1f} {scale.y(mark.low)}" for x, mark in zip(xs, line.marks, strict=True)]
        band = "L".join(upper + lower[::-1])
        parts.append(f'<path d="M{band}Z" fill="{line.look.colour}" opacity="0.12"/>')
    path = "L".join(f"{x:.1f} {y}" for x, y in zip(xs, ys, strict=True))
    parts.append(f'<path d="M{path}" {_stroke(line)}/>')
    return "".join(parts)


def _draw_mark(mark: Mark, line: Line, scale: _Scale, shift: float) -> str:
    x, y = scale.x(mark.x) + shift, scale.y(mark.mean)
    whisker = f"M0 {scale.y(mark.low) - y:.1f}V{scale.y(mark.high) - y:.1f}"
    return (
        f'<g class="mark" tabindex="0" role="img" transform="translate({x:.1f} {y})">'
        f"<title>{escape(mark.text)}</title>"
        f'<path class="whisker" d="{whisker}" stroke="{line.look.colour}"/>'
        f'<circle class="reach" r="11"/>{draw_symbol(line.look)}</g>'
    )
