"""A study that is disturbed all the time, and ends with exactly the scores of one left alone.

Twenty minutes, so it runs only when it is asked for; SOAK_SECS asks for another length:

    python -m pytest tests/faults/test_soak.py -m soak -s -o faulthandler_timeout=0
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from disturbed_runs import Server, has_ended, log_of
from small_disks import SmallDisk, may_mount

SECONDS = float(os.environ.get("SOAK_SECS", "1200"))
DISK_MB = 64
GIN = """
from __gin__ import dynamic_registration
from t5x_ext import studies
from t5x_ext.models import network
include 'gin_configs/studies/quickstart.gin'
SEEDS = (0,)
TASKS = ("task141_animal_and_vehicle_tagging", "task142_animal_entailment")
network.T5Config.emb_dim = 16
network.T5Config.num_encoder_layers = 1
network.T5Config.num_decoder_layers = 1
pretune/studies.Recipe.task_feature_lengths = {"inputs": 56, "targets": 12}
pretune/studies.Recipe.batch_size = 8
pretune/studies.Recipe.steps = 1100
studies.paper_arms:
  only = ("stl", "stl_baseline_1", "mtl")
  budgets = {"stl": ("n0", "n10", "n50"), "stl_baseline_1": ("n10", "n50"), "mtl": ("n10",)}
"""
pytestmark = pytest.mark.soak


@dataclasses.dataclass
class Study:
    """A study in a directory, and what is done to it."""

    server: Server
    directory: Path
    notes: Path  # its config and log, out of the disk's reach
    disk: SmallDisk | None
    rng: random.Random
    done: Counter[str] = dataclasses.field(default_factory=Counter)

    def start(self) -> int:
        config = Path(f"{self.notes}.gin")
        config.write_text(GIN)
        arguments = [f"--gin_file={config}", f"--gin.MODEL_DIR='{self.directory}'"]
        self.done["starts"] += 1
        return self.server.start_command("study", arguments, f"{self.notes}.log", devices=1)

    def finish(self) -> None:
        """Runs it to its end."""
        self.start()
        assert self.server.exit_code() == 0, log_of(self.notes)[-4000:]

    def disturb(self, secs: float) -> bool:
        """Starts it and does something to it after so many seconds; whether it was faster."""
        what = self.rng.choice(["kill", "kill", "term", "full" if self.disk else "kill"])
        process = self.start()
        deadline = time.monotonic() + secs
        while time.monotonic() < deadline and not has_ended(process):
            time.sleep(0.01)
        if not has_ended(process):
            if what == "full":
                self.disk.fill()
            else:
                os.kill(process, signal.SIGKILL if what == "kill" else signal.SIGTERM)
        status = self.server.exit_code()
        if what == "full":
            self.disk.free()
        # Stopped at once; stopped once all is saved, or finished; ended by the full disk.
        expected = {"kill": -signal.SIGKILL, "term": -signal.SIGTERM, "full": 1}[what]
        assert status in (0, expected), f"{what}: {status}: {log_of(self.notes)[-4000:]}"
        assert "Traceback" not in log_of(self.notes)
        if status or what == "term":
            self.done[what] += 1
        return "report ->" in log_of(self.notes)

    def damage(self) -> None:
        """Breaks files that the next start will find: of one checkpoint, and of one cell."""
        runs = [path for path in self.directory.glob("initials/*/train") if path.is_dir()]
        for run in runs:
            saved = sorted(run.glob("checkpoint_*[0-9]"), key=lambda p: int(p.name.split("_")[1]))
            if len(saved) < 2 or (run.parent / "params").exists():
                continue  # nothing to fall back on, or nobody will read it
            if self.rng.random() < 0.5:
                shutil.rmtree(saved[-1])
                self.done["deleted checkpoints"] += 1
            else:
                files = sorted(path for path in saved[-1].rglob("*") if path.is_file())
                truncate(self.rng.choice(files), self.rng)
                self.done["truncated checkpoints"] += 1
        cells = sorted(self.directory.glob("cells/*/predictions.jsonl"))
        if cells and self.rng.random() < 0.3:
            cell = self.rng.choice(cells)
            (cell.parent / "result.json").unlink(missing_ok=True)
            truncate(cell, self.rng)
            self.done["partial predictions"] += 1

    def outcome(self) -> dict[str, tuple[object, ...]]:
        """Scores, losses and the very bytes of the predictions of every cell."""
        found = {}
        for path in sorted(self.directory.glob("cells/*/result.json")):
            result = json.loads(path.read_text())
            predictions = (path.parent / "predictions.jsonl").read_bytes()
            found[result["cell"]] = result["scores"], result["train_loss"], predictions
        return found


def truncate(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))] if data else b"")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk | None]:
    if not may_mount():
        yield None
        return
    with SmallDisk(tmp_path / "disk", DISK_MB) as disk:
        yield disk


def test_a_disturbed_study_scores_as_one_left_alone(
    server: Server, disk: SmallDisk | None, tmp_path: Path
) -> None:
    rng = random.Random(0)
    alone = Study(server, tmp_path / "alone", tmp_path / "alone", None, rng)
    began = time.monotonic()
    alone.finish()
    whole_secs = time.monotonic() - began
    expected = alone.outcome()

    totals: Counter[str] = Counter()
    identical = cells = studies = 0
    began = time.monotonic()
    while time.monotonic() < began + SECONDS:
        notes = tmp_path / f"study{studies}"
        study = Study(server, disk.path / "study" if disk else notes, notes, disk, rng)
        while time.monotonic() < began + SECONDS:
            if study.disturb(rng.uniform(1, whole_secs / 3)):
                break
            study.damage()
        study.finish()
        found = study.outcome()
        assert found.keys() == expected.keys()
        identical += sum(found[cell] == expected[cell] for cell in expected)
        cells += len(expected)
        studies += 1
        totals += study.done
        shutil.rmtree(study.directory)
    faults = ", ".join(
        f"{count} {what}"
        for what, count in sorted(totals.items())
        if what not in ("kill", "term", "starts")
    )
    print(
        f"\nsoak: {time.monotonic() - began:.0f} s, {studies} studies, {totals['kill']} SIGKILL, "
        f"{totals['term']} SIGTERM, {totals['starts']} starts, faults: {faults or 'none'}; "
        f"{identical} of {cells} cells identical"
    )
    assert identical == cells
