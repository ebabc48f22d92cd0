"""The order of gin files: what is told where a file of defaults takes a setting back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from t5x_ext import gin_utils
from t5x_ext.gin_strict import order
from t5x_ext.gin_strict.source import read_bindings, read_file

REPO = Path(__file__).resolve().parents[1]
SHIPPED = REPO / "gin_configs"


def warnings(
    caplog: pytest.LogCaptureFixture, files: list[str], directory: Path, *bindings: str
) -> list[str]:
    caplog.clear()
    sources = [read_file(name, [str(directory), str(REPO), str(SHIPPED)]) for name in files]
    order.warn_of_order([*sources, read_bindings(bindings)], SHIPPED)
    return [record.getMessage() for record in caplog.records]


def test_ones_own_file_before_the_run_s_is_told_in_one_line(tmp_path: Path, caplog) -> None:
    (tmp_path / "mine.gin").write_text("BATCH_SIZE = 8\nDROPOUT_RATE = 0.1\nSAVE_PERIOD = 50\n")
    (line,) = warnings(caplog, ["mine.gin", "runs/finetune.gin"], tmp_path)
    found = re.fullmatch(
        r"replaced by a file of defaults that comes later: BATCH_SIZE \(\S+/mine.gin:1\) by "
        r"\S+/runs/train.gin:\d+, SAVE_PERIOD \(\S+/mine.gin:3\) by \S+/runs/train.gin:\d+; "
        r"give the files of models first, then those of runs, then your own",
        line,
    )
    assert found  # the same DROPOUT_RATE is nothing to tell
    assert not warnings(caplog, ["runs/finetune.gin", "mine.gin"], tmp_path)
    given = ["BATCH_SIZE = 16", "SAVE_PERIOD = None"]
    assert not warnings(caplog, ["mine.gin", "runs/finetune.gin"], tmp_path, *given)


def test_a_file_that_includes_the_run_s_after_its_settings_is_told(tmp_path: Path, caplog) -> None:
    include = "include 'gin_configs/runs/train.gin'\n"
    (tmp_path / "late.gin").write_text(f"BATCH_SIZE = 8\n{include}")
    (line,) = warnings(caplog, ["late.gin"], tmp_path)
    assert "late.gin:1) by " in line
    for text in (f"{include}BATCH_SIZE = 8\n", f"BATCH_SIZE = 8\n{include}BATCH_SIZE = 8\n"):
        (tmp_path / "late.gin").write_text(text)
        assert not warnings(caplog, ["late.gin"], tmp_path)


def test_a_model_s_file_after_the_run_s_is_told_where_it_changes_anything(tmp_path, caplog) -> None:
    model = "models/t5_1_1_small.gin"
    (line,) = warnings(caplog, ["runs/pretrain.gin", model], tmp_path)
    assert "OPTIMIZER (" in line and "gin_configs/optimizers/adamw.gin:" in line
    (line,) = warnings(caplog, ["runs/finetune.gin", model], tmp_path)
    assert line.count(" by ") == 2 and "DROPOUT_RATE (" in line  # "replaced by" is one of them
    assert not warnings(caplog, ["runs/eval.gin", model], tmp_path)


@pytest.mark.parametrize("run", ["train", "finetune", "pretrain", "eval", "infer", "plan"])
@pytest.mark.parametrize(
    "others", [[], ["optimizers/adafactor.gin"], ["meshes/fsdp.gin", "decoding/beam.gin"]]
)
def test_the_documented_order_is_no_matter(run: str, others: list[str], caplog) -> None:
    for model in ("t5_1_1_small", "llama_7b", "tk_instruct_3b_def_pos"):
        assert not warnings(caplog, [f"models/{model}.gin", f"runs/{run}.gin", *others], REPO)
        assert not warnings(caplog, [f"models/{model}.gin", *others, f"runs/{run}.gin"], REPO)


def test_no_file_of_the_package_takes_its_own_settings_back(caplog) -> None:
    for path in sorted(SHIPPED.rglob("*.gin")):
        assert not warnings(caplog, [str(path)], REPO), path


def test_a_command_tells_it(tmp_path: Path, caplog) -> None:
    mine = tmp_path / "mine.gin"
    mine.write_text("LEARNING_RATE = 1e-4\n")
    gin_utils.parse([str(mine), "optimizers/adamw.gin"])
    assert f"LEARNING_RATE ({mine}:1) by " in caplog.text
