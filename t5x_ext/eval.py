"""`python -m t5x_ext.eval`: decodes and scores a split with a trained model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence

from etils import epath

from t5x_ext import files, gin_utils, multihost
from t5x_ext.configs import DatasetConfig, RestoreCheckpointConfig, SuperNIConfig
from t5x_ext.data.task_metrics import own_metrics
from t5x_ext.metrics.aggregate import task_scores
from t5x_ext.metrics.predictions import Prediction, write_predictions
from t5x_ext.models import BaseTransformerModel
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.runs.evaluation import evaluate_loss, predict_and_score, targets_scorer
from t5x_ext.runs.restored import RestoredModel, restore_each
from t5x_ext.seqio import Evaluator, make_evaluator


def evaluate(
    *,
    model: BaseTransformerModel,
    dataset_cfg: DatasetConfig,
    restore_checkpoint_cfg: RestoreCheckpointConfig,
    output_dir: str,
    superni_cfg: SuperNIConfig = SuperNIConfig(),
    partitioner: PjitPartitioner = PjitPartitioner(),
    inference_evaluator_cls: Callable[[], Evaluator] = Evaluator,
    summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
) -> None:
    """Writes predictions.jsonl (scored) and scores.json to EVAL_OUTPUT_DIR and prints the means.

    Where several checkpoints are named, each has its own: predictions-<step>.jsonl,
    scores-<step>.json.

    Args:
      model: the model and its vocabularies.
      dataset_cfg: what to evaluate on.
      restore_checkpoint_cfg: CHECKPOINT_PATH, one or several.
      output_dir: EVAL_OUTPUT_DIR, created if absent.
      superni_cfg: how `superni.*` names become data.
      partitioner: the mesh.
      inference_evaluator_cls: how many examples, and further logs (gin: `@seqio.Evaluator`).
      summarize_config_fn: writes the config down; `gin_utils.summarize_gin_config`.

    Raises:
      ConfigError: the checkpoint or the configuration does not fit.
    """
    evaluator = make_evaluator(inference_evaluator_cls)
    directory = files.path(output_dir, "EVAL_OUTPUT_DIR")
    summarize_config_fn(output_dir, None, 0)
    writes = multihost.is_primary()
    loggers = evaluator.loggers(str(directory / "inference_eval")) if writes else []
    for restored in restore_each(
        model,
        dataset_cfg,
        restore_checkpoint_cfg,
        superni_cfg,
        partitioner,
        evaluator.num_examples,
    ):
        suffix = f"-{restored.step}" if restore_checkpoint_cfg.is_several else ""
        rows = _evaluate_one(restored, directory, suffix, superni_cfg.split_policy)
        for logger in loggers:
            logger(restored.step, rows)
        del restored  # frees its parameters before the next are read


def _evaluate_one(
    restored: RestoredModel, directory: epath.Path, suffix: str, split_policy: str
) -> list[Prediction]:
    """Scores one checkpoint; see `evaluate`."""
    path = directory / f"predictions{suffix}.jsonl"
    measured, means = predict_and_score(
        restored.decoder, restored.params, restored.examples, path, restored.signature, True
    )
    rows = measured.rows
    score = targets_scorer(restored.scorer, restored.params, restored.examples)
    own = own_metrics(restored.dataset_cfg, rows, score)
    loss = evaluate_loss(restored.program, restored.params, restored.examples, restored.dataset_cfg)
    scores = {
        "step": restored.step,
        "over_tasks": means,
        "loss": loss,
        "split_policy": split_policy,
        "by_task": task_scores(measured),
        "own_metrics": own,
    }
    if split_policy == "paper":
        multihost.say(
            "split policy 'paper': tasks with fewer than 120 instances train on their test rows"
        )
    if multihost.is_primary():
        write_predictions(path, rows)
        files.write_text(directory / f"scores{suffix}.json", json.dumps(scores, indent=1) + "\n")
    multihost.say(f"step {restored.step}: {len(rows)} predictions -> {path}")
    for name, value in means.items():
        multihost.say(f"{name:>12} {value:6.2f}")
    for task, values in own.items():
        for name, value in values.items():
            multihost.say(f"{task} {name} {value:.4g}")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return gin_utils.run(evaluate, argv, gin_file="runs/eval.gin")


if __name__ == "__main__":
    sys.exit(main())
