"""Gin text of every kind, mutated: a configuration, or one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import HOSTILE_TEXTS, damaged, fuzz, outcome
from hypothesis import given
from hypothesis import strategies as st

from t5x_ext import gin_utils, train

MODEL = ["models/t5_1_1_tiny.gin", "runs/train.gin"]
SET = [
    "MODEL_DIR = 'runs/x'",
    "MIXTURE_OR_TASK_NAME = 'held_in'",
    "TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 16}",
    "TRAIN_STEPS = 7",
]
FILE = """\
# One's own run.
from __gin__ import dynamic_registration
from t5x_ext import configs as utils
from t5x_ext.training import trainer

include "gin_configs/models/t5_1_1_tiny.gin"

MODEL_DIR = "runs/x"
MINE = [1e-3, %TRAIN_STEPS]
TRAIN_STEPS = 7
train/utils.DatasetConfig:
  batch_size = 8
  prompt = 'alpaca'
trainer.Trainer.learning_rate_fn = @utils.create_learning_rate_scheduler()
utils.create_learning_rate_scheduler.warmup_steps = %TRAIN_STEPS
"""

names = st.sampled_from((
    "TRAIN_STEPS", "TRIAN_STEPS", "MODEL", "MODEL_DIR", "BATCH_SIZE", "DROPOUT_RATE", "PACK",
    "network.T5Config.emb_dim", "T5Config.dtype", "train.hooks", "train/DatasetConfig.prompt",
    "trian/DatasetConfig.prompt", "x/y/z.w", "a.b.c.d", "import os", "include 'x'", "", "1",
    "gin.macro", "macro.value", "MODEL/x", "\u0130",
)) | st.text(max_size=12)  # fmt: skip
literals = st.sampled_from((
    "1", "-1", "1e400", "'x'", "None", "True", "[]", "{}", "()", "{'inputs': 64}", "{[]: 1}",
    "{'a': {'b': [1, (2,)]}}", "@", "%", "@x", "@x()", "%x", "%TRAIN_STEPS", "@train.train",
    "@train.train()", "%gin.REQUIRED", "@gin.macro", "@a/b/c()", "'" + "x" * 100_000 + "'",
    "[" * 500, "9" * 5000, "1 if True else 2", "__import__('os')", "(lambda: 1)()", "'\\ud800'",
    "'unterminated", '"""', "b'x'", "1 + 1", "{1: 2,", "\\", "1\n2", "{'a': @x(), 'b': %y}",
)) | st.sampled_from(HOSTILE_TEXTS) | st.text(max_size=12)  # fmt: skip


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gin")


@fuzz
@given(name=names, value=literals)
def test_fuzz_bindings_on_the_command_line(name: str, value: str) -> None:
    outcome(lambda: gin_utils.parse(MODEL, [*SET, f"{name} = {value}"], [], train.train))


@fuzz
@given(data=damaged(FILE.encode()))
def test_fuzz_gin_files(scratch: Path, data: bytes) -> None:
    path = scratch / "mine.gin"
    path.write_bytes(data)
    outcome(lambda: gin_utils.parse([*MODEL, str(path)], SET, [], train.train))


@fuzz
@given(
    lines=st.lists(
        st.sampled_from(FILE.splitlines()) | st.tuples(names, literals).map(" = ".join), max_size=8
    )
)
def test_fuzz_lines_of_gin_files(scratch: Path, lines: list[str]) -> None:
    path = scratch / "lines.gin"
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    outcome(lambda: gin_utils.parse([str(path), *MODEL], SET, [], train.train))


@fuzz
@given(name=st.sampled_from(HOSTILE_TEXTS) | st.text(max_size=12))
def test_fuzz_names_of_gin_files(name: str) -> None:
    assert isinstance(outcome(lambda: gin_utils.parse([name])), str)
