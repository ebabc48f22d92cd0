"""What the models of a study wrote: the predictions that belong to each cell's scores."""

from __future__ import annotations

import numpy as np

from t5x_ext import files
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.predictions import Prediction, read_predictions
from t5x_ext.reports.study_files import FinishedCell

_ROUNDING = 1e-6  # percent


def path_of(cell: FinishedCell) -> files.StrPath:
    """Where a cell's predictions are."""
    return cell.directory / "predictions.jsonl"


def read_answers(cell: FinishedCell) -> dict[str, list[Prediction]]:
    """The predictions for those of the cell's tasks that the study still has, by task.

    Raises:
        ConfigError: there is no such file, or it is malformed.
    """
    answers: dict[str, list[Prediction]] = {}
    for row in read_predictions(path_of(cell)):
        if row.task in cell.scores:
            answers.setdefault(row.task, []).append(row)
    return answers


def try_answers(cell: FinishedCell) -> dict[str, list[Prediction]]:
    """The same, but {} where the file is missing or damaged: scores stand in result.json too."""
    try:
        return read_answers(cell)
    except files.Unreachable:
        raise
    except ConfigError:
        return {}


def check_score(cell: FinishedCell, task: str, key: str, score: float) -> None:
    """Refuses predictions that are not those that the cell's scores were computed from.

    Args:
        cell: with the stated scores.
        task: whose score it is.
        key: of the metric; one that the cell does not state is not checked.
        score: percent, computed from the predictions.
    """
    stated = cell.scores[task].get(key, score)
    if not np.isclose(score, stated, rtol=0, atol=_ROUNDING):
        title = "ROUGE-L" if key == "rougeL" else key
        raise ConfigError(
            f"{path_of(cell)}: task '{task}': {title} {score:.4f}, {stated:.4f} in "
            "result.json; allowed: the predictions of that cell"
        )
