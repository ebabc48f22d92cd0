"""A synthetic study with known answers, written to disk in the format a real one has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

ARMS = [
    ("stl", "STL", "instruct", False, ["n0", "n10", "n100"], "Instruction-tuned"),
    ("stl_baseline_1", "STL", "plain", True, ["n10", "n100"], "Pre-finetuned, no instructions"),
    ("stl_baseline_2", "STL", "scratch", True, ["n100"], "Pretrained only"),
    ("mtl", "MTL", "instruct", False, ["n10", "n100"], "Instruction-tuned"),
    ("mtl_baseline_1", "MTL", "plain", True, ["n10", "n100"], "Pre-finetuned, no instructions"),
]
CATEGORIES = ["Textual Entailment", "Title Generation", "Data to Text"]
TASKS = [(f"task{i}_made_up", CATEGORIES[i % 3]) for i in range(6)]
TRAIN_INSTANCES = 200
TEST_INSTANCES = 4

# Mean over tasks and seeds of each arm at each budget; a task or seed adds an offset of mean 0.
MEANS = {
    ("stl", "n0"): 20.0,
    ("stl", "n10"): 40.0,
    ("stl", "n100"): 60.0,
    ("stl_baseline_1", "n10"): 35.0,
    ("stl_baseline_1", "n100"): 50.0,
    ("stl_baseline_2", "n100"): 30.0,
    ("mtl", "n10"): 50.0,
    ("mtl", "n100"): 64.0,
    ("mtl_baseline_1", "n10"): 52.0,
    ("mtl_baseline_1", "n100"): 62.0,
}
TASK_OFFSETS = [-10.0, 10.0, -6.0, 6.0, -2.0, 2.0]
SEED_OFFSETS = [-1.0, 1.0]


def score_of(arm: str, budget: str, seed: int, task: int) -> float:
    """The default: every difference between arms is the same for every task and seed."""
    return MEANS[arm, budget] + TASK_OFFSETS[task] + SEED_OFFSETS[seed]


def _prediction(task: str, category: str, index: int, score: float) -> dict:
    """A row; instances score `score` on average, half of them 5 above and half 5 below."""
    return {
        "task": task,
        "category": category,
        "id": f"{task}-{index}",
        "inputs": f"Definition: <b>answer</b>\ninput: question {index}\noutput: ",
        "references": ["right answer"],
        "prediction": "right answer" if index % 2 else "<script>alert('x')</script> `=1+1`",
        "truncated": False,
        "score": {"rougeL": (score + (5 if index % 2 else -5)) / 100},
    }


def write_study(root: Path, score: Callable[[str, str, int, int], float] = score_of) -> Path:
    """Writes study.json and every cell; STL cells hold one task, MTL cells all."""
    arms = [
        {
            "name": name,
            "setting": setting,
            "initial": initial,
            "prompt": "ql.def_pos2",
            "budgets": budgets,
            "baseline": baseline,
            "label": label,
        }
        for name, setting, initial, baseline, budgets, label in ARMS
    ]
    tasks = [
        {"name": name, "category": category, "train_instances": TRAIN_INSTANCES}
        for name, category in TASKS
    ]
    study = {"format": 1, "name": "made up", "arms": arms, "tasks": tasks, "seeds": [0, 1]}
    study |= {"split_policy": "disjoint", "config": {}}
    study["initials"] = {"instruct": {"label": "Instruction-tuned", "train_secs": 90.0}}
    root.mkdir(parents=True, exist_ok=True)
    (root / "study.json").write_text(json.dumps(study))
    everything = list(range(len(TASKS)))
    for name, setting, initial, _, budgets, _ in ARMS:
        for budget in budgets:
            for seed in [0] if budget == "n0" else [0, 1]:
                for members in [everything] if setting == "MTL" else [[i] for i in everything]:
                    place = (name, budget, seed)
                    write_cell(root, place, setting, initial, members, score)
    return root


def write_cell(root: Path, place, setting: str, initial: str, members: list[int], score) -> Path:
    """One finished cell with its predictions."""
    arm, budget, seed = place
    key = "-".join([arm, budget, str(seed), *(str(i) for i in members)])
    directory = root / "cells" / key
    directory.mkdir(parents=True)
    names = [TASKS[i][0] for i in members]
    labels = int(budget[1:])
    drawn = {i: score(arm, budget, seed, i) for i in members}  # once: it may be noise
    by_task = {
        TASKS[i][0]: {
            "category": TASKS[i][1],
            "n": TEST_INSTANCES,
            "rougeL": drawn[i],
            "rouge1": drawn[i] + 1,
            "exact_match": 0.0,
        }
        for i in members
    }
    result = {
        "format": 1,
        "key": key,
        "arm": arm,
        "setting": setting,
        "initial": initial,
        "prompt": "ql.def_pos2",
        "budget": budget,
        "seed": seed,
        "tasks": names,
        "train_examples": labels * len(members),
        "train_examples_by_task": dict.fromkeys(names, labels),
        "steps": 10,
        "train_secs": 2.0,
        "decode_secs": 1.0,
        "train_loss": [3.0, 1.0],
        "leaked_tasks": [],
        "truncated_by_task": {names[0]: [0, 0]},
        "short_tasks": {},
        "scores": {"by_task": by_task},
    }
    rows = [
        _prediction(TASKS[i][0], TASKS[i][1], index, drawn[i])
        for i in members
        for index in range(TEST_INSTANCES)
    ]
    (directory / "predictions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (directory / "result.json").write_text(json.dumps(result))
    return directory
