"""Weights & Biases: offline, one run however often it is resumed, one line where it is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from t5x_ext import train
from t5x_ext.training.logs import MetricLog


def test_a_missing_package_is_one_line(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    arguments = [
        "--gin_file=models/t5_1_1_tiny.gin",
        "--gin_file=runs/train.gin",
        "--gin.MIXTURE_OR_TASK_NAME='held_in'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 16}",
        "--gin.MODEL_DIR='never_made'",
        "--gin.TRAIN_STEPS=1",
        "--gin.WANDB_PROJECT='a project'",
    ]
    assert train.main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: WANDB_PROJECT: the package wandb is not installed")
    assert not Path("never_made").exists()


def test_numbers_are_kept_offline_in_one_run(tmp_path: Path, monkeypatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for start, step, loss in ((0, 10, 0.625), (10, 20, 0.3125)):
        log = MetricLog(tmp_path / "mine", start, wandb_project="a project")
        log.write(step, {"train/loss": loss})
        log.close()
    wandb.teardown()  # its process may write on for a moment after a run has ended
    run_id = (tmp_path / "mine" / "wandb" / "run_id").read_text()
    files = sorted((tmp_path / "mine" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert {path.name for path in files} == {f"run-{run_id}.wandb"}
    kept = b"".join(path.read_bytes() for path in files)
    for text in (b"a project", b"mine", b"train/loss", b"0.625", b"0.3125"):
        assert text in kept, text
