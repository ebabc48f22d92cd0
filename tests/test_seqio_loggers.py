"""What evaluation's loggers leave in a directory, run after run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from t5x_ext.metrics import Prediction
from t5x_ext.seqio import JSONLogger


def rows(answer: str, *tasks: str) -> list[Prediction]:
    return [Prediction(task, "c", "0", "q", ("yes",), answer) for task in tasks]


def lines(directory: Path) -> list[tuple[int, str, float]]:
    text = (directory / "metrics.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    return [(line["step"], line["task"], line["exact_match"]) for line in found]


def test_a_resumed_run_replaces_the_lines_of_its_steps(tmp_path: Path) -> None:
    first = JSONLogger(str(tmp_path))
    for step in (10, 20, 30):
        first(step, rows("no", "a", "b"))
    resumed = JSONLogger(str(tmp_path))  # from a checkpoint of step 10
    resumed(20, rows("yes", "a", "b"))
    assert sorted(lines(tmp_path)) == [
        *((10, task, 0) for task in "ab"),
        *((20, task, 100) for task in "ab"),
        *((30, task, 0) for task in "ab"),
    ]
    resumed(30, rows("yes", "a", "b"))
    assert [(step, score) for step, _, score in lines(tmp_path)] == [
        (10, 0),
        (10, 0),
        (20, 100),
        (20, 100),
        (30, 100),
        (30, 100),
    ]
    text = (tmp_path / "predictions-000030.jsonl").read_text()
    assert [json.loads(line)["prediction"] for line in text.splitlines()] == ["yes", "yes"]


def test_other_tasks_of_a_step_stay(tmp_path: Path) -> None:
    JSONLogger(str(tmp_path))(10, rows("no", "a"))
    JSONLogger(str(tmp_path))(10, rows("yes", "b"))
    assert lines(tmp_path) == [(10, "a", 0), (10, "b", 100)]


@pytest.mark.parametrize("torn", ['{"step": 20, "ta', "null", '{"step": 20}'])
def test_what_a_killed_run_left_of_a_line_goes(tmp_path: Path, torn: str) -> None:
    logger = JSONLogger(str(tmp_path))
    logger(10, rows("no", "a"))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    logger(20, rows("yes", "a"))
    assert lines(tmp_path) == [(10, "a", 0), (20, "a", 100)]
