"""The metrics that tasks bring along, computed as SeqIO's evaluator does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixtures import lookup, on_demand, task_metrics
from mixtures.names import PREFIX
from t5x_ext.configs import DatasetConfig
from t5x_ext.data.datasets import resolve
from t5x_ext.metrics.predictions import Prediction


def own_metrics(
    cfg: DatasetConfig, predictions: Sequence[Prediction]
) -> dict[str, dict[str, float]]:
    """Calls each task's `postprocess_fn` and `metric_fns`.

    Tasks of `superni.*` names are left out: theirs are what every row is scored with anyway. So
    are values that are not numbers.

    Args:
      cfg: what the predictions are for, with lengths.
      predictions: rows in the order of the data; of each task all examples, or the first ones.

    Returns:
      {task: {metric: value}} of the tasks that have metrics.
    """
    provider = lookup.find(resolve(cfg))
    metrics = {}
    for task in getattr(provider, "tasks", [provider]):
        rows = [row for row in predictions if row.task == task.name]
        if task.name.startswith(PREFIX) or not rows:
            continue
        is_ours = on_demand.find(task.name) is not None
        values = _metrics_of_rows(rows) if is_ours else _metrics_of(task, cfg, rows)
        if values:
            metrics[task.name] = values
    return metrics


def _metrics_of_rows(rows: Sequence[Prediction]) -> dict[str, float]:
    """Metrics of a task of ours: those that `mixtures.seqio_tasks` gives it."""
    references = [list(row.references) for row in rows]
    texts = [row.prediction for row in rows]
    return task_metrics.rouge_l(references, texts) | task_metrics.exact_match(references, texts)


def _metrics_of(task: Any, cfg: DatasetConfig, rows: Sequence[Prediction]) -> dict[str, float]:
    """Metrics of a `seqio.Task`, by its own functions."""
    if not task.predict_metric_fns:
        return {}
    assert cfg.task_feature_lengths is not None  # they were decoded by them
    dataset = task.get_dataset(
        sequence_length=dict(cfg.task_feature_lengths),
        split=cfg.split,
        shuffle=False,
        num_epochs=1,
        use_cached=cfg.use_cached,
    )
    targets, outputs = [], []
    for row, example in zip(rows, dataset.take(len(rows)).as_numpy_iterator(), strict=True):
        target = _target_text(task, example)
        targets.append(task.postprocess_fn(target, example=example, is_target=True))
        outputs.append(task.postprocess_fn(row.prediction, example=example, is_target=False))
    values: dict[str, Any] = {}
    for metric_fn in task.predict_metric_fns:
        values |= metric_fn(targets, outputs)
    numbers = {name: getattr(value, "value", value) for name, value in values.items()}
    return {k: float(v) for k, v in numbers.items() if isinstance(v, int | float | np.number)}


def _target_text(task: Any, example: Mapping[str, Any]) -> str:
    if "targets_pretokenized" in example:
        return example["targets_pretokenized"].decode("utf-8")
    return task.output_features["targets"].vocabulary.decode(example["targets"].tolist())
