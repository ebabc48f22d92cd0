"""What may end a run: the shipped actions, and hooks, in a real loop."""

from __future__ import annotations

import json
import math

import pytest

from t5x_ext.errors import ConfigError
from t5x_ext.training.actions import (
    EarlyStoppingAction,
    TerminateOnNanAction,
    check_modes,
    restore_states,
    saved_states,
)


def answers(action, values, task="train", metric="loss"):
    return [action.run(None, {task: {metric: value}}) for value in values]


def test_a_loss_that_is_no_number_ends_the_run():
    action = TerminateOnNanAction()
    assert answers(action, [2.0, math.inf]) == [False, True]
    assert answers(action, [math.nan]) == [True]


@pytest.mark.parametrize(
    ("mode", "values", "ends"),
    [
        ("min", [3.0, 2.0, 2.0, 2.5], [False, False, False, True]),
        ("max", [1.0, 2.0, 3.0, 4.0], [False] * 4),
        ("max", [4.0, 3.0, 2.0, 9.0], [False, False, True, False]),
    ],
)
def test_early_stopping_looks_back_over_patience_reports(mode, values, ends):
    action = EarlyStoppingAction(("train", "loss"), mode, patience=3)
    assert answers(action, values) == ends


def test_a_change_below_the_tolerance_is_no_improvement():
    values = [1.0, 0.95, 0.90]
    assert answers(EarlyStoppingAction(("train", "loss"), "min", atol=0.06), values)[-1]
    assert not answers(EarlyStoppingAction(("train", "loss"), "min", atol=0.04), values)[-1]
    assert answers(EarlyStoppingAction(("train", "loss"), "min", rtol=0.06), values)[-1]


def test_a_number_that_is_not_there_is_said_and_ends_nothing(capsys):
    action = EarlyStoppingAction(("my_task", "rougeL"), "max", patience=2)
    assert answers(action, [1.0, 1.0, 1.0]) == [False] * 3
    assert "my_task/rougeL not run: there is train/loss" in capsys.readouterr().err


@pytest.mark.parametrize("metric", ["loss", "ab", ("loss",), ("a", "b", "c")])
def test_what_is_watched_is_a_pair(metric):
    with pytest.raises(ConfigError, match=r"^EarlyStoppingAction.metric: .*; allowed: a pair of"):
        EarlyStoppingAction(metric, "min")


@pytest.mark.parametrize("values", [{"mode": "least"}, {"mode": "min", "patience": 1}])
def test_values_out_of_range_are_refused(values):
    with pytest.raises(ConfigError, match="allowed"):
        EarlyStoppingAction(("train", "loss"), **values)
    with pytest.raises(ConfigError, match="TRAIN_EVAL"):
        check_modes({"EVAL": []})


def test_states_go_to_the_same_action_only():
    def make(metric="loss", patience=3):
        return EarlyStoppingAction(("train", metric), "min", patience)

    before = {"TRAIN": [TerminateOnNanAction(), make()]}
    answers(before["TRAIN"][1], [1.0, 1.0])
    states = json.loads(json.dumps(saved_states(before)))
    same, moved = {"TRAIN": [TerminateOnNanAction(), make()]}, {"TRAIN": [make()]}
    other, shorter = {"TRAIN": [TerminateOnNanAction(), make("accuracy")]}, make(patience=2)
    assert not restore_states(same, states)
    assert answers(same["TRAIN"][1], [1.0]) == [True]
    for actions in (moved, other):
        assert not restore_states(actions, states)
        assert actions["TRAIN"][-1].saved_state()["history"] == []
    assert restore_states({"TRAIN": [TerminateOnNanAction(), shorter]}, states)
