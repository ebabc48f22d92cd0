"""Figures that a paper has published, to show next to a study's own.

A study names a file of `papers/`, or gives the path of another one, with

    {"source": authors, year and title,
     "datasets": [{"name": in the paper, "metric": in the paper, "rows": test rows,
                   "task": the study's name for the same dataset}],
     "rows": [{"label": in the paper, "scores": [one for each dataset, or null], "mean": optional,
               "arm": the study's name for the same arm, optional}],
     "parts": {"columns": ["P", "R", "F0.5"], "datasets": [names],
               "rows": [{"label": text, "scores": [[one for each column] for each dataset],
                         "arm": as above}]},
     "means": [tables of means by number of demonstrations; see `published_means`],
     "footnotes": [what a reader has to know]}

all in percent; `parts`, `means` and `footnotes` may be missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from etils import epath

from t5x_ext import files
from t5x_ext.errors import ConfigError
from t5x_ext.json_fields import Fields, refuse_repeated
from t5x_ext.reports.datasets.published_means import Means, means_table, read_means
from t5x_ext.reports.datasets.scores import DatasetScores, Row
from t5x_ext.reports.datasets.tables import metric_title, short_name
from t5x_ext.reports.documents.document import Block, Paragraph, Table
from t5x_ext.reports.wording import ABSENT


@dataclass(frozen=True)
class Dataset:
    """A dataset under the paper's name, and the study's task that is the same."""

    name: str
    metric: str
    rows: int
    task: str


@dataclass(frozen=True)
class Figures:
    """A line of a paper's table; `scores` are in the order of its datasets (and columns)."""

    label: str
    scores: tuple[float | None, ...]
    mean: float | None = None
    arm: str = ""


@dataclass(frozen=True)
class Parts:
    """What the scores of some datasets are made of: of each dataset a figure for each column."""

    columns: tuple[str, ...]
    datasets: tuple[str, ...]
    rows: tuple[Figures, ...]


@dataclass(frozen=True)
class Published:
    """A paper's figures."""

    source: str
    datasets: tuple[Dataset, ...]
    rows: tuple[Figures, ...]
    parts: Parts | None
    means: tuple[Means, ...]
    footnotes: tuple[str, ...]


def names() -> tuple[str, ...]:
    """The papers that come with the package."""
    found = resources.files("t5x_ext.reports").joinpath("papers").iterdir()
    return tuple(sorted(path.name.removesuffix(".json") for path in found))


def find_paper(name: str) -> epath.Path:
    """The file of a paper.

    Args:
        name: one of `names()`, or a path that ends in ".json".

    Raises:
        ConfigError: it is neither.
    """
    if name.endswith(".json"):
        path = files.path(name, "PUBLISHED")
    else:
        path = epath.Path(str(resources.files("t5x_ext.reports"))) / "papers" / f"{name}.json"
    if not files.is_file(path):
        raise ConfigError(
            f"PUBLISHED: {name!r}; allowed: {', '.join(names())}, or the path of a .json file"
        )
    return path


def read_published(name: str) -> Published:
    """Reads and checks a paper's figures; `name` as in `find_paper`.

    Raises:
        ConfigError: there is no such file, or it is malformed.
    """
    fields = Fields(find_paper(name))
    datasets = tuple(
        Dataset(each.text("name"), each.text("metric"), each.integer("rows"), each.text("task"))
        for each in fields.objects("datasets")
    )
    refuse_repeated(fields.objects("datasets"), "name", lambda each: each.text("name"))
    return Published(
        source=fields.text("source"),
        datasets=datasets,
        rows=tuple(_figures(each, len(datasets)) for each in fields.objects("rows")),
        parts=_parts(fields.inner("parts")) if "parts" in fields.values else None,
        means=tuple(map(read_means, fields.objects("means"))) if "means" in fields.values else (),
        footnotes=fields.texts("footnotes", ()),
    )


def _figures(fields: Fields, count: int) -> Figures:
    scores = fields.get("scores", list)
    if len(scores) != count or not all(_is_score(score) for score in scores):
        raise fields.error("scores", f"{count} numbers of 0 to 100, or null, one for each dataset")
    mean = fields.number("mean", high=100) if "mean" in fields.values else None
    return Figures(fields.text("label"), tuple(scores), mean, fields.text("arm", ""))


def _is_score(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= 100)


def _parts(fields: Fields) -> Parts:
    columns, datasets = fields.texts("columns"), fields.texts("datasets")
    rows = []
    for each in fields.objects("rows"):
        scores = each.get("scores", list)
        flat = [value for part in scores if isinstance(part, list) for value in part]
        if len(flat) != len(columns) * len(datasets) or not all(map(_is_score, flat)):
            raise each.error("scores", "for each dataset a list with a number for each column")
        rows.append(Figures(each.text("label"), tuple(flat), arm=each.text("arm", "")))
    return Parts(columns, datasets, tuple(rows))


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f}"


def published_blocks(published: Published, scores: DatasetScores) -> list[Block]:
    """The paper's tables with this study's scores of the same arms and datasets, and footnotes."""
    heads = {scores.columns[place].task: place for place in scores.heads}
    ours = {row.arm: row for row in scores.rows}  # of several budgets the largest
    here = [heads.get(dataset.task) for dataset in published.datasets]
    has_all = None not in here
    has_means = has_all or any(figures.mean is not None for figures in published.rows)
    rows = []
    for figures in published.rows:
        own = ours.get(figures.arm)
        cells = [figures.label]
        for theirs, place in zip(figures.scores, here, strict=True):
            cells += [_number(theirs), *([] if place is None else [_own(own, [place])])]
        cells += [_number(figures.mean)] if has_means else []
        cells += [_own(own, [place for place in here if place is not None])] if has_all else []
        rows.append(tuple(cells))
    pairs = zip(published.datasets, here, strict=True)
    groups = [(f"{each.name} ({each.metric})", len(_heads(place))) for each, place in pairs]
    header = ["model", *(word for place in here for word in _heads(place))]
    table = Table(
        "Published figures and ours",
        (*header, *(_heads(0 if has_all else None) if has_means else ())),
        tuple(rows),
        note=_note(published, scores, here),
        groups=(("", 1), *groups, *((("mean", 1 + has_all),) if has_means else ())),
        strong_rows=frozenset(i for i, each in enumerate(published.rows) if each.arm in ours),
    )
    parts = [_parts_table(published, published.parts, scores)] if published.parts else []
    means = (means_table(each, scores) for each in published.means)
    return [*means, table, *parts, *map(Paragraph, published.footnotes)]


def _parts_table(published: Published, parts: Parts, scores: DatasetScores) -> Table:
    """The paper's precision and recall, and this study's of the same arms on the same datasets."""
    tasks = {each.name: each.task for each in published.datasets}
    heads = {scores.columns[place].task: place for place in scores.heads}
    here = [heads.get(tasks.get(name, "")) for name in parts.datasets]
    ours = {row.arm: row for row in scores.rows}  # of several budgets the largest
    count = len(parts.columns)
    rows = []
    for figures in parts.rows:
        own = ours.get(figures.arm)
        cells = [figures.label]
        for number, place in enumerate(here):
            cells += map(_number, figures.scores[number * count : (number + 1) * count])
            if place is not None:
                found = own.parts.get(place) if own else None
                cells += [ABSENT] * count if found is None else map(_number, found)
        rows.append(tuple(cells))
    groups: list[tuple[str, int]] = [("", 1)]
    for name, place in zip(parts.datasets, here, strict=True):
        groups += [
            (f"{name}, paper", count),
            *([] if place is None else [(f"{name}, here", count)]),
        ]
    return Table(
        "Precision and recall in the paper and here",
        ("model", *parts.columns * (len(groups) - 1)),
        tuple(rows),
        groups=tuple(groups),
        strong_rows=frozenset(i for i, each in enumerate(parts.rows) if each.arm in ours),
    )


def _heads(place: int | None) -> tuple[str, ...]:
    return ("paper",) if place is None else ("paper", "here")


def _own(row: Row | None, places: list[int]) -> str:
    if row is None or not row.has(places):
        return ABSENT
    return f"{np.mean(row.values[places]):.2f}"


def _note(published: Published, scores: DatasetScores, here: list[int | None]) -> str:
    same = (
        f"{dataset.name}: {short_name(dataset.task)} by "
        f"{metric_title(scores.columns[place].metric.key)}"
        for dataset, place in zip(published.datasets, here, strict=True)
        if place is not None
    )
    return (
        f"Paper: {published.source}. Here: {'; '.join(same) or 'none of these datasets'}. With "
        "other models and fewer test rows only the order and the spacing of the rows can be "
        "compared, not their level."
    )
