"""One training run in one directory: start or resume, train, log, evaluate, save.

`train` runs it as a gin file says; a study runs it for its initial models.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from t5x_ext.checkpoints import Checkpointer, PreemptionGuard, load_meta, load_params
from t5x_ext.configs import CheckpointConfig, DatasetConfig
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.evaluation import evaluate_loss, make_decoder, predict_and_score
from t5x_ext.models import params
from t5x_ext.training.logs import MetricLog, ProgressLine
from t5x_ext.training.state import TrainState
from t5x_ext.training.trainer import Program, StepEvent, train_loop


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What to evaluate during a run, and when.

    Attributes:
      period: steps between evaluations; None evaluates at the end only.
      loss_cfg: batch size and lengths for the loss; None for no loss.
      loss_examples: held-out examples for the loss.
      max_batches: batches per loss evaluation; None takes all.
      infer_cfg: batch size and lengths for decoding; None for none.
      infer_examples: examples to decode and score.
    """

    period: int | None = None
    loss_cfg: DatasetConfig | None = None
    loss_examples: Sequence[Example] = ()
    max_batches: int | None = None
    infer_cfg: DatasetConfig | None = None
    infer_examples: Sequence[Example] = ()


def run_training(
    program: Program,
    batches: TrainBatches,
    model_dir: str,
    last_step: Callable[[int], int],
    checkpoint_cfg: CheckpointConfig,
    random_seed: int,
    meta: dict[str, Any],
    stats_period: int = 100,
    evaluation: Evaluation = Evaluation(),
    on_start: Callable[[], None] = lambda: None,
) -> tuple[TrainState, bool]:
    """Trains until the last step, or until SIGTERM.

    A run that finds checkpoints in `model_dir` resumes from the newest, data position included.

    Args:
      program: compiled functions.
      batches: training data; moved to the saved position when the run resumes.
      model_dir: directory of the run, created if absent; refused while another run uses it.
      last_step: step of the initial checkpoint -> step at which the run ends.
      checkpoint_cfg: where a new run starts, what is kept.
      random_seed: of initial values and dropout.
      meta: JSON kept with every checkpoint.
      stats_period: steps between progress lines and logged metrics.
      evaluation: what to evaluate.
      on_start: called once the directory is this run's own.

    Returns:
      The last state, and whether the run reached its end (False after SIGTERM).
    """
    save = checkpoint_cfg.save
    checkpointer = Checkpointer(
        model_dir,
        keep=save.keep if save else None,
        save_period=save.period if save else None,
        save_dtype=save.dtype if save else None,
    )
    with contextlib.closing(batches), checkpointer, PreemptionGuard() as guard:
        on_start()
        state, initial_step = _start(program, checkpoint_cfg, checkpointer, batches, random_seed)
        first, last = int(state.step), last_step(initial_step)
        meta = meta | {"initial_step": initial_step, "random_seed": random_seed}

        def save_state(event: StepEvent, force: bool = False) -> None:
            if save is not None:
                position = meta | {"step": event.step}
                checkpointer.save(event.step, event.state, batches.state(), position, force)

        log = _Log(model_dir, first, last, stats_period)
        state = train_loop(
            program,
            state,
            batches,
            last,
            jax.random.fold_in(jax.random.key(random_seed), 1),
            [log, _Evaluator(program, log, evaluation, last), save_state],
            guard.should_stop,
        )
        save_state(StepEvent(int(state.step), state, {}, None), force=True)
        log.close()
    return state, int(state.step) >= last


def _start(
    program: Program,
    checkpoint_cfg: CheckpointConfig,
    checkpointer: Checkpointer,
    batches: TrainBatches,
    random_seed: int,
) -> tuple[TrainState, int]:
    """The state to go on from, and the step of the checkpoint that the run began with."""
    abstract = program.abstract_state()
    restored = checkpointer.restore(abstract)
    if restored is not None:
        batches.restore(restored.data_state)
        step = int(restored.state.step)
        print(f"resuming at step {step}: parameters, optimizer and data", flush=True)
        return restored.state, restored.meta["initial_step"]
    restore = checkpoint_cfg.restore
    if restore is None or restore.path is None:
        count = params.count_params(program.model.specs)
        print(f"starting from random parameters ({count:,}), seed {random_seed}", flush=True)
        return program.init_state(jax.random.key(random_seed)), 0
    initial = load_params(restore.path, abstract.params)
    step = load_meta(restore.path).get("step", 0)
    print(
        f"starting from {restore.path} (step {step}): parameters only, a new optimizer", flush=True
    )
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
        self._progress.count(event.step, event.info.num_tokens, slots)
        if self._progress.due(event.step):
            values = {name: float(value) for name, value in event.metrics.items()}
            values |= self._progress.report(values["loss"])
            self.write(event.step, "train", values)

    def write(self, step: int, group: str, values: dict[str, float]) -> None:
        """Logs numbers as `<group>/<name>`."""
        if self._writes:
            self._metrics.write(step, {f"{group}/{name}": v for name, v in values.items()})

    def close(self) -> None:
        """Ends the progress line and closes the files."""
        if self._writes:
            self._progress.close()
            self._metrics.close()


class _Evaluator:
    """Every `period` steps and at the end: held-out loss, decoded scores."""

    def __init__(self, program: Program, log: _Log, what: Evaluation, last_step: int) -> None:
        self._program, self._log, self._what, self._last_step = program, log, what, last_step
        if what.infer_cfg:
            self._decoder = make_decoder(program.model, program.partitioner, what.infer_cfg)

    def __call__(self, event: StepEvent) -> None:
        what = self._what
        if event.step != self._last_step and not (what.period and event.step % what.period == 0):
            return
        weights = event.state.params
        if what.loss_cfg and what.loss_examples:
            values = evaluate_loss(
                self._program, weights, what.loss_examples, what.loss_cfg, what.max_batches
            )
            self._report(event.step, "eval", values)
        if what.infer_cfg and what.infer_examples:
            _, scores = predict_and_score(self._decoder, weights, what.infer_examples)
            self._report(event.step, "infer_eval", scores)

    def _report(self, step: int, group: str, values: dict[str, float]) -> None:
        self._log.write(step, group, values)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"step {step}  {group}  {shown}", file=sys.stderr)
