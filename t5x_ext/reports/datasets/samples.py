"""Example outputs of a study of datasets: every arm's answers to the same inputs, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from t5x_ext.metrics.predictions import Prediction
from t5x_ext.metrics.tokens import tokenize_rows
from t5x_ext.reports.answers import try_answers
from t5x_ext.reports.datasets.scores import DatasetScores, Row
from t5x_ext.reports.datasets.tables import metric_title
from t5x_ext.reports.documents.document import Sample
from t5x_ext.reports.study_files import Study

PER_DATASET = 2
_SHOWN_REFERENCES = 3


def pick_samples(study: Study, scores: DatasetScores) -> list[Sample]:
    """Inputs at equal distances from each dataset, and each arm's answer at its largest budget."""
    last = {row.arm: row for row in scores.rows}  # budgets grow
    answers = {name: _answers(study, row) for name, row in last.items()}
    samples = []
    for place in scores.heads:
        column = scores.columns[place]
        of_task = {
            name_of(last[name]): _by_id(found[column.task])
            for name, found in answers.items()
            if column.task in found
        }
        rows = list(next(iter(of_task.values()), {}).values())
        for row in rows[:: max(1, len(rows) // PER_DATASET)][:PER_DATASET]:
            samples.append(_sample(row, of_task, column.metric.key))
    return samples


def _answers(study: Study, row: Row) -> dict[str, list[Prediction]]:
    """The answers of the row's first seed, by dataset, in the tokens that are compared."""
    cells = study.cells_of(row.arm, row.budget)
    found: dict[str, list[Prediction]] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed):
        for task, rows in try_answers(cell).items():
            found.setdefault(task, rows)
    return {task: _tokenized(rows) for task, rows in found.items()}


def _tokenized(rows: Sequence[Prediction]) -> list[Prediction]:
    """Rows with a source have all texts in the same tokens, or everything would seem an edit."""
    if not all(row.source for row in rows):
        return list(rows)
    return [
        dataclasses.replace(
            row,
            source=" ".join(tokens.source),
            prediction=" ".join(tokens.output),
            references=tuple(map(" ".join, tokens.references)),
        )
        for row, tokens in zip(rows, tokenize_rows(rows), strict=True)
    ]


def _by_id(rows: Sequence[Prediction]) -> dict[str, Prediction]:
    return {row.id: row for row in rows}


def name_of(row: Row) -> str:
    """`"both, 500 rows per task"`; an arm that was not tuned on the tasks goes by its label."""
    if row.point is None or not row.point.labels_per_task:
        return row.label
    per_task = "" if row.point.counts_in_all else " per task"
    return f"{row.label}, {row.point.labels_per_task:,.0f} rows{per_task}"


def _sample(row: Prediction, of_task: Mapping[str, Mapping[str, Prediction]], key: str) -> Sample:
    title = metric_title(key).partition(" [")[0]
    shown = []
    for label, by_id in of_task.items():
        if row.id in by_id:
            answer = by_id[row.id]
            value = (answer.score or {}).get(key)
            score = "" if value is None else f"{title} {100 * value:.0f}"
            shown.append((label, answer.prediction, score))
    more = len(row.references) - _SHOWN_REFERENCES
    references = row.references[:_SHOWN_REFERENCES]
    return Sample(
        f"{row.task} · {row.id}" + (f" · {more} more references" if more > 0 else ""),
        row.source or row.inputs,
        references,
        tuple(shown),
        row.source or "",
    )
