"""What a run does after its steps: progress and metrics, and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t5x_ext import multihost
from t5x_ext.checkpoints import Checkpointer
from t5x_ext.checkpoints.best import BEST, Best
from t5x_ext.configs import SaveCheckpointConfig
from t5x_ext.data.batching import TrainBatches
from t5x_ext.errors import ConfigError
from t5x_ext.terminal import note
from t5x_ext.training.actions import BaseAction, run_actions
from t5x_ext.training.logs import MetricLog, ProgressLine
from t5x_ext.training.nonfinite import FiniteCheck, check_params
from t5x_ext.training.trainer import StepEvent


class LogHook:
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
        return run_actions(self._actions, event.state, {"train": values})

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

    def __enter__(self) -> LogHook:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Ends the progress line and closes the files."""
        if self._metrics:
            self._progress.close()
            try:
                self._metrics.close()
            except ConfigError:
                if error is None:  # else that one came first
                    raise


class SaveHook:
    """After every step that is to be kept: a checkpoint, once its numbers have been checked."""

    def __init__(
        self,
        checkpointer: Checkpointer,
        settings: SaveCheckpointConfig | None,
        batches: TrainBatches,
        finite: FiniteCheck,
        log: LogHook,
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
