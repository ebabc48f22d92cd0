"""What a report consists of, before it becomes HTML or Markdown.

All text here is plain: the writers escape it, model output included.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from t5x_ext.reports.comparisons import Claim
from t5x_ext.reports.looks import Look

# What neither XML, and so no picture, nor HTML may hold, escaped or not.
_NO_CHARACTERS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def escape(text: str) -> str:
    """Text as HTML and SVG show it; a character that they cannot is written like '\\x1b'."""
    return html.escape(_NO_CHARACTERS.sub(lambda found: repr(found[0])[1:-1], text))


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `warning` sets it apart."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text. Columns from `text_columns` on are numbers and aligned right.

    A line break in a cell sets the rest apart, such as the interval under a score. `groups`, if
    there are any, are headings over several columns: (text, number of columns).
    `strong_rows` and `strong_cells`, (row, column), stand out.
    `setting`, and `categories` for each row, are what a reader can narrow the page down to.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    text_columns: int = 1
    strong_rows: frozenset[int] = frozenset()
    strong_cells: frozenset[tuple[int, int]] = frozenset()
    groups: tuple[tuple[str, int], ...] = ()
    setting: str = ""
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A figure saved next to the report as `name`.png and `name`.svg."""

    name: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Mark:
    """A measured value at `x` with its interval, percent; `text` is shown when pointed at."""

    x: float
    mean: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Line:
    """One arm in a panel, marks from left to right."""

    label: str
    look: Look
    baseline: bool
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Panel:
    """A plot with a logarithmic x axis; `category` is empty for all tasks together."""

    title: str
    setting: str
    category: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Chart(Picture):
    """A figure that can be asked for its values where the medium allows, else a picture."""

    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Sample:
    """One test instance with what each model answered.

    `answers` are (model label, text, score in words). With a `source`, references and answers are
    shown by what they change in it, where the medium allows.
    """

    title: str
    inputs: str
    references: tuple[str, ...]
    answers: tuple[tuple[str, str, str], ...]
    source: str = ""


Block = Paragraph | Table | Picture | Chart | Sample


@dataclass(frozen=True)
class Section:
    """A titled part; a folded one is closed until the reader opens it."""

    title: str
    blocks: tuple[Block, ...]
    folded: bool = False


@dataclass(frozen=True)
class Document:
    """A whole report: title, claim, a line of facts, sections."""

    title: str
    claim: Claim
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
