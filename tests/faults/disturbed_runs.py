"""Runs that are disturbed: started in a server, watched, killed, compared with one left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from t5x_ext.checkpoints import load_params

HERE = Path(__file__).parent
STEPS = 10
EVERY = 2  # steps between saves, and between evaluations
EXAMPLES = 20
TASK = "task141_animal_and_vehicle_tagging"
# Every file of the run is smaller (tokenizer.json has 343,709), but some of a checkpoint are not:
# how TensorStore spreads one over files differs from save to save.
CHECKPOINT_BYTES = 345_000
ARGUMENTS = [
    "--gin_file=models/t5_1_1_tiny.gin",
    "--gin_file=runs/train.gin",
    f"--gin_file={HERE / 'recorded_run.gin'}",
    "--gin.network.T5Config.num_encoder_layers=1",
    "--gin.network.T5Config.num_decoder_layers=1",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 16}",
    f"--gin.MIXTURE_OR_TASK_NAME='{TASK}'",
    "--gin.PROMPT='tk.def'",
    f"--gin.BUDGET={EXAMPLES}",
    "--gin.BATCH_SIZE=8",
    "--gin.PACK=True",
    "--gin.DROPOUT_RATE=0.1",
    "--gin.STATS_PERIOD=1",
    f"--gin.EVAL_PERIOD={EVERY}",
    f"--gin.SAVE_PERIOD={EVERY}",
    f"--gin.TRAIN_STEPS={STEPS}",
]


class Server:
    """The other end of `command_server`."""

    def __init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "SUPERNI_DIR"}
        path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "command_server.py")],
            env=environment | {"PYTHONPATH": path.rstrip(os.pathsep)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def _answer(self) -> str:
        return self._process.stdout.readline().strip()

    def start_command(self, command: str, arguments: list[str], log: str, **limits: Any) -> int:
        """Starts a command; `limits` are those of `command_server`. Returns the process's id."""
        order = {"command": command, "arguments": arguments, "log": log} | limits
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def start(self, directory: Path, *more: str, **limits: Any) -> int:
        """Starts training in a directory; returns the process's id."""
        paths = [f"--gin.MODEL_DIR='{directory}'", f"--gin.STEPS_FILE='{directory}.steps'"]
        arguments = [*ARGUMENTS, *paths, *more]
        return self.start_command("train", arguments, f"{directory}.log", **limits)

    def exit_code(self) -> int:
        """Waits for the process that was started last."""
        return int(self._answer())

    def train(self, directory: Path, *more: str, **limits: Any) -> int:
        """Trains to the end; returns the exit code."""
        self.start(directory, *more, **limits)
        return self.exit_code()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)


def log_of(directory: Path) -> str:
    return Path(f"{directory}.log").read_text()


def steps_of(directory: Path) -> dict[int, set[tuple[tuple[str, ...], str]]]:
    """All that was ever seen of each step: (ids, loss); steps after a save are run again."""
    seen: dict[int, set[tuple[tuple[str, ...], str]]] = {}
    for line in lines_of(Path(f"{directory}.steps")):
        seen.setdefault(line["step"], set()).add((tuple(line["ids"]), line["loss"]))
    return seen


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file; the process that writes it may be killed at any time."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def metrics_of(directory: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock and on memory."""
    return [
        {k: v for k, v in line.items() if k in ("step", "train/loss") or k.startswith("eval/")}
        for line in lines_of(directory / "metrics.jsonl")
    ]


def check_equal(directory: Path, unbroken: Path) -> None:
    """Every step ever taken, every number logged, and the last checkpoint are the same."""
    assert steps_of(directory) == steps_of(unbroken)
    assert metrics_of(directory) == metrics_of(unbroken)
    last = f"checkpoint_{STEPS}"
    for part in ("data", "meta"):
        kept = [
            json.loads((d / last / part / "metadata").read_text()) for d in (directory, unbroken)
        ]
        if part == "meta":  # it has the config's text, with the directory in it
            kept = [
                json.dumps(k).replace(str(d), "")
                for k, d in zip(kept, (directory, unbroken), strict=True)
            ]
        assert kept[0] == kept[1]
    jax.tree.map(
        np.testing.assert_array_equal,
        *(load_params(str(d / last)) for d in (directory, unbroken)),
    )


def is_saving(directory: Path) -> bool:
    return any(directory.glob("*.orbax-checkpoint-tmp"))


def is_evaluating(directory: Path) -> bool:
    """Whether the last thing logged is a step that is followed by an evaluation."""
    lines = lines_of(directory / "metrics.jsonl")
    return bool(lines) and "train/loss" in lines[-1] and lines[-1]["step"] % EVERY == 0


def kill_at(
    process: int, moment: Callable[[], bool], wait: float, is_over: Callable[[], bool]
) -> None:
    """Kills a process some seconds after a moment has come, unless it is over before."""
    while not moment():
        if is_over():
            return
        time.sleep(0.002)
    time.sleep(wait)
    os.kill(process, signal.SIGKILL)


def moments(directory: Path, step: int) -> dict[str, Callable[[], bool]]:
    """Says of each phase of a run whether it has come, from a step on."""

    def reached() -> bool:
        return max(steps_of(directory), default=0) >= step

    return {
        "start": lambda: True,
        "step": reached,
        "save": lambda: is_saving(directory) and reached(),
        "evaluation": lambda: is_evaluating(directory) and reached(),
    }


def has_ended(process: int) -> bool:
    """Whether a process of the server's has exited (it is a zombie, or gone)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def check_every_example_comes_once_an_epoch(
    steps: dict[int, set[tuple[tuple[str, ...], str]]], examples: int
) -> None:
    """The examples of all steps, one after the other, are whole epochs and a part of one."""
    ids = [name for step in sorted(steps) for name in min(steps[step])[0]]
    epochs = [ids[start : start + examples] for start in range(0, len(ids), examples)]
    assert len(epochs) >= 2
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    assert all(set(epoch) == set(epochs[0]) for epoch in epochs[:-1])
    assert set(epochs[-1]) <= set(epochs[0])
