"""`python -m t5x_ext.train`: trains a model, or goes on training it, as a gin file says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from t5x_ext import gin_utils
from t5x_ext.configs import CheckpointConfig, DatasetConfig, SuperNIConfig
from t5x_ext.errors import ConfigError
from t5x_ext.models import EncoderDecoderModel, params
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.training.logs import MetricLog, ProgressLine
from t5x_ext.training.trainer import Program, StepEvent, Trainer, train_loop


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
    from t5x_ext.checkpoints import Checkpointer, PreemptionGuard
    from t5x_ext.data import datasets

    program = Program(model, partitioner, trainer)
    datasets.set_context(superni_cfg, model.output_vocabulary)
    batches = datasets.train_batches(train_dataset_cfg, random_seed)
    save = checkpoint_cfg.save
    checkpointer = Checkpointer(
        model_dir,
        keep=save.keep if save else None,
        save_period=save.period if save else None,
        save_dtype=save.dtype if save else None,
    )
    with checkpointer, PreemptionGuard() as guard:
        state, initial_step = _start(program, checkpoint_cfg, checkpointer, batches, random_seed)
        last_step = total_steps or initial_step + (
            relative_steps or batches.steps_for_epochs(total_epochs)
        )
        summarize_config_fn(model_dir, None, int(state.step))
        meta = {
            "step": 0,
            "initial_step": initial_step,
            "random_seed": random_seed,
            "config": gin_utils.operative_config(),
        }

        def save_state(event: StepEvent, force: bool = False) -> None:
            if save is not None:
                position = meta | {"step": event.step}
                checkpointer.save(event.step, event.state, batches.state(), position, force)

        log = _Log(model_dir, int(state.step), last_step, stats_period)
        evaluation = _Evaluation(
            program, log, last_step, eval_period, eval_steps,
            train_eval_dataset_cfg, infer_eval_dataset_cfg,
        )  # fmt: skip
        state = train_loop(
            program,
            state,
            batches,
            last_step,
            jax.random.fold_in(jax.random.key(random_seed), 1),
            [log, evaluation, save_state],
            guard.should_stop,
        )
        save_state(StepEvent(int(state.step), state, {}, None), force=True)
        log.close()
    if int(state.step) < last_step:
        print(f"stopped by SIGTERM at step {int(state.step)}; the same command resumes")


def _start(
    program: Program,
    checkpoint_cfg: CheckpointConfig,
    checkpointer: Any,
    batches: Any,
    random_seed: int,
) -> tuple[Any, int]:
    """The state to go on from, and the step of the checkpoint that the run began with."""
    from t5x_ext.checkpoints import load_meta, load_params

    abstract = program.abstract_state()
    restored = checkpointer.restore(abstract)
    if restored is not None:
        batches.restore(restored.data_state)
        print(f"resuming at step {int(restored.state.step)}: parameters, optimizer and data")
        return restored.state, restored.meta["initial_step"]
    restore = checkpoint_cfg.restore
    if restore is None or restore.path is None:
        count = params.count_params(program.model.specs)
        print(f"starting from random parameters ({count:,}), seed {random_seed}")
        return program.init_state(jax.random.key(random_seed)), 0
    initial = load_params(restore.path, abstract.params, restore.dtype)
    step = load_meta(restore.path).get("step", 0)
    print(f"starting from {restore.path} (step {step}): parameters only, a new optimizer")
    return program.state_from_params(initial, step), step


class _Log:
    """After every `period` steps: a progress line, metrics.jsonl and TensorBoard."""

    def __init__(self, model_dir: str, first_step: int, last_step: int, period: int) -> None:
        self._writes = jax.process_index() == 0
        if self._writes:
            self._metrics = MetricLog(model_dir, first_step)
            self._progress = ProgressLine(last_step, period, first_step)

    def __call__(self, event: StepEvent) -> None:
        if not self._writes:
            return
        slots = round(event.info.num_tokens / max(1 - event.info.padding_share, 1e-9))
        hosts = jax.process_count()
        self._progress.count(event.step, event.info.num_tokens * hosts, slots * hosts)
        if self._progress.due(event.step):
            values = {name: float(value) for name, value in event.metrics.items()}
            values |= self._progress.report(values["loss"])
            self.write(event.step, "train", values)

    def write(self, step: int, group: str, values: dict[str, float]) -> None:
        """Logs numbers as `<group>/<name>`."""
        if self._writes:
            self._metrics.write(step, {f"{group}/{name}": v for name, v in values.items()})

    def close(self) -> None:
        if self._writes:
            self._progress.close()
            self._metrics.close()


class _Evaluation:
    """Every `period` steps and at the end: held-out loss, decoded scores."""

    def __init__(
        self,
        program: Program,
        log: _Log,
        last_step: int,
        period: int | None,
        max_batches: int | None,
        loss_cfg: DatasetConfig | None,
        infer_cfg: DatasetConfig | None,
    ) -> None:
        from t5x_ext.data import datasets

        self._program, self._log = program, log
        self._last_step, self._period, self._max_batches = last_step, period, max_batches
        self._loss_cfg = loss_cfg
        self._loss_examples = datasets.load_flat(loss_cfg) if loss_cfg else []
        self._infer_examples = datasets.load_flat(infer_cfg) if infer_cfg else []
        if infer_cfg:
            from t5x_ext.evaluation import make_decoder

            self._decoder = make_decoder(program.model, program.partitioner, infer_cfg)

    def __call__(self, event: StepEvent) -> None:
        due = event.step == self._last_step or (self._period and event.step % self._period == 0)
        if not due:
            return
        from t5x_ext.evaluation import evaluate_loss, predict_and_score

        if self._loss_examples:
            values = evaluate_loss(
                self._program,
                event.state.params,
                self._loss_examples,
                self._loss_cfg,
                self._max_batches,
            )
            self._report(event.step, "eval", values)
        if self._infer_examples:
            _, scores = predict_and_score(
                self._decoder, event.state.params, self._infer_examples
            )
            self._report(event.step, "infer_eval", scores)

    def _report(self, step: int, group: str, values: dict[str, float]) -> None:
        self._log.write(step, group, values)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"step {step}  {group}  {shown}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return gin_utils.run(train, argv, gin_file="runs/train.gin")


if __name__ == "__main__":
    sys.exit(main())
