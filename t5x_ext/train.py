"""`python -m t5x_ext.train`: trains a model, or resumes its training, as a gin file says."""

from __future__ import annotations

import dataclasses
import functools
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax

from mixtures.vocabularies import save_tokenizer
from t5x_ext import bounds, files, gin_utils, multihost, startup
from t5x_ext.configs import CheckpointConfig, DatasetConfig, SuperNIConfig
from t5x_ext.data.batching import TrainBatches
from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.runs.length import RunLength, find_initial_step
from t5x_ext.seqio import Evaluator, make_evaluator
from t5x_ext.terminal import note
from t5x_ext.training import actions as action_modes
from t5x_ext.training import wandb_runs
from t5x_ext.training.logs import MetricLog
from t5x_ext.training.trainer import BaseAction, Program, StepEvent, Trainer


def train(
    *,
    model: BaseTransformerModel,
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
    stats_period: int | None = None,
    random_seed: int | None = 0,
    use_hardware_rng: bool = False,
    deterministic: bool = False,
    summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
    inference_evaluator_cls: Callable[[], Evaluator] = Evaluator,
    run_eval_before_training: bool = False,
    wandb_project: str | None = None,
    actions: Mapping[str, Sequence[BaseAction]] | None = None,
    hooks: Sequence[Callable[[StepEvent], bool | None]] = (),
) -> None:
    """Trains a model and leaves checkpoints, metrics and the config in MODEL_DIR.

    A run that finds checkpoints in MODEL_DIR resumes from the newest, data position included;
    otherwise it starts from `checkpoint_cfg.restore.path`, or at random. One of `total_steps`,
    `relative_steps` and `total_epochs` says when it ends; `relative_steps` wins over `total_steps`,
    which T5X's finetune.gin requires in any case.

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
      eval_steps: batches per loss evaluation, of the first examples of every held-out task; None
        takes all.
      eval_period: steps between evaluations; None or 0 evaluates at the end only.
      stats_period: steps between progress lines and logged metrics; None or 0 takes 100.
      random_seed: RANDOM_SEED of initial values, dropout and data. None draws one, which is
        printed, written into config.gin and kept when the run resumes.
      use_hardware_rng: draw dropout and initial values with the accelerator's own generator
        (XLA's RngBitGenerator): faster on TPUs, and another mesh gives other numbers.
      deterministic: the same command gives the same checkpoints, bit by bit, on the same machines
        and versions; see `startup.make_deterministic`. Needs a random_seed.
      summarize_config_fn: writes the config down; `gin_utils.summarize_gin_config`.
      inference_evaluator_cls: how `infer_eval_dataset_cfg` is evaluated (gin: `@seqio.Evaluator`).
      run_eval_before_training: evaluate before the first step too.
      wandb_project: WANDB_PROJECT, where the numbers go as well (see `training.wandb_runs`).
      actions: what may end the run early; see `training.actions.BaseAction`.
      hooks: called with a `StepEvent` after every step, before saving; where one answers True, the
        run ends there.

    Raises:
      ConfigError: something in the configuration does not fit together.
    """
    if deterministic:
        if random_seed is None:
            raise ConfigError("RANDOM_SEED: None draws one; with DETERMINISTIC allowed: a number")
        startup.make_deterministic()
    files.path(model_dir, "MODEL_DIR")
    trainer, evaluator = trainer_cls(), make_evaluator(inference_evaluator_cls)
    action_modes.check_modes(actions or {})
    if wandb_project is not None:
        wandb_runs.check_installed()
        files.local_path(model_dir, "MODEL_DIR, with WANDB_PROJECT")
    num_microbatches = trainer.num_microbatches or 1
    held_out_cfgs = train_eval_dataset_cfg, infer_eval_dataset_cfg
    _check_data(model, train_dataset_cfg, held_out_cfgs, partitioner, num_microbatches)
    length = RunLength(
        None if relative_steps is not None else total_steps, relative_steps, total_epochs
    )
    if random_seed is not None:
        bounds.check_seed("RANDOM_SEED", random_seed)
    periods = {"EVAL_STEPS": eval_steps, "EVAL_PERIOD": eval_period, "stats_period": stats_period}
    for name, number in periods.items():
        if number is not None:
            bounds.check_int(name, number, 0)
    # Slow imports (Orbax among them), after everything that can be checked without them.
    from t5x_ext.checkpoints.meta import PROMPT
    from t5x_ext.data import datasets
    from t5x_ext.runs.adapters import with_adapter
    from t5x_ext.runs.held_out import load_held_out
    from t5x_ext.runs.run import run_training

    initial_step = find_initial_step(length, model_dir, checkpoint_cfg)
    model = with_adapter(model, checkpoint_cfg.restore)
    datasets.set_context(superni_cfg, model.output_vocabulary, model.features)
    seed = _draw_seed(model_dir) if random_seed is None else random_seed
    batches = datasets.train_batches(
        train_dataset_cfg,
        model.features,
        seed,
        partitioner.host_rows,
        partitioner.num_batch_shards * num_microbatches,
    )
    last_step = functools.partial(length.last_step, batches)
    _tell_sources(batches, last_step(initial_step) - initial_step)
    datasets.tell_cuts([member.examples for member in batches.members], train_dataset_cfg)
    evaluation = load_held_out(model, model_dir, *held_out_cfgs, evaluator)
    evaluation = dataclasses.replace(
        evaluation,
        period=eval_period,
        max_batches=eval_steps,
        before_training=run_eval_before_training,
    )

    def write_down(log: MetricLog | None, step: int) -> None:
        summarize_config_fn(model_dir, log, step)
        if multihost.is_primary():
            directory = os.path.join(model_dir, "tokenizer")
            with files.writing(directory):
                save_tokenizer(model.output_vocabulary, directory)

    with jax.default_prng_impl("unsafe_rbg" if use_hardware_rng else "threefry2x32"):
        _, finished = run_training(
            Program(model, partitioner, trainer),
            batches,
            model_dir,
            last_step,
            checkpoint_cfg,
            seed,
            meta={
                "config": gin_utils.operative_config(),
                PROMPT: datasets.prompt_of(train_dataset_cfg),
            },
            stats_period=stats_period or 100,
            evaluation=evaluation,
            on_start=write_down,
            hooks=hooks,
            actions=actions or MappingProxyType({}),
            wandb_project=wandb_project,
        )
    if not finished:
        multihost.say("stopped by SIGTERM with everything saved; the same command resumes")


def _check_data(
    model: BaseTransformerModel,
    train_cfg: DatasetConfig,
    held_out_cfgs: Sequence[DatasetConfig | None],
    partitioner: PjitPartitioner,
    num_microbatches: int,
) -> None:
    """Refuses lengths, batches and vocabularies that the model or the mesh cannot take."""
    if train_cfg.task_feature_lengths is None:
        raise ConfigError(
            "train_dataset_cfg.task_feature_lengths: None; training needs "
            "{'inputs': tokens, 'targets': tokens}"
        )
    partitioner.check_batch(train_cfg.batch_size, num_microbatches)
    model.check_pack(train_cfg.pack)
    model.check_vocabulary()
    for cfg in (train_cfg, *held_out_cfgs):
        if cfg is not None:
            model.check_context(cfg.task_feature_lengths)


def _tell_sources(batches: TrainBatches, num_steps: int) -> None:
    """Says what the steps of a run are trained on, before the first of them."""
    from t5x_ext.data.mixture_tables import share_of_sources, source_lines

    if not multihost.is_primary():  # every example is looked at
        return
    shares = share_of_sources(batches.members, num_steps / batches.steps_per_epoch())
    if shares:
        note(*source_lines(shares))


def _draw_seed(model_dir: str) -> int:
    """The seed of the run that MODEL_DIR holds, else a fresh one; the same in every process.

    It goes into the configuration, so that what is written down runs again as this run did.
    """

    from t5x_ext.checkpoints import load_meta
    from t5x_ext.checkpoints.directories import saved_steps

    has_saved = saved_steps(files.absolute(model_dir, "MODEL_DIR"))
    seed = load_meta(model_dir).get("random_seed") if has_saved else None
    if seed is None:
        seed = multihost.gather(secrets.randbits(31))[0]
        multihost.say(f"random_seed: {seed}, drawn for this run")
    gin_utils.set_argument(train, "random_seed", seed)
    return seed


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return gin_utils.run(train, argv, gin_file="runs/train.gin")


if __name__ == "__main__":
    sys.exit(main())
