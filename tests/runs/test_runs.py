"""Runs in a directory: what ends them early, and what they leave out."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.checkpoints import load_meta
from t5x_ext.configs import (
    CheckpointConfig,
    DatasetConfig,
    RestoreCheckpointConfig,
    SaveCheckpointConfig,
)
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory
from t5x_ext.errors import ConfigError
from t5x_ext.models import EncoderDecoderModel, network
from t5x_ext.models.lora import LoRA
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.runs.evaluation_hook import Evaluation, evaluation_line
from t5x_ext.runs.run import run_training
from t5x_ext.schedules import LearningRateFn
from t5x_ext.training import optimizers
from t5x_ext.training.actions import BaseAction, EarlyStoppingAction, MetricsByTask
from t5x_ext.training.trainer import Program, StepEvent, Trainer

CONFIG = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_dim=32,
    dropout_rate=0.1,
)
EXAMPLES = 24


def make_examples(count: int) -> list[Example]:
    tokens = np.arange(3, 12, dtype=np.int32)
    return [
        Example(f"e{i}", "task", "", tokens, (tokens[i % 8 :],), "", ("x",), False)
        for i in range(count)
    ]


class Batches(TrainBatches):
    """Three batches of eight an epoch; the loss weights of some steps are not numbers."""

    def __init__(self, *bad_steps: int) -> None:
        lengths = {"inputs": 32, "targets": 32}
        super().__init__(
            [in_memory("task", make_examples(EXAMPLES))], 8, lengths, pack=False, seed=0
        )
        self._bad_steps = bad_steps

    def make(self, epoch: int, step_in_epoch: int) -> Any:
        batch, info = super().make(epoch, step_in_epoch)
        if 3 * epoch + step_in_epoch + 1 in self._bad_steps:
            batch["decoder_loss_weights"] *= np.nan
        return batch, info


def train(
    model_dir: Path,
    batches: Batches,
    steps: int = 8,
    may_skip: int = 0,
    period: int = 2,
    learning_rate: LearningRateFn = lambda step: 1e-3,
    evaluation: Evaluation = Evaluation(),
    lora: LoRA | None = None,
    base: Path | None = None,
    actions: Mapping[str, Sequence[BaseAction]] = MappingProxyType({}),
    stop_after: int | None = None,
) -> dict[int, tuple[tuple[str, ...], Any]]:
    """Runs; returns (ids, state) after each step."""
    module = network.Transformer(CONFIG, lora)
    model = EncoderDecoderModel(module, optimizer_def=optimizers.AdamW())
    trainer = Trainer(learning_rate_fn=learning_rate, skip_nonfinite_steps=may_skip)
    program = Program(model, PjitPartitioner(devices=jax.devices()[:1]), trainer)
    seen = {}

    def keep(event: StepEvent) -> None:
        seen[event.step] = event.info.ids, jax.device_get(event.state)

    def stop(event: StepEvent) -> None:
        if event.step == stop_after:
            raise KeyboardInterrupt

    run_training(
        program,
        batches,
        str(model_dir),
        lambda start: steps,
        CheckpointConfig(
            restore=RestoreCheckpointConfig(str(base)) if base else None,
            save=SaveCheckpointConfig(period=period, keep=None),
        ),
        random_seed=0,
        meta={},
        stats_period=1,
        evaluation=evaluation,
        hooks=[keep, stop],
        actions=actions,
    )
    return seen


def explodes(step: jax.Array) -> jax.Array:
    """The third update makes parameters infinite."""
    return jnp.where(step == 2, jnp.inf, 1e-3)


def saved(model_dir: Path) -> list[str]:
    return sorted(path.name for path in model_dir.glob("checkpoint_*"))


def logged(model_dir: Path, name: str) -> dict[int, float]:
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line[f"train/{name}"] for line in lines}


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        train(tmp_path, Batches(4))
    found = re.match(
        r"step 4: loss is nan, on examples (.+); first bad tensor: gradient of (\S+) "
        r"\((\d+) of (\d+) gradients are not finite\); nothing was saved since; ",
        str(error.value),
    )
    ids, tensor, bad, tensors = found.groups()
    assert sorted(ids.split(", ")) == sorted(Batches().make(1, 0)[1].ids)
    assert tensor == "decoder/decoder_norm/scale"
    assert bad == tensors
    assert saved(tmp_path) == ["checkpoint_2"]


def test_parameters_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    message = r"^step 3: its update has made parameter decoder/\S+ a number that is not finite"
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, Batches(), period=1, learning_rate=explodes)
    assert saved(tmp_path) == ["checkpoint_1", "checkpoint_2"]


def test_a_step_that_is_left_out_changes_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with_bad = train(tmp_path / "bad", Batches(3, 6), steps=4, may_skip=1)
    with_bad |= train(tmp_path / "bad", Batches(3, 6), may_skip=1)  # resumed at step 4
    without = train(tmp_path / "good", Batches(), may_skip=1)

    assert [ids for ids, _ in with_bad.values()] == [ids for ids, _ in without.values()]
    for step in (3, 6):
        before, after = with_bad[step - 1][1], with_bad[step][1]
        jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
        jax.tree.map(np.testing.assert_array_equal, after.opt_state, before.opt_state)
        assert (int(before.step), int(after.step)) == (step - 1, step)
    for step in (1, 2):  # until the first of them, both are the same
        jax.tree.map(np.testing.assert_array_equal, with_bad[step][1], without[step][1])
    assert np.isfinite(list(logged(tmp_path / "good", "loss").values())).all()
    assert logged(tmp_path / "bad", "loss")[3] is None
    counts = logged(tmp_path / "bad", "skipped_steps")
    assert list(counts.values()) == [0, 0, 1, 1, 1, 2, 2, 2]
    assert load_meta(str(tmp_path / "bad"))["skipped_steps"] == 2
    told = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert [line.split(":")[0] for line in told] == ["step 3", "step 6"]
    assert "loss is nan, on examples e" in told[0]


def test_too_many_in_a_row_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^step 6: loss is nan, .* 3 steps in a row .*allows 2"):
        train(tmp_path, Batches(2, 4, 5, 6), may_skip=2)
    assert saved(tmp_path) == ["checkpoint_2", "checkpoint_4"]


def test_a_bad_parameter_is_told_from_a_bad_gradient(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^step 5: .*first bad tensor: parameter decoder/\S+;"):
        train(tmp_path, Batches(), may_skip=1, period=8, learning_rate=explodes)


def test_a_run_says_what_its_evaluation_took(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train(tmp_path / "without", Batches(), steps=2)
    assert "evaluation took" not in capsys.readouterr().err
    cfg = DatasetConfig("task", {"inputs": 32, "targets": 32}, "validation", 8)
    train(tmp_path / "with", Batches(), 4, evaluation=Evaluation(2, cfg, make_examples(4)))
    (share,) = re.findall(
        r"^evaluation took (\d+)% of the run's time", capsys.readouterr().err, re.M
    )
    assert 0 < int(share) < 100


def every_step(**settings: Any) -> Evaluation:
    cfg = DatasetConfig("task", {"inputs": 32, "targets": 32}, "validation", 8)
    return Evaluation(1, cfg, make_examples(4), **settings)


def early_stopping(patience: int = 4) -> dict[str, list[BaseAction]]:
    """Ends a run as if its falling loss should rise, after `patience` evaluations."""
    return {"TRAIN_EVAL": [EarlyStoppingAction(("task", "cross_entropy"), "max", patience)]}


@pytest.mark.parametrize("before_training", [False, True])
def test_a_run_that_was_killed_ends_early_where_the_unbroken_one_does(
    before_training: bool, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def run(name: str, patience: int = 4, **settings: Any) -> list[int]:
        evaluation = every_step(before_training=before_training)
        options = dict(evaluation=evaluation, actions=early_stopping(patience), **settings)
        return list(train(tmp_path / name, Batches(), **options))

    end = 3 if before_training else 4
    assert run("whole")[-1] == end
    with pytest.raises(KeyboardInterrupt):
        run("killed", stop_after=3, period=1)
    assert saved(tmp_path / "killed") == ["checkpoint_1", "checkpoint_2"]
    assert run("killed") == list(range(3, end + 1))
    capsys.readouterr()
    assert run("killed") == []  # it has ended
    assert f"step {end}: one of train.actions has ended the run" in capsys.readouterr().out
    assert run("killed", patience=6)[-1] == end + 2


class Terminates(BaseAction):
    """Sends the process SIGTERM in the first step, before its evaluation."""

    def run(self, train_state: Any, metrics_by_task: MetricsByTask) -> bool:
        if int(train_state.step) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return False


def test_sigterm_ends_an_evaluation_which_the_resumed_run_makes_up_for(tmp_path: Path) -> None:
    def evaluated() -> list[int]:
        rows = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
        return [row["step"] for row in rows if "eval/cross_entropy" in row]

    stops = early_stopping()
    options: dict[str, Any] = dict(evaluation=every_step(), period=100)
    actions = {"TRAIN": [Terminates()], **stops}
    assert list(train(tmp_path, Batches(), actions=actions, **options)) == [1]
    assert saved(tmp_path) == ["checkpoint_1"] and evaluated() == []
    assert list(train(tmp_path, Batches(), actions=early_stopping(), **options)) == [2, 3, 4]
    assert evaluated() == [1, 2, 3, 4]


@pytest.mark.parametrize("last", [1, 4])
def test_an_evaluation_is_made_up_for_once(
    last: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Also where it is that of the last step, whose checkpoint no other follows."""

    def run(patience: int, *others: BaseAction) -> int:
        capsys.readouterr()
        actions = {"TRAIN": list(others), **early_stopping(patience)}
        options: dict[str, Any] = dict(steps=last, evaluation=every_step(), period=100)
        train(tmp_path, Batches(), actions=actions, **options)
        return capsys.readouterr().err.count("  eval  ")

    assert run(2, Terminates()) == 0
    assert run(2) == min(last, 2)
    assert run(2) == 0
    history = load_meta(str(tmp_path))["actions"]["TRAIN_EVAL"][0][1]["history"]
    assert len(history) == min(last, 2)
    assert run(2) == 0


def test_a_large_share_comes_with_the_settings_that_make_it_less() -> None:
    assert evaluation_line(7.0, 100.0) == "evaluation took 7% of the run's time"
    assert evaluation_line(0.5, 1.0) == "evaluation took 50% of the run's time"  # of a trial
    assert evaluation_line(90.0, 300.0) == (
        "evaluation took 30% of the run's time; to reduce it, set EVAL_STEPS, "
        "EVALUATOR_NUM_EXAMPLES or a longer EVAL_PERIOD"
    )


def test_a_run_goes_on_with_its_own_adapters_only(tmp_path):
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    train(base, Batches(), 1)
    train(tuned, Batches(), 2, lora=LoRA(2), base=base)
    for model_dir, lora, message in (
        (tuned, LoRA(2, alpha=64.0), "LoRA.alpha: 64.0, but the run has 16.0; allowed: the same"),
        (tuned, LoRA(2, rslora=True), "LoRA.rslora: True, but the run has False"),
        (tuned, LoRA(4), "LoRA.rank: 4, but the run has 2"),
        (tuned, LoRA(2, targets=["wo"]), r"LoRA.targets: \['wo'\], but the run has 'all'"),
        (tuned, None, "a run that tunes adapters of rank 2; allowed: LORA_RANK as it was, or"),
        (base, LoRA(2), "a run that tunes all parameters; LORA_RANK needs another MODEL_DIR"),
    ):
        with pytest.raises(ConfigError, match=f"{model_dir}: {message}") as error:
            train(model_dir, Batches(), 3, lora=lora, base=base)
        assert "\n" not in str(error.value)
    assert list(train(tuned, Batches(), 3, lora=LoRA(2, dropout=0.1), base=base)) == [3]
