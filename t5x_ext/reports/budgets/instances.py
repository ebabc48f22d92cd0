"""How far scores would move with other test instances of the same tasks."""

from __future__ import annotations

import numpy as np

from t5x_ext.metrics.metric import mean_of, with_ones
from t5x_ext.metrics.resampling import BOOTSTRAP_SAMPLES, Interval, percentile_bounds, resample
from t5x_ext.reports.answers import check_score, try_answers
from t5x_ext.reports.study_files import FinishedCell, Study

_Scores = dict[str, dict[str, list[float]]]  # {task: {instance id: percent, one per seed}}


def instance_intervals(study: Study) -> dict[tuple[str, str], Interval]:
    """Mean over tasks at each (arm, budget), its interval over the instances of each task.

    Tasks, seeds and trained models stay as they are. An instance is drawn for all seeds at once,
    and the draws are stratified: each task keeps its number of instances.

    Returns:
        Only the points whose cells all have scored predictions on disk.
    """
    points: dict[tuple[str, str], list[FinishedCell]] = {}
    for cell in study.cells:
        points.setdefault((cell.arm, cell.budget), []).append(cell)
    found = {point: _read(cells) for point, cells in points.items()}
    return {point: _interval(scores) for point, scores in found.items() if scores}


def _read(cells: list[FinishedCell]) -> _Scores:
    """Every instance's ROUGE-L over all cells of a point; empty where some are not there."""
    scores: _Scores = {}
    for cell in cells:
        answers = try_answers(cell)
        if not answers:
            return {}
        for task, rows in answers.items():
            if not all(row.score and "rougeL" in row.score for row in rows):
                return {}
            values = [100 * row.score["rougeL"] for row in rows if row.score]
            check_score(cell, task, "rougeL", float(np.mean(values)))
            by_id = scores.setdefault(task, {})
            for row, value in zip(rows, values, strict=True):
                by_id.setdefault(row.id, []).append(value)
    return scores


def _interval(scores: _Scores) -> Interval:
    rng = np.random.default_rng(0)
    draws, means = np.zeros(BOOTSTRAP_SAMPLES), []
    for by_id in scores.values():
        values = np.array([np.mean(seeds) for seeds in by_id.values()])
        draws += resample(with_ones(values), mean_of, rng)
        means.append(values.mean())
    low, high = percentile_bounds(draws / len(scores))
    return Interval(float(np.mean(means)), low, high)
