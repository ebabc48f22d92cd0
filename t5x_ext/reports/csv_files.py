"""The report's numbers as CSV, full precision.

Spreadsheets run a cell that begins with `=` and its like as a formula. Text that begins so (a
label, a task's name) gets an apostrophe before it, and dropping one leading apostrophe gives back
every text as it was. Numbers stand as they are.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np

from t5x_ext.files import StrPath, write_text
from t5x_ext.metrics.scoring import METRICS
from t5x_ext.reports.datasets.scores import DatasetScores
from t5x_ext.reports.score_grid import ScoreGrid
from t5x_ext.reports.study_files import Study

# The last four are = + - @ as East Asian keyboards type them. A text's own leading apostrophe is
# doubled, so that dropping one is right for every text.
_FORMULA_STARTS = tuple("=+-@\t\r\n'\uff1d\uff0b\uff0d\uff20")

_RESULT_HEADER = (
    "key",
    "setting",
    "arm",
    "label",
    "initial",
    "prompt",
    "budget",
    "seed",
    "task",
    "category",
    "train_examples",
    "test_examples",
)
_RESULT_NOTES = (
    "truncated_train",
    "truncated_test",
    "leaked",
    "short",
    "cell_train_secs",
    "cell_decode_secs",
)
_SUMMARY_HEADER = (
    "setting",
    "arm",
    "label",
    "initial",
    "prompt",
    "budget",
    "scope",
    "tasks",
    "seeds",
    "labels_per_task",
    "share_of_data",
    "rougeL",
    "rougeL_low",
    "rougeL_high",
    "rouge1",
    "exact_match",
    "rougeL_over_instances",
)
_DATASET_HEADER = ("arm", "label", "budget", "dataset", "metric", "score", "low", "high")


def neutralise(value: object) -> object:
    """Text that a spreadsheet would run as a formula gets a leading apostrophe.

    `"=1+1"` -> `"'=1+1"`; numbers, negative ones too, are left alone.
    """
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return "'" + value
    return value


def _write(path: StrPath, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows([neutralise(value) for value in row] for row in rows)
    write_text(path, text.getvalue())


def write_results(path: StrPath, study: Study) -> None:
    """results.csv: a row per finished cell and task, with every metric that some task has."""
    category = {task.name: task.category for task in study.tasks}
    scored = (name for cell in study.cells for score in cell.scores.values() for name in score)
    metrics = [name for name in dict.fromkeys((*METRICS, *scored)) if name != "n"]
    rows = []
    for cell in study.cells:
        arm = study.arm(cell.arm)
        head = (
            cell.key,
            arm.setting,
            arm.name,
            arm.label,
            arm.initial,
            arm.prompt,
            cell.budget,
            cell.seed,
        )
        for task, scores in cell.scores.items():
            train_cut, test_cut = cell.truncated_by_task.get(task, (0, 0))
            rows.append(
                (
                    *head,
                    task,
                    category[task],
                    cell.train_examples_by_task.get(task, 0),
                    scores["n"],
                    *(scores.get(metric, "") for metric in metrics),
                    train_cut,
                    test_cut,
                    int(task in cell.leaked_tasks),
                    int(task in cell.short_tasks),
                    cell.train_secs,
                    cell.decode_secs,
                )
            )
    _write(path, (*_RESULT_HEADER, *metrics, *_RESULT_NOTES), rows)


def write_summary(path: StrPath, study: Study, grids: dict[str, ScoreGrid]) -> None:
    """summary.csv: a row per arm, budget and scope ("overall" or a category).

    `rougeL` is the mean over tasks, as everywhere in the report; `rougeL_over_instances` weighs
    each task by its test instances (Tk-Instruct's mean).
    """
    grid = grids["rougeL"]
    instances = _test_instances(study)
    weights = np.array([instances.get(task, 0) for task in grid.tasks], float)
    scopes = {"overall": [True] * len(grid.tasks)}
    scopes |= {name: [c == name for c in grid.categories] for name in grid.categories}
    rows = []
    for point in grid.points:
        arm = point.arm
        for scope, members in scopes.items():
            part = np.where(members, point.scores, np.nan)
            there = ~np.isnan(part)
            if not there.any():
                continue
            interval = grid.resampler.interval(part)
            others = (
                np.nanmean(grids[metric].same_point(point).scores[:, members])
                for metric in ("rouge1", "exact_match")
            )
            over_instances = np.nansum(part * weights) / (there * weights).sum()
            rows.append(
                (
                    arm.setting,
                    arm.name,
                    arm.label,
                    arm.initial,
                    arm.prompt,
                    point.budget,
                    scope,
                    there.any(axis=0).sum(),
                    there.any(axis=1).sum(),
                    point.labels_per_task,
                    point.share,
                    interval.mean,
                    interval.low,
                    interval.high,
                    *others,
                    over_instances,
                )
            )
    _write(path, _SUMMARY_HEADER, rows)


def write_datasets(path: StrPath, scores: DatasetScores) -> None:
    """datasets.csv: a row per arm, budget, dataset and metric; traits of outputs are metrics too.

    Bounds stand among the arms, see `dataset_scores.BOUNDS`. The columns `above_<arm>` hold the
    difference to each reference arm, empty for itself.
    """
    ends = ("", "_low", "_high")
    above = [f"above_{row.arm}{end}" for row in scores.references for end in ends]
    rows: list[list[object]] = []
    for row in (*scores.rows, *scores.bounds):
        for i, column in enumerate(scores.columns):
            found = row.interval([i])
            if found is None:
                continue
            name = row.arm or row.bound
            cells: list[object] = [name, row.label, row.budget, column.task, column.metric.key]
            cells += [found.mean, found.low, found.high]
            for reference in scores.references:
                apart = None if row is reference else row.above(reference, [i])
                cells += [apart.mean, apart.low, apart.high] if apart else [""] * len(ends)
            rows.append(cells)
    _write(path, (*_DATASET_HEADER, *above), rows)


def _test_instances(study: Study) -> dict[str, float]:
    return {task: score["n"] for cell in study.cells for task, score in cell.scores.items()}
