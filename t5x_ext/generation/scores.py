"""Scores of predictions with k demonstrations: by task and on the mean, as JSON and as a table.

The kind of a task determines its metrics (`mixtures.specialization.rows.METRICS`), the first of
which is its measure: F1, but accuracy of multiple choice.

    f1, f1_box, squad_em, rougeL
                           see `metrics.squad` and `metrics.rouge`
    pairs_precision, pairs_recall, pairs_f1
                           of sets of (surface, type), of tasks whose answers are lists
    label_accuracy         exact match, of tasks with a closed set of answers
    label_validity         share of outputs that are one of these answers, right or wrong; of lists
                           of answers, the share of their items
    majority_f1, majority_label_accuracy
                           the measure of the reference that is most frequent, whatever is asked
    stopped                share of outputs that ended by themselves
    words                  of an output, mean

All but `words` are percent. Means of F1 leave out tasks that have none. Intervals are bootstraps
over the rows of each task; on a mean over tasks these are drawn independently.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from mixtures.specialization.rows import COMPANIONS, metrics_of_kind
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
F1 = "f1"
OVER_SHOTS: Mapping[str, Callable[..., Any]] = {"worst": np.min, "mean": np.mean, "best": np.max}

Scores = dict[str, Any]
RowId = tuple[str, str]  # task, id


class Scored(NamedTuple):
    """A predictions file.

    Attributes:
        scores: {"rows", "tasks": {task: {"rows", "measure": name of its first metric, metric:
            percent, "<measure>_interval": [low, high]}},
            "mean": {metric: mean over the tasks that have it, "f1_interval": ...},
            "without_flagged": {"rows", "f1"}}. Without F1 in any task there is none in the mean.
        draws: F1 of each task that has it under each bootstrap draw, [samples] percent. A task's
            rows are drawn alike in every file.
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
    found = {task: _score_task(task, pairs) for task, pairs in by_task.items()}
    tasks = {task: scores for task, (scores, _) in found.items()}
    draws = {task: of_f1 for task, (_, of_f1) in found.items() if tasks[task]["measure"] == F1}
    clean = {
        task: kept
        for task in draws
        if (kept := [row for row, _ in by_task[task] if (row.task, row.id) not in flagged])
    }
    mean: Scores = _mean_over_tasks(tasks.values())
    if draws:
        mean[f"{F1}_interval"] = _bounds(np.mean(list(draws.values()), axis=0))
    scores = {
        "rows": len(rows),
        "tasks": tasks,
        "mean": mean,
        "without_flagged": {
            "rows": sum(map(len, clean.values())),
            **_mean_over_tasks({F1: _mean_f1(kept)} for kept in clean.values()),
        },
    }
    return Scored(scores, draws)


def over_shots(by_shots: Mapping[int, Scored]) -> Scores:
    """Each task's worst, mean and best F1 over numbers of demonstrations, on the mean over tasks.

    Args:
        by_shots: one model's predictions of the same rows.

    Returns:
        {"worst", "mean", "best": {"f1", "f1_interval"}}; {} where no task has F1.
    """
    tasks = list(next(iter(by_shots.values())).draws)
    if not tasks:
        return {}
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
    """The scores of a task, and its measure under each draw."""
    rows, records = [row for row, _ in pairs], [record for _, record in pairs]
    kind = rows[0].category
    given = {label for record in records for label in record.get("labels", ())}
    head, *others = metrics_of_kind(kind)
    lists = "pairs_f1" in others
    if given:
        others += ["label_validity"] if lists else ["label_accuracy", "label_validity"]
    names = list(dict.fromkeys((head, *others)))
    names += [each for name in names for each in COMPANIONS.get(name, ())]
    columns = {each.metric.name: each for each in measure(rows, [*names, "stopped"]).columns}

    def score(name: str) -> float:
        column = columns[name]
        return 100 * float(column.metric.finish(resampling.total(column.statistics)))

    found: Scores = {"rows": len(rows), "measure": head}
    found |= {name: score(name) for name in names}
    first = columns[head]
    seed = zlib.crc32(task.encode())
    draws = 100 * resampling.resample(first.statistics, first.metric.finish, seed)
    found[f"{head}_interval"] = _bounds(draws)
    if "label_validity" in names:
        known = given or {text for row in rows for text in row.references}
        found["label_validity"] = 100 * _mean(
            _validity(row.prediction, known, lists) for row in rows
        )
    majority, _ = Counter(row.references[0] for row in rows).most_common(1)[0]
    [column] = measure([replace(row, prediction=majority) for row in rows], [head]).columns
    total = resampling.total(column.statistics)
    found[f"majority_{head}"] = 100 * float(column.metric.finish(total))
    found["stopped"] = score("stopped")
    found["words"] = _mean(len(row.prediction.split()) for row in rows)
    return found, draws


def _validity(prediction: str, labels: Collection[str], lists: bool) -> float:
    """Whether an output is a label; of an output that lists labels, the share of items that are."""
    known = set(map(normalise, labels))
    if normalise(prediction) in known or not lists:
        return float(normalise(prediction) in known)
    return _mean(normalise(item) in known for item in prediction.split(","))


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
    tasks = next(iter(next(iter(scores.values())).values()))["tasks"]
    measures = {task: each["measure"] for task, each in tasks.items()}
    rows = [
        [
            task if head == F1 else f"{task} ({head})",
            *(_interval(scores[name][k]["tasks"][task], head) for name, k in columns),
        ]
        for task, head in measures.items()
    ]
    rows.append(["**mean**", *(_interval(scores[name][k]["mean"]) for name, k in columns)])
    lines = [
        f"k demonstrations before each question. {ZERO_SHOT}"
        + " Tasks that name another measure have no F1, and no part in its means."
        * any(name != F1 for name in measures.values()),
        "",
        *_table(["F1", *head], rows),
    ]
    lines += [
        "",
        *_table(
            ["F1, each task's over k", *OVER_SHOTS],
            [
                [name, *(_interval(over.get(each, {})) for each in OVER_SHOTS)]
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
    lines += ["", "In brackets 95% bootstrap intervals over test rows."]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    ruler = ["---", *("--:" for _ in head[1:])]
    return ["| " + " | ".join(cells) + " |" for cells in (head, ruler, *rows)]


def _interval(scores: Scores, name: str = F1) -> str:
    if name not in scores:
        return "-"
    low, high = scores[f"{name}_interval"]
    return f"{scores[name]:.1f} [{low:.1f}, {high:.1f}]"
