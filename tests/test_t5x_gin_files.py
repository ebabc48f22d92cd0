"""T5X's gin files are read here as they are there: every binding, and what it makes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import gin
import pytest
from ported_files import UPSTREAM, flags, ported, spelt_out, task_module, write_ported

from t5x_ext import eval as eval_script
from t5x_ext import gin_utils, infer, train
from t5x_ext.models.network import T5Config


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return write_ported(tmp_path_factory.mktemp("ported"))


@pytest.fixture(scope="module", autouse=True)
def _tasks() -> Iterator[None]:
    with task_module():
        yield


def test_only_import_lines_differ_from_upstream() -> None:
    for path in UPSTREAM.rglob("*.gin"):
        theirs, ours = path.read_text(), ported(path.read_text())
        for line, changed in zip(theirs.splitlines(), ours.splitlines(), strict=True):
            assert line == changed or line.startswith(("import ", "from "))


RUNS = {
    "pretrain": (train.train, {"MODEL_DIR": "m", "TRAIN_STEPS": 1, "DROPOUT_RATE": 0.1}),
    "finetune": (
        train.train,
        {"MODEL_DIR": "m", "TRAIN_STEPS": 1, "INITIAL_CHECKPOINT_PATH": "gs://bucket/model"},
    ),
    "eval": (
        eval_script.evaluate,
        {"CHECKPOINT_PATH": "c", "EVAL_OUTPUT_DIR": "e", "DROPOUT_RATE": 0.0},
    ),
    "infer": (
        infer.infer,
        {"CHECKPOINT_PATH": "c", "INFER_OUTPUT_DIR": "i", "DROPOUT_RATE": 0.0},
    ),
}


def parse_at_full_size(directory: Path, run: str, model: str, *bindings: str) -> None:
    command, macros = RUNS[run]
    names = {"MIXTURE_OR_TASK_NAME": "wmt", "TASK_FEATURE_LENGTHS": {"inputs": 512, "targets": 114}}
    values = [f"{name} = {value!r}" for name, value in (macros | names).items()]
    gin_utils.parse(
        [f"t5x/examples/t5/{model}/base.gin", f"t5x/configs/runs/{run}.gin"],
        [*values, *bindings],
        [str(directory)],
        command=command,
    )


@pytest.mark.parametrize("model", ["t5_1_0", "t5_1_1"])
@pytest.mark.parametrize("run", RUNS)
def test_every_binding_passes_the_checks_at_full_size(files: Path, run: str, model: str) -> None:
    parse_at_full_size(files, run, model)


@pytest.mark.parametrize("run", RUNS)
def test_lines_spelt_out_mean_the_same(files: Path, tmp_path: Path, run: str) -> None:
    for path in UPSTREAM.rglob("*.gin"):
        target = tmp_path / path.relative_to(UPSTREAM)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(spelt_out(path.read_text()))
        assert "t5x_ext.t5x" not in target.read_text()

    def bound_in(directory: Path) -> list[str]:
        parse_at_full_size(directory, run, "t5_1_1")
        lines = gin_utils.operative_config().splitlines()
        # A module that is registered twice in one process gets a number: models2.
        return sorted(re.sub(r"2\.", ".", x) for x in lines if not x.startswith(("from", "import")))

    assert bound_in(tmp_path) == bound_in(files)


def config_with(module: str, files: Path, tmp_path: Path, more: str = "") -> T5Config:
    """Of T5X's base model with the network of another of its modules."""
    text = (UPSTREAM / "t5x/examples/t5/t5_1_1/base.gin").read_text()
    run_file = tmp_path / "t5x/configs/runs/pretrain.gin"
    run_file.parent.mkdir(parents=True)
    run_file.write_text((files / "t5x/configs/runs/pretrain.gin").read_text())
    model_file = tmp_path / "t5x/examples/t5/t5_1_1/base.gin"
    model_file.parent.mkdir(parents=True)
    model_file.write_text(ported(text.replace("from t5x.examples.t5 ", f"from {module} ") + more))
    parse_at_full_size(tmp_path, "pretrain", "t5_1_1")
    return gin.query_parameter("EncoderDecoderModel.module").scoped_configurable_fn().config


def test_the_network_of_contrib_gpu_is_t5s(files: Path, tmp_path: Path) -> None:
    plain = config_with("t5x.examples.t5", files, tmp_path / "t5")
    assert plain.emb_dim == 768
    assert config_with("t5x.contrib.gpu.t5", files, tmp_path / "gpu") == plain


def test_the_network_of_scalable_t5_has_a_position_table_per_layer(
    files: Path, tmp_path: Path
) -> None:
    more = "network.T5Config.param_scan_axis = 1\nnetwork.T5Config.remat_policy = 'minimal'\n"
    config = config_with("t5x.examples.scalable_t5", files, tmp_path / "scalable", more)
    assert type(config) is T5Config and config.position_table_per_layer
    plain = config_with("t5x.examples.t5", files, tmp_path / "t5")
    assert config == dataclasses.replace(
        plain, position_table_per_layer=True, remat_policy="minimal"
    )


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("utils.DatasetConfig.use_custom_packing_ops=True", "take the line out"),
        ("utils.DatasetConfig.use_memory_cache=False", "num_examples"),
        ("seqio.Evaluator.use_memory_cache=False", "num_examples"),
        ("utils.RestoreCheckpointConfig.mode='every'", "specific, latest, best, all"),
        ("utils.RestoreCheckpointConfig.path=['a', 'b']", "training starts from one checkpoint"),
        ("train.actions={'EVAL': []}", "TRAIN, TRAIN_EVAL, INFER_EVAL"),
        ("USE_CACHED_TASKS=True", "USE_CACHED_TASKS = False"),
        ("trainer.Trainer.num_microbatches=3", "multiples of 24"),
    ],
)
def test_what_has_no_meaning_here_is_refused_in_one_line(
    files: Path, tmp_path: Path, capsys, binding: str, message: str
) -> None:
    macros = {
        "MODEL_DIR": str(tmp_path),
        "INITIAL_CHECKPOINT_PATH": [],
        "TRAIN_STEPS": 2,
        "BATCH_SIZE": 8,
    }
    assert train.main([*flags(files, "finetune", "small", **macros), f"--gin.{binding}"]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ") and message in lines[-1]
