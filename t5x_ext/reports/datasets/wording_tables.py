"""How scores hold when the same is asked for in other words: sets such as `writing.jfleg.w2`."""

from __future__ import annotations

import re

import numpy as np

from t5x_ext.reports.datasets.scores import DatasetScores, Row
from t5x_ext.reports.datasets.tables import ROWS_TITLE, metric_title, rows_used, short_name
from t5x_ext.reports.documents.document import Table
from t5x_ext.reports.wording import ABSENT


def wording_table(scores: DatasetScores) -> Table | None:
    """The score under the instruction of training, and mean and worst over other wordings of it.

    None where no set comes in several wordings.
    """
    plain: dict[str, int] = {}
    others: dict[str, list[int]] = {}
    for place in scores.heads:
        task = scores.columns[place].task
        found = re.fullmatch(r"(.+)\.w[0-9]+", task)
        if found:
            others.setdefault(found[1], []).append(place)
        else:
            plain[task] = place
    if not others:
        return None
    rows = []
    for row in scores.rows:
        cells = [row.label, rows_used(row)]
        for task, places in others.items():
            cells.append(f"{row.values[plain[task]]:.2f}" if _has(row, plain, task) else ABSENT)
            if row.has(places):
                cells += [f"{f(row.values[places]):.2f}" for f in (np.mean, np.min)]
            else:
                cells += [ABSENT, ABSENT]
        rows.append(tuple(cells))
    keys = {task: scores.columns[places[0]].metric.key for task, places in others.items()}
    heads = [
        (f"{short_name(task)}: {metric_title(key).partition(' [')[0]}", 3)
        for task, key in keys.items()
    ]
    counts = ", ".join(f"{len(each)} of {short_name(task)}" for task, each in others.items())
    return Table(
        "Other wordings of the instruction",
        ("model", ROWS_TITLE, *("trained", "mean", "worst") * len(others)),
        tuple(rows),
        note="Trained: under the only instruction that the rows of training have. Mean and worst: "
        f"over the others ({counts}).",
        groups=(("", 2), *heads),
    )


def _has(row: Row, plain: dict[str, int], task: str) -> bool:
    return task in plain and row.has([plain[task]])
