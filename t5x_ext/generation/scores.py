"""Scores of predictions with k demonstrations: by task and on the mean, as JSON and as a table.

    f1, f1_box, rougeL     see `metrics.squad` and `metrics.rouge`
    pairs_f1               F1 of sets of (surface, type), of tasks whose answers are entities
    label_accuracy         exact match, of tasks with a closed set of answers
    label_validity         share of outputs that are one of these answers, right or wrong
    majority_f1            f1 of the reference that is most frequent, whatever is asked
    stopped                share of outputs that ended by themselves
    words                  of an output, mean

All but `words` are percent.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from t5x_ext import files
from t5x_ext.generation.journal import Record, read_records
from t5x_ext.metrics import aggregate, squad
from t5x_ext.metrics.exact_match import normalise
from t5x_ext.metrics.predictions import Prediction, read_predictions
from t5x_ext.metrics.scoring import measure

_METRICS = ("f1", "f1_box", "rougeL")
_ENTITY_KINDS = ("ner", "qa_list", "relation_extraction")

Scores = dict[str, Any]
RowId = tuple[str, str]  # task, id


def score_file(path: files.StrPath, flagged: Collection[RowId] = ()) -> Scores:
    """Scores one predictions file.

    Args:
        path: what `evaluation.write_predictions` wrote.
        flagged: rows that share words in a row with what the model was tuned on.

    Returns:
        {"rows", "tasks": {task: {"rows", metric: percent, "f1_interval": [low, high]}}, "mean":
        {metric: mean over the tasks that have it}, "without_flagged": {"rows", "f1"}}.
    """
    rows, records = read_predictions(path), read_records(path)
    by_task = defaultdict(list)
    for row, record in zip(rows, records, strict=True):
        by_task[row.task].append((row, record))
    tasks = {task: _score_task(pairs) for task, pairs in by_task.items()}
    clean = {
        task: kept
        for task, pairs in by_task.items()
        if (kept := [row for row, _ in pairs if (row.task, row.id) not in flagged])
    }
    return {
        "rows": len(rows),
        "tasks": tasks,
        "mean": _mean_over_tasks(tasks.values()),
        "without_flagged": {
            "rows": sum(map(len, clean.values())),
            **_mean_over_tasks({"f1": _mean_f1(kept)} for kept in clean.values()),
        },
    }


def _score_task(pairs: Sequence[tuple[Prediction, Record]]) -> Scores:
    rows, records = [row for row, _ in pairs], [record for _, record in pairs]
    labels = {normalise(label) for record in records for label in record.get("labels", ())}
    names = [*_METRICS]
    names += ["pairs_f1"] if rows[0].category in _ENTITY_KINDS else []
    names += ["label_accuracy"] if labels else []
    group = aggregate.over_instances(measure(rows, [*names, "stopped"]))
    found: Scores = {"rows": len(rows)}
    found |= {name: group.means[name].mean for name in names}
    interval = group.means["f1"]
    found["f1_interval"] = [interval.low, interval.high]
    if labels:
        valid = [normalise(row.prediction) in labels for row in rows]
        found["label_validity"] = 100 * _mean(valid)
    majority, _ = Counter(row.references[0] for row in rows).most_common(1)[0]
    found["majority_f1"] = 100 * _mean(squad.f1(majority, row.references) for row in rows)
    found["stopped"] = group.means["stopped"].mean
    found["words"] = _mean(len(row.prediction.split()) for row in rows)
    return found


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


def table(scores: Mapping[str, Mapping[int, Scores]]) -> str:
    """Two tables in Markdown: F1 of every task, and all metrics on the mean over tasks.

    Args:
        scores: by name of the model and number of demonstrations.
    """
    columns = [(name, k) for name, by_shots in scores.items() for k in by_shots]
    head = ["F1", *(f"{name}, k={k}" for name, k in columns)]
    tasks = list(next(iter(next(iter(scores.values())).values()))["tasks"])
    lines = [_row(head), _row(["---", *("--:" for _ in columns)])]
    for task in tasks:
        lines.append(
            _row([task, *(_interval(scores[name][k]["tasks"][task]) for name, k in columns)])
        )
    lines.append(_row(["**mean**", *(f"{scores[n][k]['mean']['f1']:.1f}" for n, k in columns)]))
    metrics = list(dict.fromkeys(m for n, k in columns for m in scores[n][k]["mean"]))
    lines += ["", _row(["mean over tasks", *(f"{name}, k={k}" for name, k in columns)])]
    lines.append(_row(["---", *("--:" for _ in columns)]))
    for metric in metrics:
        means = [scores[name][k]["mean"].get(metric) for name, k in columns]
        lines.append(_row([metric, *("-" if m is None else f"{m:.1f}" for m in means)]))
    clean = [scores[name][k]["without_flagged"] for name, k in columns]
    shown = [f"{each['f1']:.1f} ({each['rows']} rows)" if "f1" in each else "-" for each in clean]
    lines.append(_row(["f1 without flagged rows", *shown]))
    return "\n".join(lines) + "\n"


def _interval(scores: Scores) -> str:
    low, high = scores["f1_interval"]
    return f"{scores['f1']:.1f} [{low:.0f}, {high:.0f}]"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
