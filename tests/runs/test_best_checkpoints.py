"""The best checkpoint of a run: what it is judged by, kept beside the newest, and read again."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mixtures.vocabularies import ByteVocabulary
from t5x_ext.checkpoints import Checkpointer, load_meta
from t5x_ext.checkpoints.best import BEST, Best
from t5x_ext.checkpoints.selection import select
from t5x_ext.configs import (
    CheckpointConfig,
    DatasetConfig,
    RestoreCheckpointConfig,
    SaveCheckpointConfig,
)
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory
from t5x_ext.data.task_metrics import Score
from t5x_ext.decoding.likelihood import Scorer
from t5x_ext.errors import ConfigError
from t5x_ext.models import EncoderDecoderModel, network
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.runs.evaluation_hook import Evaluation
from t5x_ext.runs.run import run_training
from t5x_ext.training import optimizers
from t5x_ext.training.actions import BaseAction, MetricsByTask
from t5x_ext.training.trainer import Program, StepEvent, Trainer

LOSS = ("eval/cross_entropy", "min")
LENGTHS = {"inputs": 16, "targets": 16}
SIZES = dict(emb_dim=16, num_heads=2, head_dim=8, num_encoder_layers=1, num_decoder_layers=1)


def make_examples(count: int, first: int = 3) -> list[Example]:
    tokens = np.arange(first, first + 9, dtype=np.int32)
    return [
        Example(f"e{i}", "task", "", tokens, (tokens[i % 8 :],), "", ("x",), False)
        for i in range(count)
    ]


def train(
    model_dir: Path,
    steps: int = 12,
    best: tuple[str, str] | None = LOSS,
    period: int | None = 4,
    stop_after: int | None = None,
    own_metrics: Callable[[Score], MetricsByTask] | None = None,
    sigterm_at: int | None = None,
) -> None:
    """Learns for seven steps, and forgets with a learning rate of the wrong sign after that."""
    config = network.T5Config(vocab_size=400, mlp_dim=32, **SIZES)
    model = EncoderDecoderModel(
        network.Transformer(config),
        output_vocabulary=ByteVocabulary(),
        optimizer_def=optimizers.AdamW(),
    )
    rate = Trainer(learning_rate_fn=lambda step: jax.numpy.where(step < 7, 3e-3, -3e-3))

    def stop(event: StepEvent) -> bool:
        if event.step == stop_after:
            raise KeyboardInterrupt
        return False

    held_out = DatasetConfig("task", LENGTHS, "validation", 8)
    evaluation = Evaluation(1, held_out, make_examples(8))
    if own_metrics is not None:
        evaluation = dataclasses.replace(
            evaluation,
            infer_cfg=held_out,
            infer_examples=make_examples(2),
            own_metrics=lambda rows, score: own_metrics(score),
        )
    run_training(
        Program(model, PjitPartitioner(devices=jax.devices()[:1]), rate),
        TrainBatches([in_memory("task", make_examples(24))], 8, LENGTHS, pack=False, seed=0),
        str(model_dir),
        lambda start: steps,
        CheckpointConfig(save=SaveCheckpointConfig(period=period, keep=1, best=best)),
        random_seed=0,
        meta={},
        stats_period=1,
        evaluation=evaluation,
        hooks=[stop],
        actions={"TRAIN": [Terminates(sigterm_at)]} if sigterm_at else {},
    )


class Terminates(BaseAction):
    """Sends the process SIGTERM before the evaluation of a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def run(self, train_state: Any, metrics_by_task: MetricsByTask) -> bool:
        if int(train_state.step) == self._step:
            os.kill(os.getpid(), signal.SIGTERM)
        return False


def losses(model_dir: Path) -> dict[int, float]:
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line[LOSS[0]] for line in lines if LOSS[0] in line}


def saved(model_dir: Path) -> list[int]:
    return sorted(int(path.name.rpartition("_")[2]) for path in model_dir.glob("checkpoint_*"))


def test_the_best_step_is_saved_off_the_period_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path)
    found = losses(tmp_path)
    best = min(found, key=found.__getitem__)
    assert 1 < best < 12 and best % 4  # or the test would show nothing
    assert saved(tmp_path) == [best, 12]
    path = str(tmp_path / f"checkpoint_{best}")
    stated = load_meta(path)[BEST]
    assert stated == {"metric": LOSS[0], "mode": "min", "value": pytest.approx(found[best])}
    assert select(RestoreCheckpointConfig(str(tmp_path), "best")) == [path]
    assert f"best by eval/cross_entropy: checkpoint_{best}" in capsys.readouterr().out


def test_without_it_only_the_newest_are_kept(tmp_path: Path) -> None:
    train(tmp_path, best=None)
    assert saved(tmp_path) == [12]
    with pytest.raises(ConfigError, match="no checkpoint in it has been judged; allowed with mode"):
        select(RestoreCheckpointConfig(str(tmp_path), "best"))


def test_a_run_that_was_interrupted_keeps_the_same(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop_after=9)
    found = losses(tmp_path)
    best = min(found, key=found.__getitem__)
    assert saved(tmp_path) == sorted({best, 8})
    train(tmp_path)  # from step 8, which is worse
    assert saved(tmp_path) == [best, 12]


def test_a_best_step_whose_evaluation_was_given_up_is_judged_and_kept(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    found = losses(tmp_path / "whole")
    best = min(found, key=found.__getitem__)
    run = tmp_path / "run"
    train(run, sigterm_at=best)
    assert saved(run) == [best - 1, best]
    with pytest.raises(KeyboardInterrupt):
        train(run, stop_after=best + 1)  # judges `best`, and is killed before it saves again
    train(run)
    assert saved(run) == [best, 12]
    assert losses(run) == pytest.approx(found)
    path = str(run / f"checkpoint_{best}")
    assert load_meta(path)[BEST]["value"] == pytest.approx(found[best])
    assert select(RestoreCheckpointConfig(str(run), "best")) == [path]
    copy = shutil.copytree(path, tmp_path / "copy" / f"checkpoint_{best}")
    assert select(RestoreCheckpointConfig(str(copy.parent), "best")) == [str(copy)]


def test_an_evaluation_that_is_given_up_while_it_scores_leaves_no_numbers(tmp_path: Path) -> None:
    scored = 0

    def likelihood(score: Score) -> MetricsByTask:
        nonlocal scored
        scored += 1
        if scored == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"task": {"likelihood": sum(score([0, 1]))}}

    best = ("infer_eval/task/likelihood", "max")
    train(tmp_path, 3, best, own_metrics=likelihood)
    assert scored == 2 and saved(tmp_path) == [1, 2]
    assert sorted(losses(tmp_path)) == [1]
    train(tmp_path, 3, best, own_metrics=likelihood)
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    names = Counter((line["step"], name) for line in lines for name in line)
    for name in (LOSS[0], "infer_eval/rougeL", best[0]):
        assert [names[step, name] for step in (1, 2, 3)] == [1, 1, 1]


def test_targets_are_scored_by_one_program_in_all_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: dict[Any, int] = {}
    log_likelihoods = Scorer.log_likelihoods

    def counting(scorer: Scorer, *args: Any, **kwargs: Any) -> np.ndarray:
        found = log_likelihoods(scorer, *args, **kwargs)
        compiled[scorer._score] = scorer._score._cache_size()
        return found

    monkeypatch.setattr(Scorer, "log_likelihoods", counting)
    likelihood = lambda score: {"task": {"likelihood": sum(score([0, 1]))}}  # noqa: E731
    train(tmp_path, 2, None, own_metrics=likelihood)
    assert list(compiled.values()) == [1]


def test_the_largest_is_best_where_that_is_asked_for(tmp_path: Path) -> None:
    train(tmp_path, best=(LOSS[0], "max"), period=None)
    found = losses(tmp_path)
    assert saved(tmp_path) == sorted({max(found, key=found.__getitem__), 12})


def test_a_number_that_is_not_there_is_told_once_a_step_and_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(
        tmp_path,
        1,
        ("infer_eval/task/bleu", "max"),
        own_metrics=lambda score: {"task": {"chrf": 1.0}},
    )
    lines = capsys.readouterr().err.splitlines()
    (told,) = [line for line in lines if "is not judged" in line]
    assert told.startswith("step 1 is not judged: no infer_eval/task/bleu, there is infer_eval/")
    assert "infer_eval/task/chrf" in told
    assert saved(tmp_path) == [1]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("eval/crossentropy", "which this run does not log; did you mean 'eval/cross_entropy'?"),
        ("eval/perplexity", "allowed: eval/accuracy, eval/cross_entropy, "),
        ("infer_eval/rouge_l", "which this run does not log; did you mean 'infer_eval/rougeL'?"),
        ("infer_eval/other/bleu", "which this run does not log; allowed: infer_eval/"),
    ],
)
def test_a_number_that_is_never_logged_is_refused(metric: str, message: str) -> None:
    examples = make_examples(2)
    evaluation = Evaluation(loss_examples=examples, infer_examples=examples)
    with pytest.raises(ConfigError, match=re.escape(message)):
        evaluation.check_best(Best(metric, "max"))
    for known in ("eval/accuracy", "infer_eval/rougeL", "infer_eval/task/of_its_own"):
        evaluation.check_best(Best(known, "max"))


def test_what_is_never_evaluated_is_refused_before_the_first_step(tmp_path: Path) -> None:
    message = "'infer_eval/rougeL', which this run does not evaluate; allowed: eval/..."
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, best=("infer_eval/rougeL", "max"))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "best", ["eval/accuracy", ("accuracy", "max"), ("eval/", "max"), LOSS[:1], (LOSS[0], "least")]
)
def test_what_names_no_number_is_refused(best: Any) -> None:
    with pytest.raises(ConfigError, match="^SaveCheckpointConfig.best: .*; allowed: None, or"):
        SaveCheckpointConfig(best=best)


def test_of_equals_the_earliest_and_never_what_is_no_number() -> None:
    assert Best("eval/x", "min").pick({1: 2.0, 2: 1.0, 3: 1.0, 4: math.nan, 5: -math.inf}) == 2
    assert Best("eval/x", "max").pick({1: 2.0, 2: 1.0, 3: 2.0}) == 1
    assert Best("eval/x", "max").pick({1: math.nan}) is None


def test_values_of_another_number_do_not_count(tmp_path: Path) -> None:
    meta = {BEST: Best(*LOSS).describe(0.1)}
    with Checkpointer(str(tmp_path), keep=1, best=Best(*LOSS)) as checkpointer:
        checkpointer.save(1, {"params": {"w": jax.numpy.ones(2)}}, {}, meta, force=True)
        assert (checkpointer.best_step(), checkpointer.is_best(2, 0.2)) == (1, False)
    with Checkpointer(str(tmp_path), keep=1, best=Best("eval/accuracy", "max")) as checkpointer:
        assert checkpointer.best_step() is None
        assert checkpointer.is_best(2, 0.2)
