"""Paths as users mistype them, at every command that opens one: one line, and nothing hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixtures import lookup
from mixtures.errors import DataError
from mixtures.release import data_dir
from t5x_ext import audit, convert, gin_utils, inspect_checkpoint, plan, report, score
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.predictions import read_predictions

REPO = Path(__file__).resolve().parents[1]
HOSTILE = {
    "empty": "",
    "no user": "~nouser/x.jsonl",
    "long": "x" * 400 + ".jsonl",
    "NUL": "a\0b.jsonl",
    "surrogate": "a\ud800.jsonl",
    "scheme": "xx://a/b.jsonl",
    "missing": "/nowhere/x.jsonl",
    "directory": "/",
    "device": "/dev/zero",
    "glob": "/nowhere/[**].jsonl",
}
ROW = {"task": "t", "category": "c", "id": "1", "references": ["a"], "prediction": "a"}


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("command", [score, report])
def test_commands_refuse_in_one_line(command, case: str, capsys) -> None:
    assert command.main([HOSTILE[case]]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1


@pytest.mark.parametrize("case", ["empty", "no user", "long", "NUL", "scheme"])
@pytest.mark.parametrize("flag", ["--out", "--m2", "--compare"])
def test_flags_of_score_refuse_what_no_file_can_be(flag: str, case: str, tmp_path, capsys) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    assert score.main([str(path), flag, HOSTILE[case]]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {flag}: ") and captured.err.count("\n") == 1


@pytest.mark.parametrize("case", ["empty", "no user", "long", "NUL", "scheme"])
@pytest.mark.parametrize("flag", ["--out", "--synthetic", "--data_dir", "--vocabulary"])
def test_flags_of_audit_refuse_what_no_file_can_be(flag: str, case: str, capsys) -> None:
    mixture = [] if flag == "--synthetic" else ["--mixture", "held_in"]
    assert audit.main([*mixture, flag, HOSTILE[case]]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {flag}: ") and captured.err.count("\n") == 1


@pytest.mark.parametrize("case", HOSTILE)
def test_checkpoints_are_refused_in_one_line(case: str, tmp_path: Path, capsys) -> None:
    assert inspect_checkpoint.main([HOSTILE[case]]) == 1
    assert convert.main(["--to", "hf", HOSTILE[case], str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 2
    assert all(line.startswith("error: ") for line in captured.err.splitlines())


def test_an_adapter_of_pefts_is_no_model(tmp_path: Path, capsys) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert convert.main(["--to", "hf", str(tmp_path), str(tmp_path / "out")]) == 1
    assert (
        f"{tmp_path}: an adapter in PEFT's layout, not a whole model; allowed: "
        in capsys.readouterr().err
    )


def test_a_machine_without_a_name_is_refused_in_one_line(capsys) -> None:
    for flag in ("--topology", "--devices"):
        assert plan.main(["--gin_file=runs/train.gin", flag, ""]) == 1
        line = capsys.readouterr().err
        assert line.startswith(f"error: {flag}: ''; allowed: ") and line.count("\n") == 1


@pytest.mark.parametrize("case", HOSTILE)
def test_gin_files_and_task_files_refuse_in_one_line(case: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gin_utils.parse([HOSTILE[case]])
    assert str(caught.value).isprintable()
    if HOSTILE[case].endswith(".jsonl"):
        with pytest.raises(DataError) as refused:
            lookup.resolve(HOSTILE[case])
        assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("case", ["no user", "long", "NUL", "surrogate", "scheme", "missing"])
def test_data_directories_refuse_in_one_line(case: str) -> None:
    with pytest.raises(DataError, match="^DATA_DIR"):
        data_dir(HOSTILE[case])


def test_a_named_pipe_is_not_waited_for(pipe: Path, capsys) -> None:
    assert score.main([str(pipe)]) == 1
    assert "a pipe, socket or device, not a regular file" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="a pipe, socket or device"):
        gin_utils.parse([str(pipe)])
    with pytest.raises(DataError, match="not found|a pipe, socket or device"):
        lookup.resolve(str(pipe))


def test_what_the_shell_pipes_in_is_read(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    for command in (f"score <(cat {path}) --json", f"score /dev/stdin --json < {path}"):
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m t5x_ext.cli {command}"],
            cwd=REPO,
            capture_output=True,
            text=True,
        )
        assert json.loads(done.stdout)["predictions"] == 1, done.stderr


def test_byte_order_marks_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\ufeff" + json.dumps(ROW) + "\n")
    assert [row.task for row in read_predictions(path)] == ["t"]
    gin_file = tmp_path / "x.gin"
    gin_file.write_text("\ufefff.x = 1\nf.x = 2\n")
    with pytest.raises(ConfigError, match="x.gin:1: unknown configurable 'f'"):
        gin_utils.parse([str(gin_file)])
