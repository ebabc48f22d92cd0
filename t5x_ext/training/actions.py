"""What may end a run early, by the numbers it reports."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_ext.errors import ConfigError
from t5x_ext.terminal import note

MODES = ("TRAIN", "TRAIN_EVAL", "INFER_EVAL")

MetricsByTask = Mapping[str, Mapping[str, float]]


class BaseAction(abc.ABC):
    """Looks at a run's numbers each time they are reported.

    T5X's interface: subclass it and bind instances in `train.actions`, a mapping from one of
    `MODES` to a sequence of actions. TRAIN runs with each report of training (every STATS_PERIOD
    steps; the task is 'train'), TRAIN_EVAL with each held-out loss and INFER_EVAL with each decoded
    score (the task is a task's or the mixture's name).
    """

    @abc.abstractmethod
    def run(self, train_state: Any, metrics_by_task: MetricsByTask) -> bool:
        """Returns whether to end the run; with several processes the same in each."""

    def saved_state(self) -> Any:
        """What a run's checkpoints keep of the action, as JSON; None for nothing."""
        return None

    def restore_state(self, state: Any) -> None:
        """Takes up what `saved_state` gave to the checkpoint that a run goes on from.

        The settings may have changed since.
        """
        del state

    def is_over(self) -> bool:
        """Whether what has been restored ends the run at once."""
        return False


class TerminateOnNanAction(BaseAction):
    """Ends a run whose loss is not a finite number any more."""

    def __init__(self, task: str = "train", metric: str = "loss") -> None:
        """Names what is watched, for example the 'loss' of 'train'."""
        self._task, self._metric = task, metric

    def run(self, train_state: Any, metrics_by_task: MetricsByTask) -> bool:
        """See `BaseAction`."""
        del train_state
        value = _find(metrics_by_task, self._task, self._metric)
        if value is None or math.isfinite(value):
            return False
        note(f"{self._task}/{self._metric} is {value}: ending the run")
        return True


class EarlyStoppingAction(BaseAction):
    """Ends a run when a number has not improved from one report to the next, several in a row."""

    def __init__(
        self,
        metric: Sequence[str],
        mode: str,
        patience: int = 3,
        atol: float = 0.0,
        rtol: float = 0.0,
    ) -> None:
        """Names what is watched.

        Args:
          metric: (task, metric), for example ('my_task', 'rougeL').
          mode: 'min' if smaller is better, 'max' if larger is.
          patience: reports to look back on; none of the steps between them may be an improvement.
          atol: smallest absolute change that counts as one.
          rtol: smallest change as a share of the earlier value; it adds to `atol`.

        Raises:
          ConfigError: a value is out of range.
        """
        if mode not in ("min", "max"):
            raise ConfigError(f"EarlyStoppingAction.mode: {mode!r}; allowed: 'min', 'max'")
        if atol < 0 or rtol < 0 or patience < 2:
            raise ConfigError(
                f"EarlyStoppingAction: patience={patience}, atol={atol}, rtol={rtol}; allowed: "
                "patience of 2 or more, atol and rtol of 0 or more"
            )
        if isinstance(metric, str) or len(metric) != 2:
            raise ConfigError(
                f"EarlyStoppingAction.metric: {metric!r}; allowed: a pair of a task and its "
                "metric, such as ('train', 'loss')"
            )
        self._task, self._metric = metric
        self._sign = 1.0 if mode == "max" else -1.0
        self._patience, self._atol, self._rtol = patience, atol, rtol
        self._history: list[float] = []

    def run(self, train_state: Any, metrics_by_task: MetricsByTask) -> bool:
        """See `BaseAction`."""
        del train_state
        value = _find(metrics_by_task, self._task, self._metric)
        if value is None:
            return False
        self._history = [*self._history, value][-self._patience :]
        if not self.is_over():
            return False
        shown = ", ".join(f"{value:.4g}" for value in self._history)
        note(f"{self._task}/{self._metric} no longer improves ({shown}): ending the run")
        return True

    def saved_state(self) -> dict[str, Any]:
        """See `BaseAction`: the last reports, and of what."""
        return {"metric": [self._task, self._metric], "history": self._history}

    def restore_state(self, state: Any) -> None:
        """See `BaseAction`; reports of another number do not count."""
        if state["metric"] == [self._task, self._metric]:
            self._history = list(state["history"])[-self._patience :]

    def is_over(self) -> bool:
        """See `BaseAction`."""
        if len(self._history) < self._patience:
            return False
        pairs = zip(self._history, self._history[1:], strict=False)
        return not any(self._is_better(before, now) for before, now in pairs)

    def _is_better(self, before: float, now: float) -> bool:
        return self._sign * (now - before) > self._atol + self._rtol * abs(before)


def _find(metrics_by_task: MetricsByTask, task: str, metric: str) -> float | None:
    """The number, or None with a note on what there is instead."""
    value = metrics_by_task.get(task, {}).get(metric)
    if value is None:
        there = [f"{t}/{m}" for t, values in metrics_by_task.items() for m in values]
        note(f"action on {task}/{metric} not run: there is {', '.join(there[:12])}")
    return value


def check_modes(actions: Mapping[str, Sequence[BaseAction]]) -> None:
    """Raises ConfigError for a key of `train.actions` that is none of `MODES`."""
    for mode in actions:
        if mode not in MODES:
            raise ConfigError(f"train.actions: {mode!r}; allowed: {', '.join(MODES)}")


def run_actions(
    actions: Sequence[BaseAction], train_state: Any, metrics_by_task: MetricsByTask
) -> bool:
    """Runs every action; whether one of them ends the run."""
    return any([action.run(train_state, metrics_by_task) for action in actions])


def saved_states(actions: Mapping[str, Sequence[BaseAction]]) -> dict[str, list[Any]]:
    """What a checkpoint keeps of a run's actions, as JSON: class and state of each, by mode."""
    return {
        mode: [[type(action).__qualname__, action.saved_state()] for action in each]
        for mode, each in actions.items()
    }


def restore_states(
    actions: Mapping[str, Sequence[BaseAction]], states: Mapping[str, Sequence[Any]]
) -> bool:
    """Hands the states of a checkpoint back to the actions that have the same place and class.

    Returns:
      Whether one of them ends the run at once.
    """
    for mode, each in actions.items():
        for action, (name, state) in zip(each, states.get(mode, ()), strict=False):
            if name == type(action).__qualname__ and state is not None:
                action.restore_state(state)
    return any(action.is_over() for each in actions.values() for action in each)
