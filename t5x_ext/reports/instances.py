"""How far scores would move with other test instances of the same tasks."""

from __future__ import annotations

import numpy as np
from etils import epath

from t5x_ext import files
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.metric import mean_of, with_ones
from t5x_ext.metrics.predictions import read_predictions
from t5x_ext.metrics.resampling import BOOTSTRAP_SAMPLES, Interval, percentile_bounds, resample
from t5x_ext.reports.study_files import Cell, Study

_ROUNDING = 1e-6  # percent
_Scores = dict[str, dict[str, list[float]]]  # {task: {instance id: percent, one per seed}}


def instance_intervals(study: Study) -> dict[tuple[str, str], Interval]:
    """Mean over tasks at each (arm, budget), its interval over the instances of each task.

    Tasks, seeds and trained models stay as they are. An instance is drawn for all seeds at once,
    and the draws are stratified: each task keeps its number of instances.

    Returns:
        Only the points whose cells all have scored predictions on disk.
    """
    points: dict[tuple[str, str], list[Cell]] = {}
    for cell in study.cells:
        points.setdefault((cell.arm, cell.budget), []).append(cell)
    found = {point: _read(cells) for point, cells in points.items()}
    return {point: _interval(scores) for point, scores in found.items() if scores}


def _read(cells: list[Cell]) -> _Scores:
    """Every instance's ROUGE-L over all cells of a point; empty where some are not there."""
    scores: _Scores = {}
    for cell in cells:
        path = cell.directory / "predictions.jsonl"
        try:
            rows = read_predictions(path)
        except files.Unreachable:
            raise
        except ConfigError:
            return {}
        by_task: dict[str, list[float]] = {}
        for row in (row for row in rows if row.task in cell.scores):
            if not row.score or "rougeL" not in row.score:
                return {}
            by_id = scores.setdefault(row.task, {})
            by_id.setdefault(row.id, []).append(100 * row.score["rougeL"])
            by_task.setdefault(row.task, []).append(100 * row.score["rougeL"])
        _check_same(path, by_task, cell)
    return scores


def _check_same(path: epath.Path, by_task: dict[str, list[float]], cell: Cell) -> None:
    """Refuses predictions that are not those that the cell's scores were computed from."""
    for task, values in by_task.items():
        stated = cell.scores[task]["rougeL"]
        if abs(np.mean(values) - stated) > _ROUNDING:
            raise ConfigError(
                f"{path}: task '{task}': ROUGE-L {np.mean(values):.4f}, {stated:.4f} in "
                "result.json; allowed: the predictions of that cell"
            )


def _interval(scores: _Scores) -> Interval:
    rng = np.random.default_rng(0)
    draws, means = np.zeros(BOOTSTRAP_SAMPLES), []
    for by_id in scores.values():
        values = np.array([np.mean(seeds) for seeds in by_id.values()])
        draws += resample(with_ones(values), mean_of, rng)
        means.append(values.mean())
    low, high = percentile_bounds(draws / len(scores))
    return Interval(float(np.mean(means)), low, high)
