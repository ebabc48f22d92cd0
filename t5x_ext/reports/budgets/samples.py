"""Example predictions for the report: what the models wrote, side by side."""

from __future__ import annotations

from t5x_ext.metrics import rouge
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.reports.answers import try_answers
from t5x_ext.reports.documents.document import Sample
from t5x_ext.reports.plots import category_points
from t5x_ext.reports.score_grid import Point, ScoreGrid
from t5x_ext.reports.study_files import SETTINGS, Study
from t5x_ext.reports.wording import budgets_phrase

PER_CATEGORY = 2
_SHOWN_CHARS = 700  # of a prompt: its end, where the instance stands


def pick_samples(study: Study, grid: ScoreGrid) -> list[Sample]:
    """A few test instances of each category, from the first setting that has them.

    Instances are taken at equal distances from the category's first task with predictions,
    whatever their score, and shown with the answer of every arm in the figure by category.
    """
    samples: list[Sample] = []
    for category in dict.fromkeys(grid.categories):
        for setting in SETTINGS:
            points = category_points(study, grid, setting)
            found = _of_category(study, grid, category, points)
            samples += found
            if found:
                break
    return samples


def _of_category(study: Study, grid: ScoreGrid, category: str, points: list[Point]) -> list[Sample]:
    tasks = [t for t, c in zip(grid.tasks, grid.categories, strict=True) if c == category]
    for task in tasks:
        answers = {}
        for point in points:
            rows = _rows(study, point, task)
            if rows:
                label = f"{point.arm.label}, {budgets_phrase([point.budget])}"
                answers[label] = {row.id: row for row in rows}
        if answers:
            first = list(next(iter(answers.values())).values())
            chosen = first[:: max(1, len(first) // PER_CATEGORY)][:PER_CATEGORY]
            return [_sample(row, answers) for row in chosen]
    return []


def _rows(study: Study, point: Point, task: str) -> list[Prediction]:
    """The task's predictions from the point's first cell that holds it; none if not written."""
    cells = [c for c in study.cells_of(point.arm.name, point.budget) if task in c.scores]
    cell = min(cells, key=lambda c: c.seed, default=None)
    return try_answers(cell).get(task, []) if cell else []


def _sample(row: Prediction, answers: dict[str, dict[str, Prediction]]) -> Sample:
    shown = []
    for label, by_id in answers.items():
        if row.id in by_id:
            other = by_id[row.id]
            score = 100 * rouge.rouge_l(other.prediction, other.references)
            shown.append((label, other.prediction, f"ROUGE-L {score:.0f}"))
    cut = len(row.inputs) > _SHOWN_CHARS
    inputs = "… " + row.inputs[-_SHOWN_CHARS:] if cut else row.inputs
    title = f"{row.category} · {row.task} · {row.id}"
    return Sample(title, inputs, row.references, tuple(shown))
