"""Runs a study of 24 small STL models in three ways, side by side.

    python benchmarks/study.py [--experts 2] [--devices 2] [--cells 24]

One process per cell, as a job array over single-model scripts does it; one process, cell after
cell; one process that tunes and decodes cells together along the expert axis, which the mesh splits
over as many devices as there are cores (XLA runs one device's small operations on one core). All
start from the same random parameters; each way has an empty directory for results, and a cache of
compiled programs that begins empty. Prints wall and CPU seconds and ratios, and whether the scores
are identical.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
STUDY = """
from __gin__ import dynamic_registration
from t5x_ext import partitioning
from t5x_ext import studies
from t5x_ext.models import network
include 'gin_configs/studies/quickstart.gin'
INITIALS = [@pretrained/studies.InitialModel()]
SEEDS = (0,)
TASKS = {tasks!r}
EXPERTS = {experts}
partitioning.PjitPartitioner.expert = {devices}
network.T5Config.scan_layers = False
cells/studies.Recipe.epochs = 4
studies.paper_arms:
  only = ("stl_baseline_2",)
  budgets = {{"stl_baseline_2": {budgets!r}}}
"""
BUDGETS = ("n50", "n100")


def main() -> None:
    """Runs the three ways, the fastest first: a slow machine shows early."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, default=2, help="models tuned together")
    parser.add_argument("--devices", type=int, default=2, help="CPU devices of the expert axis")
    parser.add_argument("--cells", type=int, default=24, help="a multiple of 2, at most 32")
    args = parser.parse_args()
    listed = REPO / "mixtures/bundled/suite/splits/default/test_tasks.txt"
    tasks = listed.read_text().split()[: args.cells // len(BUDGETS)]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        seconds, scores = {}, {}
        for way, experts, devices, grids in (
            ("expert axis", args.experts, args.devices, [(tasks, BUDGETS)]),
            ("cell after cell", 1, 1, [(tasks, BUDGETS)]),
            ("process per cell", 1, 1, [([t], (b,)) for t in tasks for b in BUDGETS]),
        ):
            study_dir = directory / way.replace(" ", "_")
            wall, cpu = time.monotonic(), cpu_seconds()
            for grid_tasks, budgets in grids:
                run_study(study_dir, grid_tasks, budgets, experts, devices)
            seconds[way], cpu = time.monotonic() - wall, cpu_seconds() - cpu
            scores[way] = read_scores(study_dir)
            print(
                f"{way:<17} {seconds[way]:7.1f} s  {cpu:7.1f} s of CPU  {len(scores[way])} cells",
                flush=True,
            )
    slowest = seconds["process per cell"]
    for way, taken in seconds.items():
        print(f"{way:<17} {slowest / taken:7.1f}x one process per cell")
    same = all(value == scores["process per cell"] for value in scores.values())
    print(f"scores identical: {same}")


def cpu_seconds() -> float:
    """CPU time of the processes that have ended."""
    ended = os.times()
    return ended.children_user + ended.children_system


def run_study(
    study_dir: Path, tasks: list[str], budgets: tuple[str, ...], experts: int, devices: int
) -> None:
    """One process of `python -m t5x_ext.study`."""
    config = study_dir.with_suffix(".gin")
    config.write_text(
        STUDY.format(tasks=tuple(tasks), budgets=budgets, experts=experts, devices=devices)
    )
    environment = {
        **os.environ,
        "T5X_EXT_CACHE": f"{study_dir}_cache",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    environment.pop("SUPERNI_DIR", None)
    command = [sys.executable, "-m", "t5x_ext.study", f"--gin_file={config}"]
    command.append(f"--gin.MODEL_DIR='{study_dir}'")
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def read_scores(study_dir: Path) -> dict[str, dict]:
    """Key of a cell -> its scores."""
    results = (json.loads(path.read_text()) for path in study_dir.glob("cells/*/result.json"))
    return {result["key"]: result["scores"] for result in results}


if __name__ == "__main__":
    main()
