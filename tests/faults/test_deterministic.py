"""Two runs of one command: the same hash of every value that they keep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from disturbed_runs import STEPS, Server, log_of

from t5x_ext import inspect_checkpoint


def hash_of(model_dir: Path, capsys: pytest.CaptureFixture) -> str:
    capsys.readouterr()
    assert inspect_checkpoint.main(["--values", "--json", str(model_dir)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["step"] == STEPS
    return summary["values_sha256"]


@pytest.mark.slow
def test_runs_of_one_command_have_one_hash(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    hashes = []
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        directory = tmp_path / name
        more = ["--gin.DETERMINISTIC=True", f"--gin.RANDOM_SEED={seed}"]
        assert server.train(directory, *more) == 0, log_of(directory)
        hashes.append(hash_of(directory, capsys))
    assert hashes[0] == hashes[1] != hashes[2]
