"""Every message of docs/troubleshooting.md, provoked."""

from __future__ import annotations

import contextlib
import http.server
import importlib
import json
import logging
import re
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_checkpoints import make_all

from t5x_ext import files
from t5x_ext.checkpoints import Checkpointer
from t5x_ext.checkpoints.meta import ADAPTER, describe_adapter
from t5x_ext.data.batching import BatchInfo, TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory
from t5x_ext.errors import ConfigError
from t5x_ext.models.lora import LoRA
from t5x_ext.runs.adapters import Base, check_resumed
from t5x_ext.training.logs import MetricLog
from t5x_ext.training.nonfinite import FiniteCheck, check_params
from t5x_ext.training.state import TrainState
from t5x_ext.training.trainer import StepEvent

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
INFO = BatchInfo(0, 3, 8, ("e1", "e2"), 40, 0.5)
STATE = {"params": {"w": jnp.arange(4.0)}}

Provoke = Callable[[Path, pytest.CaptureFixture, pytest.LogCaptureFixture], str]
CASES: dict[str, Provoke] = {}


def rows() -> list[str]:
    """The messages of the page, as they stand there."""
    cells = (re.match(r"\| `(.+?)` \| \S", line) for line in PAGE.read_text().splitlines())
    return [cell[1] for cell in cells if cell]


def provokes(start: str) -> Callable[[Provoke], Provoke]:
    """Registers a case for the one row that has these words."""
    (message,) = [row for row in rows() if start in row]
    return lambda case: CASES.setdefault(message, case)


def command(start: str, name: str, *arguments: str) -> None:
    """Registers a case that is a command line; `{tmp}` stands for an empty directory."""

    @provokes(start)
    def case(tmp: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> str:
        filled = [argument.replace("{tmp}", str(tmp)) for argument in arguments]
        assert importlib.import_module(f"t5x_ext.{name}").main(filled) == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("error: ")
        return line


RUN = ["train", "--gin_file=models/t5_1_1_tiny.gin", "--gin_file=runs/train.gin"]
WHOLE = [
    *RUN,
    "--gin.MODEL_DIR='{tmp}/run'",
    "--gin.MIXTURE_OR_TASK_NAME='held_in'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 16}",
    "--gin.TRAIN_STEPS=2",
]

command("TRIAN_STEPS", *RUN, "--gin.TRIAN_STEPS=9")
command("not a gin value", *RUN, "--gin.MODEL_DIR=runs/x")
command("is required", *RUN)
command("takes Optional", *WHOLE, "--gin.TRAIN_STEPS='9'")
command("exactly one of", *WHOLE, "--gin.TRAIN_EPOCHS=1")
command("cannot import", *WHOLE, "--gin_file={tmp}/from_t5x.gin")
command("do not divide", *WHOLE, "--gin.BATCH_SIZE=12")
command("scope", *WHOLE, "--gin.MIXTURE_OR_TASK_NAME='held_inn'")
command("prompt", *WHOLE, "--gin.PROMPT='tk.deff'")
command("DATA_DIR '", *WHOLE, "--gin.DATA_DIR='{tmp}/nothing'")
command("field 'output'", *WHOLE, "--gin.MIXTURE_OR_TASK_NAME='{tmp}/rows.jsonl'")
command("occurs 2 times", *WHOLE, "--gin.MIXTURE_OR_TASK_NAME='{tmp}/repeated.jsonl'")
command("RANDOM_SEED", *WHOLE, "--gin.DETERMINISTIC=True", "--gin.RANDOM_SEED=None")
command("holds no checkpoint", "inspect_checkpoint", "{tmp}")
command("do not match the model", *WHOLE, "--gin.INITIAL_CHECKPOINT_PATH='{tmp}/checkpoints/hf'")
command(
    ": cannot be written (...)",
    "infer",
    "--gin_file=models/t5_1_1_tiny.gin",
    "--gin_file=runs/infer.gin",
    "--gin.CHECKPOINT_PATH='{tmp}/checkpoints/own'",
    "--gin.MIXTURE_OR_TASK_NAME='held_in'",
    "--gin.TASK_FEATURE_LENGTHS=None",
    "--gin.INFER_OUTPUT_DIR='{tmp}/rows.jsonl/predictions'",
)
command("cannot be written to", *WHOLE, "--gin.MODEL_DIR='{tmp}/rows.jsonl/run'")


@provokes("data position")
def _other_batch_size(tmp: Path, *_: object) -> str:
    tokens = np.arange(3, 8, dtype=np.int32)
    examples = [Example("e", "task", "", tokens, (tokens,), "", ("x",), False)]

    def batches(size: int) -> TrainBatches:
        lengths = {"inputs": 32, "targets": 32}
        return TrainBatches([in_memory("task", examples)], size, lengths, pack=False, seed=0)

    with pytest.raises(ConfigError) as error:
        batches(16).restore(batches(8).state())
    return str(error.value)


@provokes("LoRA.alpha")
def _other_alpha(*_: object) -> str:
    base = Base(LoRA(2, alpha=32.0), {}, "base", "f" * 64, 0, None, ())
    meta = {ADAPTER: describe_adapter(LoRA(2), "base", "f" * 64, None)}
    with pytest.raises(ConfigError) as error:
        check_resumed("runs/mine", base, meta)
    return str(error.value)


@provokes("loss is")
def _bad_gradient(*_: object) -> str:
    squares = jnp.array([1.0, jnp.nan])
    metrics = {"loss": jnp.inf, "grad_norm": jnp.nan, "grad_squares": squares}
    event = StepEvent(4, TrainState(jnp.int32(4), STATE["params"] | {"a": 0.0}, {}), metrics, INFO)
    check = FiniteCheck()
    check(event)
    with pytest.raises(ConfigError) as error:
        check.check(event.state.params)
    return str(error.value)


@provokes("its update has made")
def _bad_parameter(*_: object) -> str:
    with pytest.raises(ConfigError) as error:
        check_params({"a": jnp.zeros(2), "b": jnp.array([0.0, jnp.inf])}, step=3)
    return str(error.value)


@provokes("cannot be written (Forbidden")
def _refused_by_a_bucket(*_: object) -> str:
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_error(403)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(ConfigError) as error:
            files.write_text(files.path("gs://bucket/x"), "")
    server.shutdown()
    server.server_close()
    return str(error.value)


@provokes("is in use")
def _second_run(tmp: Path, *_: object) -> str:
    with Checkpointer(str(tmp)), pytest.raises(ConfigError) as error:
        Checkpointer(str(tmp))
    return str(error.value)


def _save(directory: Path, *steps: int) -> None:
    with Checkpointer(str(directory)) as checkpointer:
        for step in steps:
            checkpointer.save(step, STATE, {}, {}, force=True)


@contextlib.contextmanager
def _files_up_to(num_bytes: int) -> Iterator[None]:
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))


@provokes("the last good checkpoint is")
def _full_disk(tmp: Path, *_: object) -> str:
    _save(tmp, 1)
    large = {"params": {"w": jax.random.normal(jax.random.key(0), (1 << 18,))}}
    with (
        _files_up_to(100_000),
        pytest.raises(ConfigError) as error,
        Checkpointer(str(tmp)) as checkpointer,
    ):
        checkpointer.save(2, large, {}, {}, force=True)
    with Checkpointer(str(tmp)) as checkpointer:  # the lock was given free
        assert checkpointer.latest_step() == 1 and checkpointer.restore(STATE) is not None
    return str(error.value)


@provokes("unmounted, moved or deleted")
def _moved_directory(tmp: Path, *_: object) -> str:
    run, elsewhere = tmp / "run", tmp / "elsewhere"
    with pytest.raises(ConfigError) as error, Checkpointer(str(run)) as checkpointer:
        checkpointer.save(1, STATE, {}, {}, force=True)
        checkpointer.wait()
        run.rename(elsewhere)
        checkpointer.save(2, STATE, {}, {}, force=True)
    assert not run.exists() and [p.name for p in elsewhere.glob("check*")] == ["checkpoint_1"]
    return str(error.value)


@provokes("cannot be logged")
def _full_disk_between_saves(tmp: Path, *_: object) -> str:
    log = MetricLog(tmp)
    with _files_up_to(10), pytest.raises(ConfigError) as error:
        log.write(1, {"train/loss": 1.0})
    return str(error.value)


@provokes("cannot be read")
def _damaged_newest(
    tmp: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> str:
    _save(tmp, 1, 2)
    shutil.rmtree(tmp / "checkpoint_2" / "state" / "d")
    with caplog.at_level(logging.WARNING), Checkpointer(str(tmp)) as checkpointer:
        assert checkpointer.restore(STATE) is not None
    assert (tmp / "checkpoint_2.damaged").is_dir()
    return next(line for line in caplog.messages if "cannot be read" in line)


def test_every_row_has_a_case() -> None:
    assert len(rows()) >= 15
    assert set(CASES) == set(rows())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints")
    make_all(directory)
    return directory


@pytest.mark.parametrize("message", rows())
def test_the_page_says_what_the_programs_say(
    message: str,
    tmp_path: Path,
    checkpoints: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("SUPERNI_DIR", raising=False)
    if "checkpoint" not in message and "in use" not in message:
        (tmp_path / "from_t5x.gin").write_text(
            "from __gin__ import dynamic_registration\nimport t5x\n"
        )
        lines = [{"instruction": "a", "input": "b", "output": "c"}, {"instruction": "a"}]
        lines[1]["input"] = "b"
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
        (tmp_path / "repeated.jsonl").write_text('{"instruction": "a", "instruction": "b"}')
        (tmp_path / "checkpoints").symlink_to(checkpoints)
    said = CASES[message](tmp_path, capsys, caplog)
    assert re.search(".+".join(map(re.escape, message.split("..."))), said), said
