"""A study of two writing datasets with made-up answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from t5x_ext.metrics import METRICS as DEFAULT
from t5x_ext.metrics import (
    Prediction,
    measure,
    task_scores,
    write_predictions,
)
from t5x_ext.reports.datasets.scores import DatasetScores, Row

METRICS = {"writing.fix": ("errant", "gleu_closed"), "writing.plain": ("sari", "sari_hf")}
WRONG = "She play the harp every day , and he listen ."
RIGHT = "She plays the harp every day , and he listens ."
HALF = "She plays the harp every day , and he listen ."
HOSTILE = "<script>alert('x')</script>"
SIZE = 12


def rows_of(task: str, answers: Sequence[str], repeat: int = 1) -> list[Prediction]:
    """An answer to each of some sentences, which differ in one word."""
    rows = []
    for i, answer in enumerate(answers):
        own = [text.replace("harp", f"harp{i}") for text in (WRONG, RIGHT, answer)]
        source, reference, said = own
        row = Prediction(task, "c", f"{i}", f"Fix: {source}", (reference,), said, source=source)
        row = dataclasses.replace(row, finish="length" if answer == HOSTILE else "eos")
        rows += [dataclasses.replace(row, id=f"{task}-{i}-{n}") for n in range(repeat)]
    return rows


# Answers of each arm: base copies, "some" mends every second sentence, "most" all but the first.
ANSWERS = {
    ("base", "n0"): [WRONG] * SIZE,
    ("some", "n10"): [RIGHT, WRONG] * (SIZE // 2),
    ("most", "n10"): [HALF] * SIZE,
    ("most", "n100"): [HOSTILE, *[RIGHT] * (SIZE - 1)],
}


def write_study(root: Path, seeds: Sequence[int] = (0,), repeat: int = 1) -> Path:
    arms = [
        {
            "name": name,
            "setting": "MTL",
            "initial": "base",
            "prompt": "alpaca",
            "budgets": [budget for arm, budget in ANSWERS if arm == name],
            "baseline": name != "most",
            "label": f"arm {name}",
        }
        for name in dict.fromkeys(arm for arm, _ in ANSWERS)
    ]
    tasks = [
        {"name": name, "category": "c", "train_instances": 100, "metrics": list(metrics)}
        for name, metrics in METRICS.items()
    ]
    root.mkdir(parents=True)
    study = {"name": "datasets", "arms": arms, "tasks": tasks, "seeds": list(seeds)}
    (root / "study.json").write_text(json.dumps(study))
    for (arm, budget), answers in ANSWERS.items():
        for seed in seeds[:1] if budget == "n0" else seeds:
            write_cell(root, (arm, budget, seed), answers, repeat)
    return root


def write_cell(
    root: Path, place: tuple[str, str, int], answers: Sequence[str], repeat: int
) -> None:
    arm, budget, seed = place
    path = root / "cells" / f"{arm}-{budget}-{seed}"
    path.mkdir(parents=True)
    rows, scores = [], {}
    for task, metrics in METRICS.items():
        measured = measure(rows_of(task, answers, repeat), metrics, always=DEFAULT)
        rows += measured.rows
        scores |= task_scores(measured)
    write_predictions(path / "predictions.jsonl", rows)
    result = {
        "arm": arm,
        "budget": budget,
        "seed": seed,
        "scores": {"by_task": scores},
        "train_examples": (500 + int(budget[1:])) if budget != "n0" else 0,
        "train_examples_by_task": dict.fromkeys(METRICS, int(budget[1:])),
        "train_loss": [1.0, 0.5],
        "steps": 20,
        "train_secs": 30.0,
        "parameters": 2_000_000,
        "trainable_parameters": 250_000,
        "parameter_bytes": 5_000_000,
        "sources": {"generic": 500, "fluency": int(budget[1:])},
        "passes": 2.5,
        "cleaned_answers": {"heading": 3, "space": 0, "lines": 0, "quotes": 0, "empty": 0},
    }
    (path / "result.json").write_text(json.dumps(result))


def row_of(scores: DatasetScores, arm: str, budget: str) -> Row:
    return next(row for row in scores.rows if (row.arm, row.budget) == (arm, budget))
