"""What a report consists of, before it becomes HTML or Markdown.

All text here is plain: the writers escape it, model output included.
"""

from __future__ import annotations

from dataclasses import dataclass

from t5x_ext.reports.comparisons import Claim


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `warning` sets it apart."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text. Columns from `text_columns` on are numbers and aligned right.

    `groups`, if there are any, are headings over several columns: (text, number of columns).
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    text_columns: int = 1
    strong_rows: frozenset[int] = frozenset()
    groups: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Picture:
    """A figure saved beside the report as `name`.png and `name`.svg."""

    name: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Sample:
    """One test instance with what each model answered."""

    title: str
    inputs: str
    references: tuple[str, ...]
    answers: tuple[tuple[str, str, float], ...]  # (model label, text, ROUGE-L in percent)


Block = Paragraph | Table | Picture | Sample


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
