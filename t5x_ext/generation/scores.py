"""Scores of predictions with k demonstrations: by task and on the mean, as JSON and as a table.

    f1, f1_box, rougeL     see `metrics.squad` and `metrics.rouge`
    pairs_precision, pairs_recall, pairs_f1
                           of sets of (surface, type), of tasks whose answers are entities
    label_accuracy         exact match, of tasks with a closed set of answers
    label_validity         share of outputs that are one of these answers, right or wrong
    majority_f1            f1 of the reference that is most frequent, whatever is asked
    stopped                share of outputs that ended by themselves
    words                  of an output, mean

All but `words` are percent. Intervals are bootstraps over the rows of each task; on a mean over
tasks these are drawn independently.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from t5x_ext import files
from t5x_ext.generation.journal import Record, read_records
from t5x_ext.metrics import resampling, squad
from t5x_ext.metrics.exact_match import normalise
from t5x_ext.metrics.predictions import Prediction, read_predictions
from t5x_ext.metrics.scoring import measure

ZERO_SHOT = (
    "“0-shot” means that the prompt has no demonstration, not that the task is new: the seeds, and "
    "so the rows that models write after their example, come from the tasks that are evaluated."
)
_METRICS = ("f1", "f1_box", "rougeL")
_PAIRS = ("pairs_precision", "pairs_recall", "pairs_f1")
_ENTITY_KINDS = ("ner", "qa_list", "relation_extraction")
OVER_SHOTS: Mapping[str, Callable[..., Any]] = {"worst": np.min, "mean": np.mean, "best": np.max}

Scores = dict[str, Any]
RowId = tuple[str, str]  # task, id


class Scored(NamedTuple):
    """A predictions file.

    Attributes:
        scores: {"rows", "tasks": {task: {"rows", metric: percent, "f1_interval": [low, high]}},
            "mean": {metric: mean over the tasks that have it, "f1_interval": ...},
            "without_flagged": {"rows", "f1"}}.
        draws: F1 of each task under each bootstrap draw, [samples] percent. A task's rows are
            drawn alike in every file.
    """

    scores: Scores
    draws: Mapping[str, np.ndarray]


def score_file(path: files.StrPath, flagged: Collection[RowId] = ()) -> Scored:
    """Scores one predictions file.

    Args:
        path: what `evaluation.write_predictions` wrote.
        flagged: rows that share words in a row with what the model was tuned on.
    """
    rows, records = read_predictions(path), read_records(path)
    by_task = defaultdict(list)
    for row, record in zip(rows, records, strict=True):
        by_task[row.task].append((row, record))
    tasks, draws = {}, {}
    for task, pairs in by_task.items():
        tasks[task], draws[task] = _score_task(task, pairs)
    clean = {
        task: kept
        for task, pairs in by_task.items()
        if (kept := [row for row, _ in pairs if (row.task, row.id) not in flagged])
    }
    mean: Scores = _mean_over_tasks(tasks.values())
    mean["f1_interval"] = _bounds(np.mean(list(draws.values()), axis=0))
    scores = {
        "rows": len(rows),
        "tasks": tasks,
        "mean": mean,
        "without_flagged": {
            "rows": sum(map(len, clean.values())),
            **_mean_over_tasks({"f1": _mean_f1(kept)} for kept in clean.values()),
        },
    }
    return Scored(scores, draws)


def over_shots(by_shots: Mapping[int, Scored]) -> Scores:
    """Each task's worst, mean and best F1 over numbers of demonstrations, on the mean over tasks.

    Args:
        by_shots: one model's predictions of the same rows.

    Returns:
        {"worst", "mean", "best": {"f1", "f1_interval"}}.
    """
    tasks = list(next(iter(by_shots.values())).draws)
    f1 = np.array([[each.scores["tasks"][t]["f1"] for t in tasks] for each in by_shots.values()])
    draws = np.array([[each.draws[t] for t in tasks] for each in by_shots.values()])
    return {
        name: {
            "f1": float(reduce(f1, axis=0).mean()),
            "f1_interval": _bounds(reduce(draws, axis=0).mean(axis=0)),
        }
        for name, reduce in OVER_SHOTS.items()
    }


def _bounds(draws: np.ndarray) -> list[float]:
    return list(resampling.percentile_bounds(draws))


def _score_task(task: str, pairs: Sequence[tuple[Prediction, Record]]) -> tuple[Scores, np.ndarray]:
    rows, records = [row for row, _ in pairs], [record for _, record in pairs]
    labels = {normalise(label) for record in records for label in record.get("labels", ())}
    names = [*_METRICS]
    names += _PAIRS if rows[0].category in _ENTITY_KINDS else []
    names += ["label_accuracy"] if labels else []
    columns = {each.metric.name: each for each in measure(rows, [*names, "stopped"]).columns}

    def score(name: str) -> float:
        column = columns[name]
        return 100 * float(column.metric.finish(resampling.total(column.statistics)))

    f1 = columns["f1"]
    draws = 100 * resampling.resample(f1.statistics, f1.metric.finish, zlib.crc32(task.encode()))
    found: Scores = {"rows": len(rows)} | {name: score(name) for name in names}
    found["f1_interval"] = _bounds(draws)
    if labels:
        valid = [normalise(row.prediction) in labels for row in rows]
        found["label_validity"] = 100 * _mean(valid)
    majority, _ = Counter(row.references[0] for row in rows).most_common(1)[0]
    found["majority_f1"] = 100 * _mean(squad.f1(majority, row.references) for row in rows)
    found["stopped"] = score("stopped")
    found["words"] = _mean(len(row.prediction.split()) for row in rows)
    return found, draws


def _mean_over_tasks(tasks: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    values = defaultdict(list)
    for scores in tasks:
        for name, value in scores.items():
            if isinstance(value, float):
                values[name].append(value)
    return {name: _mean(found) for name, found in values.items()}


def _mean_f1(rows: Sequence[Prediction]) -> float:
    return 100 * _mean(squad.f1(row.prediction, row.references) for row in rows)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def table(scores: Mapping[str, Mapping[int, Scores]], spread: Mapping[str, Scores]) -> str:
    """The page of scores in Markdown: F1 of every task, over demonstrations, and all metrics.

    Args:
        scores: by name of the model and number of demonstrations k.
        spread: what `over_shots` gives, by name of the model.
    """
    columns = [(name, k) for name, by_shots in scores.items() for k in by_shots]
    head = [f"{name}, k={k}" for name, k in columns]
    tasks = list(next(iter(next(iter(scores.values())).values()))["tasks"])
    rows = [[t, *(_interval(scores[name][k]["tasks"][t]) for name, k in columns)] for t in tasks]
    rows.append(["**mean**", *(_interval(scores[name][k]["mean"]) for name, k in columns)])
    lines = [
        f"k demonstrations before each question. {ZERO_SHOT}",
        "",
        *_table(["F1", *head], rows),
    ]
    lines += [
        "",
        *_table(
            ["F1, each task's over k", *OVER_SHOTS],
            [
                [name, *(_interval(over[each]) for each in OVER_SHOTS)]
                for name, over in spread.items()
            ],
        ),
    ]
    means = [scores[name][k]["mean"] for name, k in columns]
    metrics = dict.fromkeys(name for mean in means for name in mean if name != "f1_interval")
    rows = [[m, *(f"{mean[m]:.1f}" if m in mean else "-" for mean in means)] for m in metrics]
    clean = [scores[name][k]["without_flagged"] for name, k in columns]
    shown = [f"{each['f1']:.1f} ({each['rows']} rows)" if "f1" in each else "-" for each in clean]
    rows.append(["f1 without flagged rows", *shown])
    lines += ["", *_table(["mean over tasks", *head], rows)]
    lines += ["", "In brackets 95 % bootstrap intervals over test rows."]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    ruler = ["---", *("--:" for _ in head[1:])]
    return ["| " + " | ".join(cells) + " |" for cells in (head, ruler, *rows)]


def _interval(scores: Scores) -> str:
    low, high = scores["f1_interval"]
    return f"{scores['f1']:.1f} [{low:.1f}, {high:.1f}]"
