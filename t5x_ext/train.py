"""`python -m t5x_ext.train`: trains a model, or goes on training it, as a gin file says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from t5x_ext import gin_utils
from t5x_ext.configs import CheckpointConfig, DatasetConfig, SuperNIConfig
from t5x_ext.data.records import Example
from t5x_ext.errors import ConfigError
from t5x_ext.models import EncoderDecoderModel
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.training.trainer import Program, Trainer


def train(
    *,
    model: EncoderDecoderModel,
    model_dir: str,
    train_dataset_cfg: DatasetConfig,
    train_eval_dataset_cfg: DatasetConfig | None = None,
    infer_eval_dataset_cfg: DatasetConfig | None = None,
    superni_cfg: SuperNIConfig = SuperNIConfig(),
    checkpoint_cfg: CheckpointConfig = CheckpointConfig(),
    partitioner: PjitPartitioner = PjitPartitioner(),
    trainer_cls: Callable[[], Trainer] = Trainer,
    total_steps: int | None = None,
    relative_steps: int | None = None,
    total_epochs: int | None = None,
    eval_steps: int | None = None,
    eval_period: int | None = None,
    stats_period: int = 100,
    random_seed: int = 0,
    summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
) -> None:
    """Trains a model and leaves checkpoints, metrics and the config in MODEL_DIR.

    A run that finds checkpoints in MODEL_DIR resumes from the newest, data position included;
    otherwise it starts from `checkpoint_cfg.restore.path`, or at random. Exactly one of
    `total_steps`, `relative_steps` and `total_epochs` says when it ends.

    Args:
      model: the model, its vocabularies and its optimizer.
      model_dir: MODEL_DIR, created if absent.
      train_dataset_cfg: training data.
      train_eval_dataset_cfg: data for the loss on held-out examples; None for none.
      infer_eval_dataset_cfg: data to decode and score during training; None for none.
      superni_cfg: how `superni.*` names become data.
      checkpoint_cfg: where to start, what to keep.
      partitioner: the mesh.
      trainer_cls: makes the `Trainer` (gin: `@trainer.Trainer`).
      total_steps: TRAIN_STEPS, those already in the initial checkpoint included.
      relative_steps: TRAIN_STEPS_RELATIVE, on top of the initial checkpoint.
      total_epochs: TRAIN_EPOCHS over the training data.
      eval_steps: batches per loss evaluation; None takes all.
      eval_period: steps between evaluations; None evaluates at the end only.
      stats_period: steps between progress lines and logged metrics.
      random_seed: RANDOM_SEED of initial values, dropout and data.
      summarize_config_fn: writes the config down; `gin_utils.summarize_gin_config`.

    Raises:
      ConfigError: something in the configuration does not fit together.
    """
    trainer = trainer_cls()
    partitioner.check_batch(train_dataset_cfg.batch_size, trainer.num_microbatches or 1)
    model.check_vocabulary()
    limits = {
        "TRAIN_STEPS": total_steps,
        "TRAIN_STEPS_RELATIVE": relative_steps,
        "TRAIN_EPOCHS": total_epochs,
    }
    given = [name for name, value in limits.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(
            f"train: set exactly one of {', '.join(limits)}; set are: {', '.join(given) or 'none'}"
        )
    # Slow imports (TensorFlow, Orbax), after everything that can be checked without them.
    from t5x_ext.data import datasets
    from t5x_ext.runs import Evaluation, run_training

    datasets.set_context(superni_cfg, model.output_vocabulary)
    rows = partitioner.host_rows(train_dataset_cfg.batch_size)
    batches = datasets.train_batches(train_dataset_cfg, random_seed, rows)
    def last_step(initial_step: int) -> int:
        if total_steps is not None:
            return total_steps
        if relative_steps is not None:
            return initial_step + relative_steps
        return initial_step + batches.steps_for_epochs(total_epochs)

    _, finished = run_training(
        Program(model, partitioner, trainer),
        batches,
        model_dir,
        last_step,
        checkpoint_cfg,
        random_seed,
        meta={"config": gin_utils.operative_config()},
        stats_period=stats_period,
        evaluation=Evaluation(
            period=eval_period,
            loss_cfg=train_eval_dataset_cfg,
            loss_examples=_load(train_eval_dataset_cfg),
            max_batches=eval_steps,
            infer_cfg=infer_eval_dataset_cfg,
            infer_examples=_load(infer_eval_dataset_cfg),
        ),
        on_start=lambda: summarize_config_fn(model_dir, None, 0),
    )
    if not finished:
        print("stopped by SIGTERM with everything saved; the same command resumes")


def _load(cfg: DatasetConfig | None) -> list[Example]:
    """Held-out examples; none where the data has no such split (a single file, say)."""
    from t5x_ext.data import datasets

    if cfg is None:
        return []
    if not datasets.has_split(cfg):
        print(f"{cfg.mixture_or_task_name}: no {cfg.split} split, so nothing is held out")
        return []
    return datasets.load_flat(cfg)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return gin_utils.run(train, argv, gin_file="runs/train.gin")


if __name__ == "__main__":
    sys.exit(main())
