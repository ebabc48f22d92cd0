"""Held-out data of a training run: for the loss, and to be decoded and scored."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from t5x_ext import multihost
from t5x_ext.configs import DatasetConfig
from t5x_ext.data import datasets, task_metrics
from t5x_ext.data.records import Example
from t5x_ext.decoding.prompts import check_examples
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.models import BaseTransformerModel
from t5x_ext.runs.evaluation import first_of_each_task
from t5x_ext.runs.evaluation_hook import Evaluation
from t5x_ext.seqio import Evaluator
from t5x_ext.training.actions import MetricsByTask


def load_held_out(
    model: BaseTransformerModel,
    model_dir: str,
    loss_cfg: DatasetConfig | None,
    infer_cfg: DatasetConfig | None,
    evaluator: Evaluator,
) -> Evaluation:
    """What is held out, loaded and checked: for the loss, and to be decoded and scored."""
    loss_cfg, loss_examples = _load_held_out(loss_cfg, datasets.open_flat)
    infer_cfg, infer_examples = _load_held_out(
        infer_cfg, lambda cfg: first_of_each_task(datasets.load_flat(cfg), evaluator.num_examples)
    )
    check_examples(infer_examples)
    for cfg in (loss_cfg, infer_cfg):  # now with the lengths of their examples
        if cfg is not None:
            model.check_context(cfg.task_feature_lengths)

    def own_metrics(rows: Sequence[Prediction], score: task_metrics.Score) -> MetricsByTask:
        return task_metrics.own_metrics(infer_cfg, rows, score) if infer_cfg else {}

    logs = infer_examples and multihost.is_primary()
    return Evaluation(
        loss_cfg=loss_cfg,
        loss_examples=loss_examples,
        infer_cfg=infer_cfg,
        infer_examples=infer_examples,
        loggers=evaluator.loggers(os.path.join(model_dir, "inference_eval")) if logs else (),
        own_metrics=own_metrics,
    )


def _load_held_out(
    cfg: DatasetConfig | None, load: Callable[[DatasetConfig], Sequence[Example]]
) -> tuple[DatasetConfig | None, Sequence[Example]]:
    """Held-out examples, and the config with their lengths; none where there is no such split."""
    if cfg is None:
        return None, []
    if not datasets.has_split(cfg):
        multihost.say(f"{cfg.mixture_or_task_name}: no {cfg.split} split, so nothing is held out")
        return None, []
    examples = load(cfg)
    datasets.tell_cuts([examples], cfg)
    return (datasets.with_lengths(cfg, examples), examples) if examples else (None, [])
