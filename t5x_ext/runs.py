"""One training run in one directory: start or resume, train, log, evaluate, save.

`train` runs it as a gin file says; a study runs it for its initial models.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

import jax

from t5x_ext import adapter_runs, multihost
from t5x_ext.checkpoints import Checkpointer, PreemptionGuard, adapters, load, selection
from t5x_ext.checkpoints.meta import ADAPTER, CONFIG
from t5x_ext.configs import CheckpointConfig, DatasetConfig
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.errors import ConfigError
from t5x_ext.evaluation import evaluate_loss, make_decoder, predict_and_score
from t5x_ext.metrics.aggregate import task_scores
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.models import parameters
from t5x_ext.models.families import FAMILIES, config_to_json
from t5x_ext.terminal import note
from t5x_ext.training.actions import BaseAction, MetricsByTask
from t5x_ext.training.logs import MetricLog, ProgressLine
from t5x_ext.training.nonfinite import FiniteCheck, check_params
from t5x_ext.training.state import TrainState
from t5x_ext.training.trainer import Program, StepEvent, train_loop

# Above this share of a run's time, and these seconds, the run says how to evaluate less.
_MUCH, _LONG_SECS = 0.1, 60


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What to evaluate during a run, and when.

    Attributes:
      period: steps between evaluations; None or 0 evaluates at the end only.
      loss_cfg: batch size and lengths for the loss; None for no loss.
      loss_examples: held-out examples for the loss.
      max_batches: batches per loss evaluation; None takes all.
      infer_cfg: batch size and lengths for decoding; None for none.
      infer_examples: examples to decode and score.
      loggers: called with (step, scored rows) after each decoding, on process 0.
      own_metrics: scored rows -> {task: {metric: value}} of metrics that tasks bring along.
      before_training: whether to evaluate before the first step as well.
    """

    period: int | None = None
    loss_cfg: DatasetConfig | None = None
    loss_examples: Sequence[Example] = ()
    max_batches: int | None = None
    infer_cfg: DatasetConfig | None = None
    infer_examples: Sequence[Example] = ()
    loggers: Sequence[Callable[[int, Sequence[Prediction]], None]] = ()
    own_metrics: Callable[[Sequence[Prediction]], MetricsByTask] = lambda rows: {}
    before_training: bool = False


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
    hooks: Sequence[Callable[[StepEvent], bool | None]] = (),
    actions: Mapping[str, Sequence[BaseAction]] = MappingProxyType({}),
    wandb_project: str | None = None,
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
      on_start: called once the directory is this run's own and the start has been restored.
      hooks: called after every step, before saving; where one answers True, the run ends. With
        several processes all have to answer the same.
      actions: see `training.actions.BaseAction`.
      wandb_project: project of Weights & Biases to log to as well; None for none.

    Returns:
      The last state, and whether the run reached an end (False after SIGTERM).
    """
    multihost.check_same({"training data": json.dumps(batches.state())})
    save = checkpoint_cfg.save
    checkpointer = Checkpointer(
        model_dir,
        keep=save.keep if save else None,
        save_period=save.period if save else None,
        save_dtype=save.dtype if save else None,
        checksums=save.checksums if save else True,
    )
    interrupted = False

    def interrupt(step: int) -> bool:
        nonlocal interrupted
        interrupted = guard.should_stop(step)
        return interrupted

    with contextlib.closing(batches), checkpointer, PreemptionGuard() as guard:
        base = adapter_runs.load_base(program, checkpoint_cfg.restore)
        state, carried = _start(
            program, checkpoint_cfg, checkpointer, batches, random_seed, model_dir, base
        )
        on_start()
        first, last = int(state.step), last_step(carried.initial_step)
        multihost.check_same({"start": f"step {first}, data at {json.dumps(batches.state())}"})
        meta = meta | {
            "initial_step": carried.initial_step,
            "random_seed": random_seed,
        }
        config = program.model.config
        if config.family in FAMILIES:  # what the code of a user builds, no checkpoint can describe
            meta |= {CONFIG: config_to_json(config)}
        if base is not None:
            meta |= {ADAPTER: base.describe()}
        frozen = base.params if base else {}
        may_skip = program.trainer.skip_nonfinite_steps
        finite = FiniteCheck(may_skip, carried.skipped_steps, multihost.say)

        def save_state(event: StepEvent, force: bool = False) -> None:
            if save is None:
                return
            force = force or event.step in save.checkpoint_steps
            if force or checkpointer.should_save(event.step):
                finite.check(event.state.params)
                check_params(event.state.params, event.step)
                log.flush()
                position = meta | {"step": event.step, "skipped_steps": finite.skipped}
                checkpointer.save(event.step, event.state, batches.state(), position, force)

        metric_log = MetricLog(model_dir, first, wandb_project) if multihost.is_primary() else None
        log = _Log(metric_log, first, last, stats_period, actions, finite if may_skip else None)
        evaluator = _Evaluator(program, log, evaluation, last, actions)
        with log:
            started = time.monotonic()
            if evaluation.before_training:
                evaluator.evaluate(StepEvent(first, state, {}, None, frozen))
            state = train_loop(
                program,
                state,
                batches,
                last,
                jax.random.fold_in(jax.random.key(random_seed), 1),
                [finite, log, evaluator, *hooks, save_state],
                interrupt,
                frozen,
            )
            finite.check(state.params)
            if evaluator.seconds and multihost.is_primary():
                note(evaluation_line(evaluator.seconds, time.monotonic() - started))
            save_state(StepEvent(int(state.step), state, {}, None), force=True)
    if save is not None:
        multihost.say(f"checkpoint -> {os.path.join(model_dir, f'checkpoint_{int(state.step)}')}")
    return state, not interrupted


def evaluation_line(seconds: float, run_seconds: float) -> str:
    """What evaluation cost of a run, and where that is much, how to make it less.

    Args:
      seconds: spent on evaluations.
      run_seconds: from the first step to the last, evaluations included.
    """
    share = seconds / run_seconds
    line = f"evaluation took {share:.0%} of the run's time"
    if share > _MUCH and seconds > _LONG_SECS:
        line += "; less of it: EVAL_STEPS, EVALUATOR_NUM_EXAMPLES, or a longer EVAL_PERIOD"
    return line


class _Carried(NamedTuple):
    """What a run carries from checkpoint to checkpoint besides its state.

    Attributes:
      initial_step: step of the checkpoint that it began with.
      skipped_steps: steps left out since.
    """

    initial_step: int
    skipped_steps: int = 0


def _start(
    program: Program,
    checkpoint_cfg: CheckpointConfig,
    checkpointer: Checkpointer,
    batches: TrainBatches,
    random_seed: int,
    model_dir: str,
    base: adapter_runs.Base | None,
) -> tuple[TrainState, _Carried]:
    """The state to go on from, and what else the run carries along."""
    abstract = program.abstract_state()
    restored = checkpointer.restore(abstract)
    if restored is not None:
        if base is not None:
            adapters.check_base(
                model_dir, restored.meta, base.fingerprint, base.path, base.quantization
            )
        batches.restore(restored.data_state)
        step = int(restored.state.step)
        multihost.say(f"resuming at step {step}: parameters, optimizer and data")
        skipped = restored.meta.get("skipped_steps", 0)
        return restored.state, _Carried(restored.meta["initial_step"], skipped)
    if base is not None:
        state = adapter_runs.start(program, checkpoint_cfg.restore, random_seed, base)
        return state, _Carried(base.step)
    path = selection.select_one(checkpoint_cfg.restore)
    if path is None:
        count = parameters.count_params(program.model.specs)
        multihost.say(f"starting from random parameters ({count:,}), seed {random_seed}")
        return program.init_state(jax.random.key(random_seed)), _Carried(0)
    initial, source = load(path, abstract.params)
    multihost.say(f"starting from {path} (step {source.step}): parameters only, a new optimizer")
    return program.state_from_params(initial, source.step), _Carried(source.step)


class _Log:
    """After every `period` steps: a progress line, metrics.jsonl and TensorBoard."""

    def __init__(
        self,
        metrics: MetricLog | None,
        first_step: int,
        last_step: int,
        period: int,
        actions: Mapping[str, Sequence[BaseAction]],
        finite: FiniteCheck | None,
    ) -> None:
        self._metrics = metrics  # None in processes that do not write
        self._period, self._last_step = period, last_step
        self._actions, self._finite = actions.get("TRAIN", ()), finite
        if metrics:
            self._progress = ProgressLine(last_step, first_step)

    def __call__(self, event: StepEvent) -> bool:
        if self._metrics:
            slots = round(event.info.num_tokens / max(1 - event.info.padding_share, 1e-9))
            self._progress.count(event.step, event.info.num_tokens, slots)
        if event.step % self._period and event.step != self._last_step:
            return False
        values = self._read(event)
        if self._metrics:
            self.write(event.step, "train", values | self._progress.report(values["loss"]))
        if not self._actions or event.step % self._period:
            return False
        return _ask(self._actions, event, {"train": values})

    def _read(self, event: StepEvent) -> dict[str, float]:
        """The step's numbers, and in a run that may leave steps out, how many it has so far."""
        values = {name: float(value) for name, value in event.metrics.items() if not value.ndim}
        if self._finite is not None:
            self._finite.check(event.state.params)
            values["skipped_steps"] = self._finite.skipped
        return values

    def write(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Logs numbers as `<group>/<name>`."""
        if self._metrics:
            self._metrics.write(step, {f"{group}/{name}": v for name, v in values.items()})

    def flush(self) -> None:
        """Has everything logged so far written where it is kept."""
        if self._metrics:
            self._metrics.flush()

    def __enter__(self) -> _Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the progress line and closes the files."""
        if self._metrics:
            self._progress.close()
            try:
                self._metrics.close()
            except ConfigError:
                if error is None:  # else that one came first
                    raise


class _Evaluator:
    """Every `period` steps and at the end: held-out loss, decoded scores.

    Attributes:
      seconds: spent on it so far, compilation included.
    """

    def __init__(
        self,
        program: Program,
        log: _Log,
        what: Evaluation,
        last_step: int,
        actions: Mapping[str, Sequence[BaseAction]],
    ) -> None:
        self._program, self._log, self._what, self._last_step = program, log, what, last_step
        self._actions = actions
        self.seconds = 0.0
        if what.infer_cfg:
            mesh = program.partitioner
            slots = jax.tree.leaves(program.abstract_state().opt_state)
            slot_bytes = sum(mesh.bytes_per_device(one, one.sharding.spec) for one in slots)
            self._decoder = make_decoder(program.model, mesh, what.infer_cfg, slot_bytes)

    def __call__(self, event: StepEvent) -> bool:
        return self.is_due(event.step) and self.evaluate(event)

    def is_due(self, step: int) -> bool:
        """Whether a step is followed by an evaluation."""
        period = self._what.period
        return step == self._last_step or bool(period and step % period == 0)

    def evaluate(self, event: StepEvent) -> bool:
        """Evaluates the state of an event; returns whether an action ends the run."""
        jax.block_until_ready(event.state.step)  # whose steps may still be under way
        started = time.monotonic()
        ends = self._evaluate(event)
        if self._what.loss_examples or self._what.infer_examples:
            self.seconds += time.monotonic() - started
        return ends

    def _evaluate(self, event: StepEvent) -> bool:
        what = self._what
        weights = event.params
        ends = False
        if what.loss_cfg and what.loss_examples:
            values = evaluate_loss(
                self._program, weights, what.loss_examples, what.loss_cfg, what.max_batches
            )
            self._report(event.step, "eval", values)
            by_mixture = {what.loss_cfg.mixture_or_task_name: values}
            ends |= _ask(self._actions.get("TRAIN_EVAL", ()), event, by_mixture)
        if what.infer_cfg and what.infer_examples:
            measured, scores = predict_and_score(self._decoder, weights, what.infer_examples)
            rows = measured.rows
            self._report(event.step, "infer_eval", scores)
            if multihost.is_primary():
                for logger in what.loggers:
                    logger(event.step, rows)
            by_task: dict[str, Any] = {what.infer_cfg.mixture_or_task_name: scores}
            by_task |= task_scores(measured)
            for task, own in what.own_metrics(rows).items():
                self._report(event.step, f"infer_eval/{task}", own)
                by_task[task] = by_task[task] | own
            ends |= _ask(self._actions.get("INFER_EVAL", ()), event, by_task)
        return ends

    def _report(self, step: int, group: str, values: Mapping[str, float]) -> None:
        self._log.write(step, group, values)
        if multihost.is_primary():
            shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            note(f"step {step}  {group}  {shown}")


def _ask(
    actions: Sequence[BaseAction], event: StepEvent, by_task: Mapping[str, Mapping[str, float]]
) -> bool:
    """Runs every action; whether one of them ends the run."""
    return any([action.run(event.state, by_task) for action in actions])
