"""Two real processes with four devices each, on loopback, against one with eight."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import compilers
import jax
import multihost_run
import numpy as np
import pytest

from t5x_ext.checkpoints import load_meta, load_params
from t5x_ext.decoding.predict import to_rows
from t5x_ext.metrics.predictions import Answer, PredictionLog, read_predictions

REPO = Path(__file__).resolve().parents[2]
RUN = {"steps": 6, "save_period": 3, "mesh": {"fsdp": 2}, "microbatches": 2}
ENDLESS = RUN | {"steps": 10**6, "save_period": None}
EVAL_LOSS = "eval/cross_entropy"
pytestmark = pytest.mark.slow
PATIENCE = 300  # seconds; for machines that do much else


class Processes:
    """Processes that share one run; their output goes to files, so that none of them blocks."""

    def __init__(self, directory: Path, cache: Path) -> None:
        self._directory = directory
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._environment = os.environ | {
            "PYTHONPATH": str(REPO),
            "XLA_FLAGS": f"{compilers.UNOPTIMISED} --xla_force_host_platform_device_count=4",
            "JAX_COORDINATOR_BIND_ADDRESS": self.address,
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, index: int, count: int = 2, timeout_secs: float = PATIENCE, **settings) -> None:
        session = {
            "coordinator_address": self.address,
            "process_count": count,
            "process_index": index,
            "timeout_secs": timeout_secs,
        }
        arguments = {"model_dir": str(self._directory / "run"), "session": session} | settings
        with self._output(index).open("wb") as output:
            self.running[index] = subprocess.Popen(
                [sys.executable, multihost_run.__file__, json.dumps(arguments)],
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_for(self, index: int, text: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in self.output(index):
            assert self.running[index].poll() is None, self.output(index)
            assert time.monotonic() < deadline, self.output(index)
            time.sleep(0.05)

    def status(self, index: int, timeout: float = PATIENCE) -> int:
        return self.running[index].wait(timeout)

    def output(self, index: int) -> str:
        return self._output(index).read_text(errors="replace")

    def errors(self, index: int) -> list[str]:
        return [line for line in self.output(index).splitlines() if line.startswith("error: ")]

    def _output(self, index: int) -> Path:
        return self._directory / f"output-{index}.txt"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Compiled programs, shared by the runs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def processes(tmp_path, cache) -> Iterator[Processes]:
    yield from _ended(Processes(tmp_path, cache))


def _ended(processes: Processes) -> Iterator[Processes]:
    yield processes
    for process in processes.running.values():
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """One process, eight devices."""
    model_dir = tmp_path_factory.mktemp("alone")
    predictions = str(model_dir / "predictions.jsonl")
    multihost_run.run(multihost_run.Settings(str(model_dir), predictions=predictions, **RUN))
    return model_dir


@pytest.fixture(scope="module")
def together(tmp_path_factory, cache) -> Iterator[Path]:
    """Two processes, four devices each; half of the predictions are there from an earlier run."""
    directory = tmp_path_factory.mktemp("together")
    path = directory / "predictions.jsonl"
    rows = to_rows(multihost_run.to_predict())
    with PredictionLog(path, rows, multihost_run.SIGNATURE) as log:
        log.append([(i, Answer(f"of an earlier run {i}")) for i in range(0, len(rows), 2)])
    for processes in _ended(Processes(directory, cache)):
        for index in (0, 1):
            processes.start(index, predictions=str(path), **RUN)
        for index in (0, 1):
            assert processes.status(index) == 0, processes.output(index)
        yield directory


def logged(model_dir: Path, name: str = "train/loss") -> dict[int, float]:
    rows = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row[name] for row in rows if name in row}


def assert_same_numbers(some: dict[int, float], others: dict[int, float]) -> None:
    assert some.keys() == others.keys()
    np.testing.assert_allclose(list(some.values()), list(others.values()), rtol=1e-5)


def test_losses_and_parameters_are_those_of_one_process(alone: Path, together: Path) -> None:
    assert len(logged(alone)) == 6
    for name in ("train/loss", "train/padding_share", "eval/cross_entropy", "eval/target_tokens"):
        assert_same_numbers(logged(together / "run", name), logged(alone, name))
    some, others = (load_params(str(path)) for path in (together / "run", alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), some, others)


def test_a_checkpoint_of_two_processes_is_whole(together: Path) -> None:
    for step in (3, 6):
        directory = together / "run" / f"checkpoint_{step}"
        listed = json.loads((directory / "manifest.json").read_text())["bytes"]
        items = [path for path in directory.iterdir() if path.is_dir()]
        files = [path for item in items for path in item.rglob("*") if path.is_file()]
        assert listed == {str(path.relative_to(directory)): path.stat().st_size for path in files}
        meta = load_meta(str(directory))
        assert (meta["step"], meta["model_config"]["emb_dim"]) == (step, 16)


def test_one_process_goes_on_exactly_where_two_stopped(together: Path, tmp_path: Path) -> None:
    shutil.copytree(together / "run", tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoint_6")
    multihost_run.run(multihost_run.Settings(str(tmp_path), **RUN))
    assert_same_numbers(logged(tmp_path), logged(together / "run"))


@pytest.mark.long
def test_killed_runs_go_on_with_another_number_of_hosts(
    processes: Processes, alone: Path, tmp_path: Path
) -> None:
    """Two hosts, one of them killed; one host, killed; two hosts to the end."""
    steps = 12
    settings = RUN | {"steps": steps, "save_period": 1, "steps_file": str(tmp_path / "steps.jsonl")}
    for count, last_step in ((2, 2), (1, 4), (2, steps)):
        for index in range(count):
            processes.start(index, count, **settings)
        if last_step < steps:
            processes.wait_for(0, f"step {last_step}/")
            processes.running[count - 1].kill()
        for index in range(count):
            ended_well = processes.status(index) == 0
            assert ended_well == (last_step == steps), processes.output(index)
        assert ("resuming at step" in processes.output(0)) == (last_step > 2)
    losses = logged(tmp_path / "run")
    assert len(losses) == steps
    assert_same_numbers({step: losses[step] for step in range(1, 7)}, logged(alone))

    seen: dict[int, set[tuple[str, ...]]] = {}
    for line in map(json.loads, (tmp_path / "steps.jsonl").read_text().splitlines()):
        seen.setdefault(line["step"], set()).add(tuple(line["ids"]))
    assert all(len(variants) == 1 for variants in seen.values())
    ids = [name for step in range(1, steps + 1) for name in min(seen[step])]
    epochs = [sorted(ids[start : start + 90]) for start in range(0, len(ids), 90)]
    assert len(epochs) > 2
    assert all(epoch == sorted(f"e{index}" for index in range(90)) for epoch in epochs)


def test_predictions_are_one_file_in_the_order_of_the_input(alone: Path, together: Path) -> None:
    expected = read_predictions(alone / "predictions.jsonl")
    rows = read_predictions(together / "predictions.jsonl")
    assert [row.id for row in rows] == [row.id for row in expected]
    assert rows[1::2] == expected[1::2]
    assert [row.prediction for row in rows[::2]] == [
        f"of an earlier run {i}" for i in range(0, len(rows), 2)
    ]
    assert len({row.prediction for row in expected}) > 5
    assert not list(together.glob("*.partial"))


def test_a_model_axis_over_both_hosts(processes: Processes, alone: Path, tmp_path: Path) -> None:
    settings = RUN | {"mesh": {"model": 8}, "steps": 3}
    for index in (0, 1):
        processes.start(index, **settings)
    for index in (0, 1):
        assert processes.status(index) == 0, processes.output(index)
    first_three = {step: loss for step, loss in logged(alone).items() if step <= 3}
    assert_same_numbers(logged(tmp_path / "run"), first_three)


def test_a_decoder_only_model_trains_and_decodes_as_in_one_process(
    processes: Processes, tmp_path: Path
) -> None:
    settings = RUN | {"family": "llama", "steps": 3, "save_period": None}
    paths = [str(tmp_path / name) for name in ("together.jsonl", "alone.jsonl")]
    for index in (0, 1):
        processes.start(index, predictions=paths[0], **settings)
    alone = multihost_run.Settings(str(tmp_path / "alone"), predictions=paths[1], **settings)
    multihost_run.run(alone)
    for index in (0, 1):
        assert processes.status(index) == 0, processes.output(index)
    for name in ("train/loss", "train/padding_share", "eval/cross_entropy"):
        assert_same_numbers(logged(tmp_path / "run", name), logged(tmp_path / "alone", name))
    assert read_predictions(Path(paths[0])) == read_predictions(Path(paths[1]))


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_is_killed_the_other_ends(processes: Processes, victim: int) -> None:
    for index in (0, 1):
        processes.start(index, **ENDLESS)
    processes.wait_for(0, "step 2/")
    processes.running[victim].kill()
    survivor = 1 - victim
    assert processes.status(survivor, timeout=20) == 1
    host = socket.gethostname()
    gone = f"error: process {victim} ({host}) is gone: its connection ended; see its output"
    assert processes.errors(survivor) == [gone]


def test_sigterm_to_one_saves_in_both(processes: Processes, tmp_path: Path) -> None:
    for index in (0, 1):
        processes.start(index, **ENDLESS)
    processes.wait_for(0, "step 2/")
    processes.running[1].send_signal(signal.SIGTERM)
    for index in (0, 1):
        assert processes.status(index) == 0, processes.output(index)
    last = max(logged(tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").glob("checkpoint_*")] == [f"checkpoint_{last}"]
    assert load_meta(str(tmp_path / "run"))["step"] == last


def test_sigterm_to_one_ends_an_evaluation_in_both(processes: Processes, tmp_path: Path) -> None:
    for index in (0, 1):
        processes.start(index, **ENDLESS, long_evaluations=True)
    processes.wait_for(0, "step 2/")
    processes.running[1].send_signal(signal.SIGTERM)
    for index in (0, 1):
        assert processes.status(index) == 0, processes.output(index)
    meta = load_meta(str(tmp_path / "run"))
    trained, evaluated = (max(logged(tmp_path / "run", n)) for n in ("train/loss", EVAL_LOSS))
    assert meta["step"] == trained
    assert meta.get("evaluation_due", False) == (evaluated < trained)


def test_a_process_that_fails_ends_the_other_with_its_reason(processes: Processes) -> None:
    processes.start(0, **RUN)
    processes.start(1, **RUN, config="b = 1\nc = 3")
    for index in (0, 1):
        assert processes.status(index) == 1
        host = socket.gethostname()
        assert (
            f"process 1 ({host}): config has 'b = 1' where process 0 ({host}) has 'a = 1'"
            in processes.errors(index)[0]
        )
        assert "Traceback" not in processes.output(index)


def test_a_missing_process_is_named_within_the_timeout(processes: Processes) -> None:
    for index in (0, 2):
        processes.start(index, count=4, timeout_secs=8, **RUN)
    for index in (0, 2):
        assert processes.status(index) == 1
        assert processes.errors(index) == [
            "error: processes 1, 3 missing: 2 of 4 have started within 8 s"
        ]
