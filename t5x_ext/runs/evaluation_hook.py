"""Evaluation during a run: the loss on held-out examples, and decoded scores."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax

from mixtures.task_metrics import metrics_of
from t5x_ext import multihost
from t5x_ext.checkpoints.best import Best
from t5x_ext.configs import DatasetConfig
from t5x_ext.data.records import Example
from t5x_ext.data.task_metrics import Score
from t5x_ext.decoding.likelihood import Scorer
from t5x_ext.errors import ConfigError, nearest
from t5x_ext.metrics.aggregate import task_scores
from t5x_ext.metrics.catalogue import get_metric
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.models.losses import zero_sums
from t5x_ext.runs.evaluation import (
    evaluate_loss,
    first_of_all_tasks,
    make_decoder,
    predict_and_score,
    targets_scorer,
)
from t5x_ext.runs.hooks import LogHook
from t5x_ext.terminal import note
from t5x_ext.training.actions import BaseAction, MetricsByTask, run_actions
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
      own_metrics: computes task-specific metrics: (scored rows, log-likelihood function) -> {task:
        {metric: value}}.
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
    """The share of a run spent on evaluation and, if large, how to reduce it.

    Args:
      seconds: spent on evaluations.
      run_seconds: from the first step to the last, evaluations included.
    """
    share = seconds / run_seconds
    line = f"evaluation took {share:.0%} of the run's time"
    if share > _MUCH and seconds > _LONG_SECS:
        line += "; to reduce it, set EVAL_STEPS, EVALUATOR_NUM_EXAMPLES or a longer EVAL_PERIOD"
    return line


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


class EvaluationHook:
    """Every `period` steps and at the end: held-out loss, decoded scores.

    Attributes:
      seconds: spent on it so far, compilation included.
      interrupted: whether the run is to stop and the last evaluation was given up for that. No
        action has seen its numbers.
    """

    def __init__(
        self,
        program: Program,
        log: LogHook,
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
        asked = [
            run_actions(self._actions.get(mode, ()), event.state, seen)
            for mode, seen in found.by_mode.items()
        ]
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
