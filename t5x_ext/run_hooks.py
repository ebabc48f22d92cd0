"""What a run does after its steps: progress and metrics, evaluation, checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

import jax

from mixtures.task_metrics import metrics_of
from t5x_ext import multihost
from t5x_ext.checkpoints import Checkpointer
from t5x_ext.checkpoints.best import BEST, Best
from t5x_ext.configs import DatasetConfig, SaveCheckpointConfig
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.data.task_metrics import Score
from t5x_ext.decoding.likelihood import Scorer
from t5x_ext.errors import ConfigError, nearest
from t5x_ext.evaluation import (
    evaluate_loss,
    first_of_all_tasks,
    make_decoder,
    predict_and_score,
    targets_scorer,
)
from t5x_ext.metrics.aggregate import task_scores
from t5x_ext.metrics.catalogue import get_metric
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.models.losses import zero_sums
from t5x_ext.terminal import note
from t5x_ext.training.actions import BaseAction, MetricsByTask
from t5x_ext.training.logs import MetricLog, ProgressLine
from t5x_ext.training.nonfinite import FiniteCheck, check_params
from t5x_ext.training.step import loss_metrics
from t5x_ext.training.trainer import Program, StepEvent

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
      own_metrics: scored rows, and what gives their targets' log-likelihoods by place -> {task:
        {metric: value}} of metrics that tasks bring along.
      before_training: whether to evaluate before the first step as well.
    """

    period: int | None = None
    loss_cfg: DatasetConfig | None = None
    loss_examples: Sequence[Example] = ()
    max_batches: int | None = None
    infer_cfg: DatasetConfig | None = None
    infer_examples: Sequence[Example] = ()
    loggers: Sequence[Callable[[int, Sequence[Prediction]], None]] = ()
    own_metrics: Callable[[Sequence[Prediction], Score], MetricsByTask] = lambda rows, score: {}
    before_training: bool = False

    def check_best(self, best: Best | None) -> None:
        """Refuses to judge checkpoints by a number that is never logged.

        What a task's own metrics are called shows only once they are computed: of these
        (`infer_eval/<task>/<metric>`) the task alone is looked at.

        Raises:
          ConfigError: it is not evaluated, or not called so.
        """
        if best is None:
            return
        kinds = {"eval": self.loss_examples, "infer_eval": self.infer_examples}
        group, _, name = best.metric.partition("/")
        if not kinds[group]:
            there = [f"{kind}/..." for kind, examples in kinds.items() if examples]
            raise ConfigError(
                f"SaveCheckpointConfig.best: {best.metric!r}, which this run does not evaluate; "
                f"allowed: {', '.join(there) or 'None, as nothing is held out'}"
            )
        # The losses are of all tasks together; their examples may lie on disk, and are many.
        tasks = {example.task for example in kinds[group]} if group == "infer_eval" else set()
        task, is_own, _ = name.partition("/")
        if group == "infer_eval" and is_own and task in tasks:
            return
        names = _logged(group, tasks)
        if best.metric not in names:
            raise ConfigError(
                f"SaveCheckpointConfig.best: {best.metric!r}, which this run does not log"
                f"{nearest(best.metric, names)}"
            )


def _logged(group: str, tasks: Collection[str]) -> list[str]:
    """The names under which evaluations of `tasks` log numbers, but for the tasks' own metrics."""
    if group == "eval":
        names = list(loss_metrics(zero_sums()))
    else:
        names = [get_metric(name).key for task in sorted(tasks) for name in metrics_of(task)]
    return [f"{group}/{name}" for name in dict.fromkeys(names)]


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


class Log:
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
        self._written: tuple[int, dict[str, float]] = (first_step, {})
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
        named = {f"{group}/{name}": value for name, value in values.items()}
        self._written = step, self.written(step) | named
        if self._metrics:
            self._metrics.write(step, named)

    def written(self, step: int) -> dict[str, float]:
        """What has been logged of the last step; {} of any other."""
        return self._written[1] if self._written[0] == step else {}

    def flush(self) -> None:
        """Has everything logged so far written where it is kept."""
        if self._metrics:
            self._metrics.flush()

    def __enter__(self) -> Log:
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


class Saver:
    """After every step that is to be kept: a checkpoint, once its numbers have been checked."""

    def __init__(
        self,
        checkpointer: Checkpointer,
        settings: SaveCheckpointConfig | None,
        batches: TrainBatches,
        finite: FiniteCheck,
        log: Log,
        meta: Mapping[str, Any],
        changing: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """Prepares to save.

        Args:
          checkpointer: the run's own.
          settings: what to keep; None for nothing.
          batches: say the position in the data.
          finite: checks the numbers.
          log: says what a step is judged by.
          meta: JSON of every checkpoint.
          changing: called at each for more of it.
        """
        self._changing = changing
        self._checkpointer, self._settings, self._batches = checkpointer, settings, batches
        self._finite, self._log, self._meta = finite, log, meta
        self._best = Best(*settings.best) if settings and settings.best else None
        self._unjudged: int | None = None  # the last step that was said to be

    def __call__(self, event: StepEvent) -> None:
        if self._settings is not None:
            is_best = self._checkpointer.is_best(event.step, self._value(event.step))
            self.save(event, force=is_best or event.step in self._settings.checkpoint_steps)

    def save(self, event: StepEvent, force: bool) -> None:
        """Saves the state where the period, or `force`, says so."""
        if self._settings is None or not (force or self._checkpointer.should_save(event.step)):
            return
        self._finite.check(event.state.params)
        check_params(event.state.params, event.step)
        self._log.flush()
        meta = {**self._meta, "step": event.step, "skipped_steps": self._finite.skipped}
        meta |= self._found(event.step)
        self._checkpointer.save(event.step, event.state, self._batches.state(), meta, force)

    def add_evaluation(self, step: int) -> None:
        """Adds to the checkpoint that a run goes on from what its late evaluation has given.

        From there on it is judged, and told from others, as if it had been evaluated in time.
        """
        self._log.flush()
        self._checkpointer.add_to_meta(step, self._found(step))

    def _found(self, step: int) -> dict[str, Any]:
        """What changes from checkpoint to checkpoint, and what the step is judged by."""
        found = dict(self._changing())
        value = self._value(step)
        if self._best and value is not None:
            found[BEST] = self._best.describe(value)
        return found

    def _value(self, step: int) -> float | None:
        """What the step is judged by; None where it was not evaluated, or without a number."""
        if self._best is None:
            return None
        group = self._best.metric.partition("/")[0]
        found = self._log.written(step)
        evaluated = [name for name in found if name.startswith(f"{group}/")]
        is_told = step == self._unjudged or not multihost.is_primary()
        if evaluated and self._best.metric not in found and not is_told:
            self._unjudged = step
            there = ", ".join(evaluated[:12])
            note(f"step {step} is not judged: no {self._best.metric}, there is {there}")
        value = found.get(self._best.metric, math.nan)
        return value if math.isfinite(value) else None


class _InterruptedError(Exception):
    """The run is to stop, and an evaluation is under way."""


@dataclasses.dataclass
class _Findings:
    """What an evaluation has found so far.

    Attributes:
      logged: numbers for the log, by group.
      rows: scored predictions.
      by_mode: what actions are shown, by their mode.
    """

    logged: dict[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    rows: Sequence[Prediction] = ()
    by_mode: dict[str, MetricsByTask] = dataclasses.field(default_factory=dict)


class Evaluator:
    """Every `period` steps and at the end: held-out loss, decoded scores.

    Attributes:
      seconds: spent on it so far, compilation included.
      interrupted: whether the run is to stop and the last evaluation was given up for that. No
        action has seen its numbers.
    """

    def __init__(
        self,
        program: Program,
        log: Log,
        what: Evaluation,
        last_step: int,
        actions: Mapping[str, Sequence[BaseAction]],
        should_stop: Callable[[], bool] = lambda: False,
        eos_ids: Sequence[int] = (),
    ) -> None:
        """Prepares to evaluate.

        Args:
          program: compiled functions.
          log: takes the numbers.
          what: examples and periods.
          last_step: the step at which the run ends.
          actions: see `training.actions.BaseAction`.
          should_stop: asked before every batch that is evaluated, decoded or scored, in every
            process; True gives the evaluation up.
          eos_ids: ids that end a prediction besides those of the vocabulary.
        """
        self._program, self._log, self._what, self._last_step = program, log, what, last_step
        self._actions, self._should_stop = actions, should_stop
        self.seconds = 0.0
        self.interrupted = False
        if what.infer_cfg:
            mesh = program.partitioner
            slots = jax.tree.leaves(program.abstract_state().opt_state)
            slot_bytes = sum(mesh.bytes_per_device(one, one.sharding.spec) for one in slots)
            self._decoder = make_decoder(program.model, mesh, what.infer_cfg, slot_bytes, eos_ids)
            self._scorer = Scorer.like(self._decoder)

    def __call__(self, event: StepEvent) -> bool:
        return self.is_due(event.step) and self.evaluate(event)

    def is_due(self, step: int) -> bool:
        """Whether a step is followed by an evaluation."""
        period = self._what.period
        return step == self._last_step or bool(period and step % period == 0)

    def evaluate(self, event: StepEvent) -> bool:
        """Evaluates the state of an event; returns whether an action, or a signal, ends the run."""
        jax.block_until_ready(event.state.step)  # whose steps may still be under way
        started = time.monotonic()
        try:
            ends = self._evaluate(event)
        except _InterruptedError:
            self.interrupted = ends = True
        if self._what.loss_examples or self._what.infer_examples:
            self.seconds += time.monotonic() - started
        return ends

    def _evaluate(self, event: StepEvent) -> bool:
        def between() -> None:
            if self._should_stop():
                raise _InterruptedError

        # Logged, and shown to actions, once all is known: a resumed run makes again what is given
        # up.
        found = _Findings()
        if self._what.loss_cfg and self._what.loss_examples:
            self._find_loss(event, found, between)
        if self._what.infer_cfg and self._what.infer_examples:
            self._find_scores(event, found, between)
        for group, values in found.logged.items():
            self._log.write(event.step, group, values)
        if found.rows and multihost.is_primary():
            for logger in self._what.loggers:
                logger(event.step, found.rows)
        asked = [_ask(self._actions.get(m, ()), event, seen) for m, seen in found.by_mode.items()]
        return any(asked)

    def _find_loss(self, event: StepEvent, found: _Findings, between: Callable[[], None]) -> None:
        """Adds the means over held-out tokens."""
        cfg, max_batches = self._what.loss_cfg, self._what.max_batches
        assert cfg is not None  # asked before
        values = evaluate_loss(
            self._program, event.params, self._loss_examples, cfg, max_batches, between
        )
        self._report(event.step, "eval", values, found)
        found.by_mode["TRAIN_EVAL"] = {cfg.mixture_or_task_name: values}

    def _find_scores(self, event: StepEvent, found: _Findings, between: Callable[[], None]) -> None:
        """Adds decoded rows and their scores, those of the tasks' own metrics too."""
        what, weights = self._what, event.params
        assert what.infer_cfg is not None  # asked before
        measured, scores = predict_and_score(
            self._decoder, weights, what.infer_examples, between=between
        )
        found.rows = measured.rows
        self._report(event.step, "infer_eval", scores, found)
        by_task: dict[str, Any] = {what.infer_cfg.mixture_or_task_name: scores}
        by_task |= task_scores(measured)
        score = targets_scorer(self._scorer, weights, what.infer_examples, between)
        for task, own in what.own_metrics(found.rows, score).items():
            self._report(event.step, f"infer_eval/{task}", own, found)
            by_task[task] = by_task[task] | own
        found.by_mode["INFER_EVAL"] = by_task

    @functools.cached_property
    def _loss_examples(self) -> Sequence[Example]:
        """The held-out examples that are looked at: chosen once, as they may lie on disk."""
        what = self._what
        if what.max_batches is None or what.loss_cfg is None:
            return what.loss_examples
        batch_size = self._program.partitioner.round_up_batch(what.loss_cfg.batch_size)
        return first_of_all_tasks(what.loss_examples, what.max_batches * batch_size)

    def _report(self, step: int, group: str, values: Mapping[str, float], found: _Findings) -> None:
        """Says numbers at once, and adds them to what is to be logged."""
        found.logged[group] = values
        if multihost.is_primary():
            shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            note(f"step {step}  {group}  {shown}")


def _ask(
    actions: Sequence[BaseAction], event: StepEvent, by_task: Mapping[str, Mapping[str, float]]
) -> bool:
    """Runs every action; whether one of them ends the run."""
    return any([action.run(event.state, by_task) for action in actions])
