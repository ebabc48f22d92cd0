"""The metrics that tasks bring along, computed as SeqIO's evaluator does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mixtures import lookup, on_demand, task_metrics
from mixtures.errors import warn_once
from mixtures.names import PREFIX
from t5x_ext.configs import DatasetConfig
from t5x_ext.data.datasets import resolve
from t5x_ext.metrics.predictions import Prediction

# Places in the predictions -> natural log-likelihoods of what these rows have as targets.
Score = Callable[[Sequence[int]], Sequence[float]]


def own_metrics(
    cfg: DatasetConfig, predictions: Sequence[Prediction], score: Score | None = None
) -> dict[str, dict[str, float]]:
    """Calls each task's `postprocess_fn` and `metric_fns`, those of scores too.

    Tasks of `superni.*` names are left out: theirs are what every row is scored with anyway. So
    are values that are not numbers, and metrics that take what decoding returns besides
    (`aux_values`), of which a line tells.

    Args:
      cfg: what the predictions are for, with lengths.
      predictions: rows in the order of the data; of each task all examples, or the first ones.
      score: what metrics of scores are given; without it a line tells that they are left out.

    Returns:
      {task: {metric: value}} of the tasks that have metrics.
    """
    provider = lookup.find(resolve(cfg))
    metrics = {}
    for task in getattr(provider, "tasks", [provider]):
        places = [place for place, row in enumerate(predictions) if row.task == task.name]
        rows = [predictions[place] for place in places]
        if task.name.startswith(PREFIX) or not rows:
            continue
        if on_demand.find(task.name) is not None:
            values = _metrics_of_rows(rows)
        else:
            scores = None
            if task.score_metric_fns and score is not None:
                scores = score(places)
            values = _metrics_of(task, cfg, rows, scores)
        if values:
            metrics[task.name] = values
    return metrics


def _metrics_of_rows(rows: Sequence[Prediction]) -> dict[str, float]:
    """Metrics of a task of ours: those that `mixtures.seqio_tasks` gives it."""
    references = [list(row.references) for row in rows]
    texts = [row.prediction for row in rows]
    return task_metrics.rouge_l(references, texts) | task_metrics.exact_match(references, texts)


def _metrics_of(
    task: Any, cfg: DatasetConfig, rows: Sequence[Prediction], scores: Sequence[float] | None
) -> dict[str, float]:
    """Metrics of a `seqio.Task`, by its own functions; those of scores where there are any."""
    of_scores = [] if scores is None else task.score_metric_fns
    left_out = [*task.predict_with_aux_metric_fns, *(() if of_scores else task.score_metric_fns)]
    if left_out:
        names = ", ".join(getattr(each, "__name__", repr(each)) for each in left_out)
        warn_once(f"{task.name}: metrics that this evaluation does not compute: {names}")
    if not task.predict_metric_fns and not of_scores:
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
    for metric_fn in of_scores:
        values |= metric_fn(targets, np.array(scores))
    numbers = {name: getattr(value, "value", value) for name, value in values.items()}
    return {k: float(v) for k, v in numbers.items() if isinstance(v, int | float | np.number)}


def _target_text(task: Any, example: Mapping[str, Any]) -> str:
    if "targets_pretokenized" in example:
        return example["targets_pretokenized"].decode("utf-8")
    return task.output_features["targets"].vocabulary.decode(example["targets"].tolist())
