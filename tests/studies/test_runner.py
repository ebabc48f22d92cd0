"""A small study, run for real on the bundled suite: complete, resumable, never run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import compilers
import pytest

from t5x_ext.metrics.predictions import read_predictions

REPO = Path(__file__).resolve().parents[2]
GIN = """
from __gin__ import dynamic_registration
from t5x_ext import studies
from t5x_ext.models import network
include 'gin_configs/studies/quickstart.gin'
SEEDS = (0,)
network.T5Config.emb_dim = 16
network.T5Config.num_encoder_layers = 1
network.T5Config.num_decoder_layers = 1
pretune/studies.Recipe.steps = 3
cells/studies.Recipe.min_steps = 2
EVAL_BATCH_SIZE = 20
studies.paper_arms:
  only = ("stl", "stl_baseline_1", "mtl")
  budgets = {"stl": ("n0", "n10"), "stl_baseline_1": ("n10",), "mtl": ("n10",)}
"""


def bundled_test_tasks() -> list[str]:
    listed = REPO / "mixtures/bundled/suite/splits/default/test_tasks.txt"
    return listed.read_text().split()


# The command, which kills itself when it has written so many results.
KILLED = """
import os, signal, sys
from t5x_ext import study
from t5x_ext.studies import store

left, write_json = int(sys.argv.pop(1)), store.write_json

def write_and_count(path, value):
    global left
    write_json(path, value)
    left -= path.name == "result.json"
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

store.write_json = write_and_count
sys.exit(study.main())
"""


def start(
    directory: Path, study: str, *flags: str, killed_after: int | None = None
) -> subprocess.Popen:
    config = directory / "small.gin"
    config.write_text(GIN + f"TASKS = {tuple(bundled_test_tasks()[:2])!r}\n")
    env = os.environ | {"XLA_FLAGS": compilers.UNOPTIMISED}
    env.pop("SUPERNI_DIR", None)
    program = ["-c", KILLED, str(killed_after)] if killed_after else ["-m", "t5x_ext.study"]
    return subprocess.Popen(
        [
            sys.executable,
            *program,
            f"--gin_file={config}",
            f"--gin.MODEL_DIR='{directory / study}'",
            *flags,
        ],
        cwd=REPO,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def results(study_dir: Path) -> dict[str, dict]:
    found = (json.loads(p.read_text()) for p in study_dir.glob("cells/*/result.json"))
    return {result["key"]: result for result in found}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, str]:
    directory = tmp_path_factory.mktemp("study")
    return directory / "whole", finish(start(directory, "whole"))


def test_every_cell_has_a_result_and_its_predictions(unbroken) -> None:
    study_dir, out = unbroken
    grid = json.loads((study_dir / "study.json").read_text())
    found = results(study_dir)
    assert sorted(found) == sorted(grid["cells"])
    assert len(found) == 2 * 3 + 1
    for result in found.values():
        rows = read_predictions(study_dir / "cells" / result["key"] / "predictions.jsonl")
        for task, scores in result["scores"]["by_task"].items():
            mine = [row.score["rougeL"] for row in rows if row.task == task]
            assert scores["rougeL"] == pytest.approx(100 * sum(mine) / len(mine), abs=1e-6)
            assert scores["n"] == len(mine) == 100
            ended = [row.finish == "eos" for row in rows if row.task == task]
            assert result["stopped_by_task"][task] == pytest.approx(sum(ended))  # of 100
        expected = {"n0": 0, "n10": 10}[result["budget"]] * len(result["tasks"])
        assert result["train_examples"] == expected
        epochs = 2 * -(-expected // 16)  # batches of 16, two epochs
        assert result["steps"] == (max(2, epochs) if expected else 0)
    assert (study_dir / "report" / "index.html").is_file()
    assert "report ->" in out


def test_a_finished_study_runs_nothing_again(unbroken) -> None:
    study_dir, _ = unbroken
    before = {p: p.stat().st_mtime_ns for p in study_dir.glob("cells/*/*")}
    out = finish(start(study_dir.parent, "whole"))
    assert "7 cells, 7 finished before, 0 to run" in out
    assert {p: p.stat().st_mtime_ns for p in study_dir.glob("cells/*/*")} == before


@pytest.mark.slow
def test_models_tuned_together_score_as_those_tuned_alone(unbroken) -> None:
    whole, _ = unbroken
    finish(start(whole.parent, "together", "--gin.EXPERTS=4"))
    together, alone = results(whole.parent / "together"), results(whole)
    assert together.keys() == alone.keys()
    for key, result in together.items():
        assert result["scores"] == alone[key]["scores"]
        assert result["train_loss"] == pytest.approx(alone[key]["train_loss"], rel=1e-5)
        assert result["steps"] == alone[key]["steps"]


@pytest.mark.slow
@pytest.mark.parametrize("experts", [1, 4])
def test_a_killed_study_goes_on_with_the_same_scores(unbroken, experts: int) -> None:
    """Killed after the third result: with experts, between the results of a group of two."""
    whole, _ = unbroken
    directory, name = whole.parent, f"killed_{experts}"
    flag = f"--gin.EXPERTS={experts}"
    process = start(directory, name, flag, killed_after=3)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    kept = results(directory / name)
    assert len(kept) == 3
    assert sorted(result["budget"] for result in kept.values()) == ["n0", "n0", "n10"]
    written = [directory / name / "cells" / key / "result.json" for key in kept]
    stamps = [path.stat().st_mtime_ns for path in written]
    assert "7 cells, 3 finished before, 4 to run" in finish(start(directory, name, flag))
    assert [path.stat().st_mtime_ns for path in written] == stamps
    assert {key: result["scores"] for key, result in results(directory / name).items()} == {
        key: result["scores"] for key, result in results(whole).items()
    }


@pytest.mark.slow
def test_shards_together_are_the_whole_study(unbroken) -> None:
    whole, _ = unbroken
    directory = whole.parent
    shards = [start(directory, "shards", f"--shard={i}/2") for i in (1, 2)]  # side by side
    for process in shards:
        finish(process)
    both = results(directory / "shards")
    assert {k: r["scores"] for k, r in both.items()} == {
        k: r["scores"] for k, r in results(whole).items()
    }
