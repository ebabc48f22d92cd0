"""Training that is killed at any moment, and goes on as if nothing had been.

Three moments by default; KILLS asks for another number, each at a different moment:

    KILLS=30 python -m pytest tests/faults/test_killed_training.py -s
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from disturbed_runs import (
    EXAMPLES,
    STEPS,
    Server,
    check_equal,
    check_every_example_comes_once_an_epoch,
    has_ended,
    kill_at,
    log_of,
    moments,
    steps_of,
)

KILLS = int(os.environ.get("KILLS", "3"))
KILLS_PER_RUN = 3
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="watches processes in /proc"),
]


def test_killed_runs_equal_an_unbroken_one(server: Server, unbroken: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    phases = iter(["step", "save", "evaluation", "start"] * KILLS)
    killed: Counter[str] = Counter()
    runs = 0
    while killed.total() < KILLS:
        directory = tmp_path / f"run{runs}"
        for _ in range(min(KILLS_PER_RUN, KILLS - killed.total())):
            phase = next(phases)
            reached = max(steps_of(directory), default=0)
            moment = moments(directory, rng.randint(1, STEPS - 2) if reached == 0 else reached)[
                phase
            ]
            process = server.start(directory)
            wait = rng.uniform(0, 2.0 if phase == "start" else 0.05)
            kill_at(process, moment, wait, lambda process=process: has_ended(process))
            status = server.exit_code()
            assert status in (0, -signal.SIGKILL), log_of(directory)
            if status == 0:  # it was faster
                break
            killed[phase] += 1
        assert server.train(directory) == 0, log_of(directory)
        check_equal(directory, unbroken)
        runs += 1
    print(
        f"\n{killed.total()} of {killed.total()} kills left no trace, {runs} runs: {dict(killed)}"
    )


def test_a_killed_decoder_only_run_equals_an_unbroken_one(server: Server, tmp_path: Path) -> None:
    llama = ("--gin_file=models/llama_tiny.gin", "--gin.llama.LlamaConfig.num_layers=1")
    alone, directory = tmp_path / "alone", tmp_path / "run"
    assert server.train(alone, *llama) == 0, log_of(alone)
    process = server.start(directory, *llama)
    kill_at(process, moments(directory, 5)["step"], 0.0, lambda: has_ended(process))
    assert server.exit_code() == -signal.SIGKILL, log_of(directory)
    assert server.train(directory, *llama) == 0, log_of(directory)
    assert "resuming" in log_of(directory)
    check_equal(directory, alone)


def test_a_killed_run_goes_on_with_other_devices(
    server: Server, unbroken: Path, tmp_path: Path
) -> None:
    """Eight devices, killed; four, killed; one to the end: the same examples, and their losses."""
    directory = tmp_path / "run"
    for devices, saved in ((8, directory / "checkpoint_2"), (4, directory / "checkpoint_6")):
        process = server.start(directory, devices=devices)
        kill_at(process, saved.exists, 0.0, lambda process=process: has_ended(process))
        assert server.exit_code() == -signal.SIGKILL, log_of(directory)
    assert server.train(directory, devices=1) == 0, log_of(directory)
    resumed = [line for line in log_of(directory).splitlines() if line.startswith("resuming")]
    assert len(resumed) == 2

    alone, disturbed = steps_of(unbroken), steps_of(directory)
    assert disturbed.keys() == alone.keys() == set(range(1, STEPS + 1))
    for step, seen in disturbed.items():
        ((ids, loss),) = alone[step]
        assert {ids for ids, _ in seen} == {ids}
        losses = [float.fromhex(text) for _, text in seen]
        np.testing.assert_allclose(losses, float.fromhex(loss), rtol=1e-4)
    check_every_example_comes_once_an_epoch(disturbed, EXAMPLES)
