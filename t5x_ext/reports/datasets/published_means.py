"""Means that a paper has published by number of demonstrations, and over these, beside ours.

    {"caption": text, "metric": "f1", "sets": over how many, optional,
     "columns": [of "k0", "k1", ..., "worst", "mean", "best"],
     "rows": [{"label": in the paper, "arm": the study's name, "scores": [one for each column]}]}

all in percent; a score may be null.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from t5x_ext.generation.scores import OVER_SHOTS
from t5x_ext.json_fields import Fields
from t5x_ext.reports.datasets.scores import DatasetScores, Row
from t5x_ext.reports.datasets.shots import SET_BY_SET, Shots, count_text, find_shots
from t5x_ext.reports.datasets.tables import metric_title
from t5x_ext.reports.documents.document import Table
from t5x_ext.reports.wording import ABSENT


@dataclass(frozen=True)
class Means:
    """A table of a paper.

    Attributes:
        caption: what it is.
        metric: of its scores.
        columns: numbers of demonstrations, or what is taken over them; see `Shots.interval`.
        rows: label, the study's name for the arm, a score for each column.
        num_sets: that the means are over; 0 where it is not said.
    """

    caption: str
    metric: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[float | None, ...]], ...]
    num_sets: int = 0


def read_means(fields: Fields) -> Means:
    """Reads and checks a table.

    Raises:
        ConfigError: it is malformed.
    """
    columns = fields.texts("columns")
    if not all(name in OVER_SHOTS or re.fullmatch(r"k[0-9]{1,3}", name) for name in columns):
        raise fields.error("columns", f"a list of k0, k1 and the like, {', '.join(OVER_SHOTS)}")
    rows = []
    for each in fields.objects("rows"):
        scores = each.get("scores", list)
        known = (type(s) in (int, float) and 0 <= s <= 100 for s in scores if s is not None)
        if len(scores) != len(columns) or not all(known):
            raise each.error("scores", f"{len(columns)} numbers of 0 to 100, or null")
        rows.append((each.text("label"), each.text("arm", ""), tuple(scores)))
    caption, metric = fields.text("caption"), fields.text("metric")
    return Means(caption, metric, columns, tuple(rows), fields.integer("sets", 0))


def means_table(means: Means, scores: DatasetScores) -> Table:
    """The paper's table with this study's means of the same arms."""
    ours = {row.arm: row for row in scores.rows}  # of several budgets the largest
    shots = find_shots(scores, means.metric)
    sets = shots.num_sets if shots else 0
    rows = [
        (
            label,
            *(
                cell
                for measure, score in zip(means.columns, published, strict=True)
                for cell in (_number(score), _own(shots, ours.get(arm), measure))
            ),
        )
        for label, arm, published in means.rows
    ]
    return Table(
        f"{means.caption}: {metric_title(means.metric)}",
        ("model", *("paper", "here") * len(means.columns)),
        tuple(rows),
        note=_note(means, sets),
        groups=(("", 1), *((_title(measure), 2) for measure in means.columns)),
        strong_rows=frozenset(i for i, (_, arm, _) in enumerate(means.rows) if arm in ours),
    )


def _note(means: Means, own_sets: int) -> str:
    over = f"Paper: means over {count_text(means.num_sets)}. " if means.num_sets else ""
    compared = (
        f"{over}Here: means over {count_text(own_sets)}. With other sets or another base only the "
        "order and the spacing of the rows can be compared."
    )
    has_spread = any(measure in OVER_SHOTS for measure in means.columns)
    return f"{compared} {SET_BY_SET}" if has_spread else compared


def _title(measure: str) -> str:
    return measure if measure in OVER_SHOTS else f"{measure.removeprefix('k')}-shot"


def _number(score: float | None) -> str:
    return ABSENT if score is None else f"{score:.2f}"


def _own(shots: Shots | None, row: Row | None, measure: str) -> str:
    found = shots.interval(row, measure) if shots and row else None
    return f"{found.mean:.2f}" if found else ABSENT
