"""The commands end to end on the bundled suite: train, resume, fine-tune, evaluate, infer."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from mixtures.vocabularies import bundled_vocabulary, open_vocabulary
from t5x_ext import eval as eval_script
from t5x_ext import infer, train
from t5x_ext.checkpoints import load_params
from t5x_ext.checkpoints.params import open_source
from t5x_ext.metrics.predictions import read_predictions
from t5x_ext.metrics.scoring import score_rows

REPO = Path(__file__).resolve().parents[1]
MODEL = [
    "--gin_file=models/t5_1_1_tiny.gin",
    "--gin.network.T5Config.emb_dim=16",
    "--gin.network.T5Config.num_encoder_layers=1",
    "--gin.network.T5Config.num_decoder_layers=1",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 16}",
    "--gin.MIXTURE_OR_TASK_NAME='held_in'",
    "--gin.PROMPT='tk.def'",
    "--gin.BATCH_SIZE=8",
]
TRAIN = [
    *MODEL,
    "--gin_file=runs/train.gin",
    "--gin.LEARNING_RATE=1e-2",
    "--gin.BUDGET=20",
    "--gin.PACK=True",
    "--gin.STATS_PERIOD=1",
    "--gin.DROPOUT_RATE=0.1",
]


@pytest.fixture(autouse=True, scope="module")
def _bundled_data() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("SUPERNI_DIR", raising=False)
        yield


def losses(model_dir: Path) -> dict[int, float]:
    lines = (model_dir / "metrics.jsonl").read_text().splitlines()
    rows = map(json.loads, lines)
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    model_dir = tmp_path_factory.mktemp("unbroken")
    assert train.main([*TRAIN, f"--gin.MODEL_DIR='{model_dir}'", "--gin.TRAIN_STEPS=6"]) == 0
    return model_dir


def test_training_leaves_config_metrics_and_checkpoint(unbroken: Path) -> None:
    steps = losses(unbroken)
    assert sorted(steps) == [1, 2, 3, 4, 5, 6]
    assert steps[6] < steps[1]
    assert (unbroken / "checkpoint_6").is_dir()
    last = json.loads((unbroken / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval/cross_entropy"] > 0
    (events,) = unbroken.glob("events.out.tfevents.*")
    assert b"TRAIN_STEPS = 6" in events.read_bytes()  # T5X shows the config in TensorBoard
    config = (unbroken / "config.gin").read_text()
    assert "TRAIN_STEPS = 6" in config and "BUDGET = 20" in config
    source = open_source(str(unbroken))
    assert (source.step, source.config.emb_dim) == (6, 16)
    assert open_vocabulary(source.tokenizer_dir).fingerprint == bundled_vocabulary().fingerprint


def test_a_resumed_run_equals_an_unbroken_one(unbroken: Path, tmp_path: Path, capsys) -> None:
    for steps in (3, 6):
        arguments = [*TRAIN, f"--gin.MODEL_DIR='{tmp_path}'", f"--gin.TRAIN_STEPS={steps}"]
        assert train.main(arguments) == 0
    assert "resuming at step 3" in capsys.readouterr().out
    assert losses(tmp_path) == losses(unbroken)
    whole, parts = (load_params(str(d / "checkpoint_6")) for d in (unbroken, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_the_written_config_reruns_to_the_same_losses(unbroken: Path, tmp_path: Path) -> None:
    config = unbroken / "config.gin"
    assert train.main([f"--gin_file={config}", f"--gin.MODEL_DIR='{tmp_path}'"]) == 0
    assert losses(tmp_path) == losses(unbroken)


def test_finetuning_starts_from_the_parameters_and_counts_on(unbroken, tmp_path, capsys) -> None:
    arguments = [
        *[a for a in TRAIN if a != "--gin_file=runs/train.gin"],
        "--gin_file=runs/finetune.gin",
        f"--gin.MODEL_DIR='{tmp_path}'",
        f"--gin.INITIAL_CHECKPOINT_PATH='{unbroken}'",
        "--gin.TRAIN_STEPS_RELATIVE=2",
        "--gin.INFER_EVAL=@infer_eval/utils.DatasetConfig()",
        "--gin.LEARNING_RATE=1e-9",  # below the schedule's floor: parameters all but stay
    ]
    assert train.main(arguments) == 0
    assert "step 6): parameters only, a new optimizer" in capsys.readouterr().out
    assert sorted(losses(tmp_path)) == [7, 8]
    before, after = load_params(str(unbroken)), load_params(str(tmp_path))
    assert train.main(arguments) == 0  # finished: there is nothing left to do, and nothing wrong
    said = capsys.readouterr().out
    assert "resuming at step 8" in said and "step 8: the run has ended; nothing is left to" in said
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), before, after)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["infer_eval/rougeL"] <= 100


def test_what_does_not_fit_is_told(unbroken, tmp_path, capsys) -> None:
    short = "--gin.TASK_FEATURE_LENGTHS={'inputs': 40, 'targets': 2}"

    def check_told(split: str, rows: int) -> None:
        told = capsys.readouterr().err
        for side, length in (("prompts", 40), ("targets", 2)):
            cut = f"{side} were cut to {length} tokens"
            found = re.search(rf"{split}: ([0-9,]+) of {rows:,} {cut} .*; most in task\d+_", told)
            assert found and 0 < int(found[1].replace(",", "")) <= rows

    assert train.main([*TRAIN, short, f"--gin.MODEL_DIR='{tmp_path}'", "--gin.TRAIN_STEPS=1"]) == 0
    check_told("train", 16 * 20)
    arguments = [*MODEL, short, f"--gin.CHECKPOINT_PATH='{unbroken}'", "--gin.SPLIT='validation'"]
    arguments += ["--gin_file=runs/infer.gin", f"--gin.INFER_OUTPUT_DIR='{tmp_path / 'infer'}'"]
    assert infer.main(arguments) == 0
    check_told("validation", 16 * 10)


def test_eval_and_infer_write_the_same_predictions(unbroken: Path, tmp_path: Path, capsys) -> None:
    common = [*MODEL, f"--gin.CHECKPOINT_PATH='{unbroken}'", "--gin.SPLIT='validation'"]
    scored = tmp_path / "eval"
    assert (
        eval_script.main([*common, "--gin_file=runs/eval.gin", f"--gin.EVAL_OUTPUT_DIR='{scored}'"])
        == 0
    )
    plain = tmp_path / "infer"
    decode = [*common, "--gin_file=runs/infer.gin", f"--gin.INFER_OUTPUT_DIR='{plain}'"]
    assert infer.main(decode) == 0
    rows = read_predictions(scored / "predictions.jsonl")
    assert score_rows(read_predictions(plain / "predictions.jsonl")) == rows
    written = json.loads((scored / "scores.json").read_text())
    by_task = [task["rougeL"] for task in written["by_task"].values()]
    assert written["over_tasks"]["rougeL"] == pytest.approx(sum(by_task) / len(by_task))
    told = capsys.readouterr().out
    assert f"{len(rows)} predictions" in told and "in place of" not in told
    assert infer.main(decode) == 0
    assert "in place of those that were there" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["eval", "infer"])
def test_a_wrong_checkpoint_is_refused_before_tensorflow_is_loaded(
    command: str, tmp_path: Path
) -> None:
    code = f"import sys; from t5x_ext import {command} as command; status = command.main()\n"
    code += "assert not {'seqio', 'tensorflow'} & set(sys.modules); sys.exit(status)"
    flags = [
        *MODEL,
        f"--gin_file=runs/{command}.gin",
        f"--gin.CHECKPOINT_PATH='{tmp_path / 'gone'}'",
        f"--gin.{command.upper()}_OUTPUT_DIR='{tmp_path / 'out'}'",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == f"error: checkpoint '{tmp_path / 'gone'}': no such directory\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gin.TRAIN_STEPS=6", "--gin.TRAIN_EPOCHS=1"], "set exactly one of TRAIN_STEPS"),
        (["--gin.TRAIN_STEPS=6", "--gin.BATCH_SIZE=12"], "12 examples do not divide into 8 batch"),
        (["--gin.TRAIN_STEPS=6", "--gin.PROMPT='tk.deff'"], "tk.def"),
        (["--gin.TRAIN_STEPS=6", "--gin.MIXTURE_OR_TASK_NAME='held_inn'"], "held_in"),
        (["--gin.TRAIN_STEPS=6", "--gin.DATA_DIR='/nowhere'"], "/nowhere"),
        (
            ["--gin.TRAIN_STEPS=6", "--gin.MIXTURE_OR_TASK_MODULE='my_taks'"],
            "MIXTURE_OR_TASK_MODULE: 'my_taks': no such module; allowed: ",
        ),
        (
            [
                "--gin.TRAIN_STEPS=6",
                "--gin.VOCABULARY=@vocabularies.t5_vocabulary()",
                "--gin.vocabularies.t5_vocabulary.path='/no/spiece.model'",
            ],
            "file not found: /no/spiece.model",
        ),
        (
            [
                "--gin.TRAIN_STEPS=6",
                "--gin.PACK='batch'",
                "--gin.LOSS_NORMALIZING_FACTOR='NUM_TOTAL_TARGET_TOKENS'",
            ],
            "PACK: 'batch', with which LOSS_NORMALIZING_FACTOR 'NUM_TOTAL_TARGET_TOKENS' would",
        ),
        (
            ["--gin.TRAIN_STEPS=6", "--gin.INITIAL_CHECKPOINT_PATH='/nowhere'"],
            "/nowhere",
        ),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert train.main([*TRAIN, f"--gin.MODEL_DIR='{tmp_path / 'run'}'", *arguments]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and lines[-1].startswith("error: ")
    assert not (tmp_path / "run" / "config.gin").exists()


@pytest.mark.parametrize("steps", [5, 6])
def test_a_new_run_that_would_train_nothing_is_refused_at_once(
    steps: int, unbroken: Path, tmp_path: Path, capsys
) -> None:
    arguments = [
        f"--gin.INITIAL_CHECKPOINT_PATH='{unbroken}'",
        f"--gin.MODEL_DIR='{tmp_path / 'run'}'",
        f"--gin.TRAIN_STEPS={steps}",
    ]
    assert train.main([*TRAIN, *arguments, "--gin.MIXTURE_OR_TASK_NAME='not read'"]) == 1
    assert capsys.readouterr().err == (
        f"error: TRAIN_STEPS: {steps}, which includes the steps of the initial checkpoint, and "
        f"{unbroken} is at step 6 already; allowed: more than 6, or TRAIN_STEPS_RELATIVE = {steps} "
        "for as many on top\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["TRAIN_STEPS", "TRAIN_STEPS_RELATIVE", "TRAIN_EPOCHS"])
def test_a_run_of_no_steps_is_refused(name: str, tmp_path: Path, capsys) -> None:
    assert train.main([*TRAIN, f"--gin.MODEL_DIR='{tmp_path / 'run'}'", f"--gin.{name}=0"]) == 1
    assert capsys.readouterr().err == f"error: {name}: 0; allowed: 1 and more\n"


def test_what_a_single_task_holds_is_told(tmp_path: Path, capsys) -> None:
    own = tmp_path / "mine.jsonl"
    rows = [{"instruction": "Say.", "input": f"word{i}", "output": f"word{i}"} for i in range(16)]
    own.write_text("\n".join(map(json.dumps, rows)))
    arguments = [f"--gin.MIXTURE_OR_TASK_NAME='{own}'", "--gin.BUDGET=None", "--gin.PACK=False"]
    where = [f"--gin.MODEL_DIR='{tmp_path / 'run'}'", "--gin.TRAIN_STEPS=3"]
    assert train.main([*TRAIN, *arguments, *where]) == 0
    head, row = capsys.readouterr().err.splitlines()[:2]
    assert head.split() == ["source", "rows", "tokens", "share", "passes"]
    assert row.split()[1] == "16" and row.split()[3:] == ["100.0%", "1.50"]
    after = [f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path / 'run'}'", "--gin.TRAIN_STEPS=4"]
    for steps in (4, 5):  # from step 3; then the run goes on
        where = [f"--gin.MODEL_DIR='{tmp_path / 'after'}'", f"--gin.TRAIN_STEPS={steps}"]
        assert train.main([*TRAIN, *arguments, *after, *where]) == 0
        row = capsys.readouterr().err.splitlines()[1]
        assert row.split()[4:] == [f"{(steps - 3) / 2:.2f}"]


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "t5x_ext.train",
        *TRAIN,
        f"--gin.MODEL_DIR='{tmp_path}'",
        "--gin.TRAIN_STEPS=100000",
    ]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 120
    metrics = tmp_path / "metrics.jsonl"
    while time.monotonic() < deadline and not (metrics.exists() and len(losses(tmp_path)) > 3):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stopped by SIGTERM" in out
    saved = max(int(p.name.split("_")[1]) for p in tmp_path.glob("checkpoint_*"))
    assert saved == max(losses(tmp_path)) < 100000


def test_a_single_file_of_ones_own_trains_without_held_out_data(tmp_path: Path, capsys) -> None:
    own = tmp_path / "mine.jsonl"
    rows = [{"instruction": "Say it.", "input": f"word{i}", "output": f"word{i}"} for i in range(9)]
    own.write_text("\n".join(map(json.dumps, rows)))
    arguments = [*TRAIN, f"--gin.MIXTURE_OR_TASK_NAME='{own}'", "--gin.BUDGET=None"]
    model_dir = tmp_path / "run"
    assert train.main([*arguments, f"--gin.MODEL_DIR='{model_dir}'", "--gin.TRAIN_EPOCHS=2"]) == 0
    assert "mine.jsonl: no validation split" in capsys.readouterr().out
    assert losses(model_dir)
    arguments = [*MODEL, "--gin_file=runs/eval.gin", f"--gin.MIXTURE_OR_TASK_NAME='{own}'"]
    arguments += [f"--gin.CHECKPOINT_PATH='{model_dir}'", f"--gin.EVAL_OUTPUT_DIR='{tmp_path}'"]
    assert eval_script.main(arguments) == 1
    (*_, line) = capsys.readouterr().err.splitlines()
    assert f"{own}: no split 'test'; allowed: train; expected as" in line
    assert line.endswith(f"{tmp_path}/mine.test.jsonl")


def test_a_task_with_another_vocabulary_is_refused(tmp_path: Path, capsys) -> None:
    import seqio
    import tensorflow as tf

    def rows(split: str, shuffle_files: bool) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensors({"inputs": "a", "targets": "b"})

    if "bytes_task" not in seqio.TaskRegistry.names():
        feature = seqio.Feature(seqio.ByteVocabulary())
        seqio.TaskRegistry.add(
            "bytes_task",
            source=seqio.FunctionDataSource(rows, splits=("train",)),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            output_features={"inputs": feature, "targets": feature},
        )
    names = ["--gin.MIXTURE_OR_TASK_NAME='bytes_task'", "--gin.PROMPT=None", "--gin.BUDGET=None"]
    where = [f"--gin.MODEL_DIR='{tmp_path}'", "--gin.TRAIN_STEPS=1"]
    assert train.main([*TRAIN, *names, *where]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: bytes_task: its inputs use") and "VOCABULARY" in error
