"""Disks that are full where results are written: one line that names what could not be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from small_checkpoints import make_all
from small_disks import SmallDisk, may_mount

from t5x_ext import audit, convert, eval, infer, score
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.predictions import Answer, Prediction, PredictionLog
from t5x_ext.metrics.scoring import score_rows
from t5x_ext.seqio import JSONLogger
from t5x_ext.studies.store import write_json

pytestmark = pytest.mark.skipif(not may_mount(), reason="mounts its own file system")
FULL = "No space left on device"
ROWS = [Prediction("t", "c", str(number), "", ("a",), "") for number in range(1000)]
RUN = [
    "--gin_file=models/t5_1_1_tiny.gin",
    "--gin.CHECKPOINT_PATH='not looked for yet'",
    "--gin.MIXTURE_OR_TASK_NAME='held_in'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 16}",
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "disk", 1) as disk:
        yield disk


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What commands read: checkpoints, and a predictions file."""
    directory = tmp_path_factory.mktemp("given")
    make_all(directory)
    (directory / "predictions.jsonl").write_text(ROWS[0].to_json())
    return directory


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        (score, ["{given}/predictions.jsonl", "--out={disk}/scored.jsonl"], "scored.jsonl"),
        (audit, ["--mixture=held_in", "--out={disk}/audit"], "audit/audit.json"),
        (convert, ["--to=hf", "{given}/own", "{disk}/new"], "new"),
        (convert, ["--to=t5x", "{given}/own", "{disk}/new"], "new"),
        (convert, ["--to=t5x_ext", "{given}/hf", "{disk}/new"], "new"),
        (eval, [*RUN, "--gin_file=runs/eval.gin", "--gin.EVAL_OUTPUT_DIR='{disk}'"], "config.gin"),
        (
            infer,
            [*RUN, "--gin_file=runs/infer.gin", "--gin.INFER_OUTPUT_DIR='{disk}'"],
            "config.gin",
        ),
    ],
)
def test_a_command_names_what_it_could_not_write(
    command: ModuleType,
    arguments: list[str],
    named: str,
    given: Path,
    disk: SmallDisk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.delenv("SUPERNI_DIR", raising=False)
    disk.fill()
    filled = [a.replace("{disk}", str(disk.path)).replace("{given}", str(given)) for a in arguments]
    assert command.main(filled) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and f"{disk.path / named}: " in line and FULL in line
    # Nothing that is there could be taken for a result.
    kept = [path for path in disk.path.rglob("*") if path.is_file() and path.stat().st_size]
    assert kept == [disk.path / "ballast"]


def test_a_disk_that_fills_up_while_decoding_is_named(disk: SmallDisk) -> None:
    path = disk.path / "predictions.jsonl"
    with pytest.raises(ConfigError) as error, PredictionLog(path, ROWS, "sig") as log:
        log.append([(0, Answer("first"))])
        disk.fill()
        log.append((index, Answer("x" * 100)) for index in log.missing)
    assert str(error.value) == f"{path}.partial: cannot be written ({FULL})"
    disk.free()
    with PredictionLog(path, ROWS, "sig") as log:  # and a run goes on from what was written
        assert log.done[0].text == "first" and len(log.done) < len(ROWS)
        log.append((index, Answer("again")) for index in log.missing)
        assert len(log.finish()) == len(ROWS)


def test_results_of_a_study_and_logs_of_an_evaluation_are_named(disk: SmallDisk) -> None:
    logger, scored = JSONLogger(str(disk.path)), score_rows(ROWS)
    disk.fill()
    with pytest.raises(ConfigError, match=f"cells/k/result.json: cannot be written .{FULL}"):
        write_json(disk.path / "cells" / "k" / "result.json", {"rougeL": 1.0})
    with pytest.raises(ConfigError, match=f"metrics.jsonl: cannot be written .{FULL}"):
        logger(3, scored)
    assert not (disk.path / "cells" / "k" / "result.json").exists()
    disk.free()
    write_json(disk.path / "cells" / "k" / "result.json", {"rougeL": 1.0})
    assert json.loads((disk.path / "cells" / "k" / "result.json").read_text()) == {"rougeL": 1.0}
