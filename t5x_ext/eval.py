"""`python -m t5x_ext.eval`: decodes and scores a split with a trained model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from t5x_ext import gin_utils
from t5x_ext.configs import DatasetConfig, RestoreCheckpointConfig, SuperNIConfig
from t5x_ext.models import EncoderDecoderModel
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.training.trainer import Program, Trainer


def evaluate(
    *,
    model: EncoderDecoderModel,
    dataset_cfg: DatasetConfig,
    restore_checkpoint_cfg: RestoreCheckpointConfig,
    output_dir: str,
    superni_cfg: SuperNIConfig = SuperNIConfig(),
    partitioner: PjitPartitioner = PjitPartitioner(),
) -> None:
    """Writes predictions.jsonl (scored) and scores.json to EVAL_OUTPUT_DIR and prints the means.

    Args:
      model: the model and its vocabularies.
      dataset_cfg: what to evaluate on.
      restore_checkpoint_cfg: CHECKPOINT_PATH.
      output_dir: EVAL_OUTPUT_DIR, created if absent.
      superni_cfg: how `superni.*` names become data.
      partitioner: the mesh.

    Raises:
      ConfigError: the checkpoint or the configuration does not fit.
    """
    from t5x_ext.evaluation import evaluate_loss, predict_and_score, restore_for_decoding
    from t5x_ext.metrics.aggregate import task_scores
    from t5x_ext.metrics.predictions import write_predictions

    session = restore_for_decoding(
        model, dataset_cfg, restore_checkpoint_cfg, superni_cfg, partitioner
    )
    directory = Path(output_dir)
    path = directory / "predictions.jsonl"
    rows, means = predict_and_score(
        session.decoder, session.params, session.examples, path, session.signature, True
    )
    write_predictions(path, rows)
    program = Program(model, partitioner, Trainer())
    loss = evaluate_loss(program, session.params, session.examples, dataset_cfg)
    scores = {
        "over_tasks": means,
        "loss": loss,
        "split_policy": superni_cfg.split_policy,
        "by_task": task_scores(rows),
    }
    if superni_cfg.split_policy == "paper":
        print("split policy 'paper': tasks with fewer than 120 instances train on their test rows")
    (directory / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    print(f"{len(rows)} predictions -> {path}")
    for name, value in means.items():
        print(f"{name:>12} {value:6.2f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return gin_utils.run(evaluate, argv, gin_file="runs/eval.gin")


if __name__ == "__main__":
    sys.exit(main())
