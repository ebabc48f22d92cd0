"""Runs and studies in a bucket give what they give on a local disk, and write nowhere else."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from bucket_commands import Commands
from disturbed_runs import Server
from proxy import Proxy

from mixtures.release import BUNDLED_SUITE
from t5x_ext import files
from t5x_ext.checkpoints import load_params

TRAIN_TASKS = ("task001_city_extraction", "task002_job_extraction")
TEST_TASKS = ("task141_animal_and_vehicle_tagging", "task150_animal_title")
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
    "--gin.BUDGET=20",
    "--gin.DROPOUT_RATE=0.1",
    "--gin.STATS_PERIOD=1",
    "--gin.SAVE_PERIOD=2",
    "--gin.EVAL_PERIOD=4",
    "--gin.TRAIN_STEPS=8",
]
STUDY = """
from __gin__ import dynamic_registration
from t5x_ext import studies
from t5x_ext.models import network
include 'studies/quickstart.gin'
SEEDS = (0,)
network.T5Config.emb_dim = 16
network.T5Config.num_encoder_layers = 1
network.T5Config.num_decoder_layers = 1
pretune/studies.Recipe.steps = 3
cells/studies.Recipe.min_steps = 2
EVAL_BATCH_SIZE = 20
studies.paper_arms:
  only = ("stl", "mtl")
  budgets = {"stl": ("n10",), "mtl": ("n10",)}
"""


def put_release(root: files.StrPath) -> str:
    """Writes a few of the bundled tasks, as a directory that DATA_DIR can name."""
    directory = files.path(root) / "data"
    for name in (*TRAIN_TASKS, *TEST_TASKS):
        content = files.read_bytes(BUNDLED_SUITE / "tasks" / f"{name}.json")
        files.write_bytes(directory / "tasks" / f"{name}.json", content)
    for track, names in (("train", TRAIN_TASKS), ("test", TEST_TASKS)):
        files.write_text(directory / f"splits/default/{track}_tasks.txt", "\n".join(names))
    return str(directory)


class Place:
    """Where a run lies, and the commands that use it."""

    def __init__(self, root: str, commands: Commands) -> None:
        self.root, self.commands = root, commands
        self.data = f"--gin.DATA_DIR='{put_release(root)}'"
        self.model_dir = f"{root}/run"
        self.train = [*TRAIN, self.data, f"--gin.MODEL_DIR='{self.model_dir}'"]

    def evaluate(self) -> None:
        """Evaluates and infers with the run's newest checkpoint."""
        common = [*MODEL, self.data, f"--gin.CHECKPOINT_PATH='{self.model_dir}'"]
        self.commands.run(
            "eval", *common, "--gin_file=runs/eval.gin", f"--gin.EVAL_OUTPUT_DIR='{self.root}/eval'"
        )
        self.commands.run(
            "infer",
            *common,
            "--gin_file=runs/infer.gin",
            f"--gin.INFER_OUTPUT_DIR='{self.root}/infer'",
        )

    def metrics(self) -> list[dict]:
        """metrics.jsonl without what depends on the clock and on memory."""
        lines = map(json.loads, files.read_text(f"{self.model_dir}/metrics.jsonl").splitlines())
        return [
            {k: v for k, v in line.items() if k in ("step", "train/loss") or "eval/" in k}
            for line in lines
        ]


@pytest.fixture
def local(server: Server, tmp_path: Path) -> Place:
    (tmp_path / "local").mkdir()
    return Place(
        str(tmp_path / "local"), Commands(server, "http://127.0.0.1:9", tmp_path / "local")
    )


@pytest.fixture
def remote(bucket: str, commands: Commands) -> Place:
    return Place(f"{bucket}/of/mine", commands)


def wait_for(path: str) -> None:
    for _ in range(3000):
        if files.is_file(path):
            return
        time.sleep(0.1)
    raise TimeoutError(path)


@pytest.mark.slow
def test_train_kill_resume_eval_and_infer(local: Place, remote: Place) -> None:
    local.commands.run("train", *local.train)
    process = remote.commands.start("train", *remote.train)
    wait_for(f"{remote.model_dir}/checkpoint_4/manifest.json")
    os.kill(process, signal.SIGKILL)
    assert remote.commands.finish() == -signal.SIGKILL
    said = remote.commands.run("train", *remote.train)
    assert "resuming at step" in said and "damaged" not in said
    assert remote.metrics() == local.metrics()
    trained = [load_params(place.model_dir) for place in (local, remote)]
    jax.tree.map(np.testing.assert_array_equal, *trained)
    for place in (local, remote):
        place.evaluate()
    for name in ("infer/predictions.jsonl", "eval/predictions.jsonl", "eval/scores.json"):
        there = files.read_bytes(f"{remote.root}/{name}")
        assert there and there == files.read_bytes(f"{local.root}/{name}"), name
    names = set(files.names_in(remote.model_dir))
    assert {"config.gin", "metrics.jsonl", "tokenizer", "checkpoint_8"} <= names
    assert remote.commands.strays() == []


@pytest.mark.slow
def test_a_study_in_shards_and_its_report(local: Place, remote: Place, tmp_path: Path) -> None:
    config = tmp_path / "small.gin"
    config.write_text(STUDY)
    for place, shards in ((local, ["1/1"]), (remote, ["1/2", "2/2"])):
        flags = [f"--gin_file={config}", place.data, f"--gin.MODEL_DIR='{place.root}/study'"]
        for shard in shards:
            place.commands.run("study", *flags, f"--shard={shard}")
    said = remote.commands.run("report", f"{remote.root}/study")
    assert f"-> {remote.root}/study/report/index.html" in said
    for name in ("summary.csv", "scores.svg", "categories.svg"):
        there = files.read_bytes(f"{remote.root}/study/report/{name}")
        assert there and there == files.read_bytes(f"{local.root}/study/report/{name}"), name
    cells = files.names_in(f"{remote.root}/study/cells")
    assert cells == files.names_in(f"{local.root}/study/cells")
    for cell in cells:
        name = f"study/cells/{cell}/predictions.jsonl"
        assert files.read_bytes(f"{remote.root}/{name}") == files.read_bytes(f"{local.root}/{name}")
    assert remote.commands.strays() == []


@pytest.mark.slow
def test_a_server_that_refuses_or_fails_is_one_line_and_damages_nothing(
    remote: Place, proxy: Proxy
) -> None:
    commands = remote.commands
    commands.run("train", *remote.train, "--gin.TRAIN_STEPS=2")
    before = files.names_in(remote.model_dir)
    longer = [*remote.train, "--gin.TRAIN_STEPS=4"]
    for fault in (
        lambda method, path: 403,
        # Everything else answers, so that the run begins to read its checkpoint.
        lambda method, path: 403 if method == "GET" and "state" in path else None,
    ):
        proxy.fault = fault
        commands.start("train", *longer)
        status = commands.finish()
        proxy.fault = lambda method, path: None
        errors = [line for line in commands.log().splitlines() if line.startswith("error: ")]
        assert status == 1 and "Traceback" not in commands.log(), commands.log()
        assert remote.root in errors[-1] or "403" in errors[-1], errors
        assert set(before) <= set(files.names_in(remote.model_dir))
    assert "resuming at step 2" in commands.run("train", *longer)
    assert not any(name.endswith(".damaged") for name in files.names_in(remote.model_dir))
