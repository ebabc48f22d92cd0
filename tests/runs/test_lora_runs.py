"""The commands with adapters, end to end: tune over a checkpoint, resume, evaluate, load."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_train_eval_infer import _bundled_data, losses  # noqa: F401

from t5x_ext import Model, infer, train
from t5x_ext import eval as eval_script
from t5x_ext.checkpoints import adapters, load_meta, load_params, trees
from t5x_ext.checkpoints.fingerprints import fingerprint_base
from t5x_ext.checkpoints.params import open_source
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.predictions import read_predictions

pytestmark = pytest.mark.slow

MODEL = [
    "--gin_file=models/llama_tiny.gin",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 16}",
    "--gin.MIXTURE_OR_TASK_NAME='task142_animal_entailment'",
    "--gin.PROMPT='tk.def'",
    "--gin.BATCH_SIZE=8",
]
TRAIN = [
    *MODEL,
    "--gin_file=runs/train.gin",
    "--gin.BUDGET=20",
    "--gin.STATS_PERIOD=1",
    "--gin.LEARNING_RATE=1e-2",
]
LORA = ["--gin.LORA_RANK=4", "--gin.LORA_DROPOUT=0.1", "--gin.LORA_TARGETS=['q_proj', 'wo']"]


def run(model_dir: Path, *flags: str) -> None:
    assert train.main([*TRAIN, f"--gin.MODEL_DIR='{model_dir}'", *flags]) == 0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model_dir = tmp_path_factory.mktemp("base")
    run(model_dir, "--gin.TRAIN_STEPS=2")
    return model_dir


@pytest.fixture(scope="module")
def over_base(base: Path) -> list[str]:
    return [*LORA, f"--gin.INITIAL_CHECKPOINT_PATH='{base}'"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, over_base: list[str]) -> Path:
    model_dir = tmp_path_factory.mktemp("tuned")
    run(model_dir, *over_base, "--gin.TRAIN_STEPS=8")
    return model_dir


def test_checkpoints_hold_the_adapter_and_name_its_base(tuned: Path, base: Path) -> None:
    params = trees.named_leaves(load_params(str(tuned)))
    assert params and all("/lora/" in name for name in params)
    facts = load_meta(str(tuned))["adapter"]
    assert facts["base"]["path"] == str(base)
    assert facts["base"]["sha256"] == fingerprint_base(open_source(str(base)))
    assert facts["lora"]["rank"] == 4 and facts["lora"]["targets"] == ["q_proj", "wo"]


def test_gin_gives_modules_their_own_ranks_and_alphas(over_base: list[str], tmp_path: Path) -> None:
    config = tmp_path / "ranks.gin"
    config.write_text(
        "from __gin__ import dynamic_registration\n"
        "from t5x_ext.models import lora\n"
        "include 'runs/train.gin'\n"
        "lora.create_lora.rank_pattern = {'q_proj': 2}\n"
        "lora.create_lora.alpha_pattern = {'wo': 3.0}\n"
        "lora.create_lora.rslora = True\n"
    )
    run(tmp_path / "run", f"--gin_file={config}", *over_base, "--gin.TRAIN_STEPS=3")
    facts = load_meta(str(tmp_path / "run"))["adapter"]["lora"]
    assert facts["rank_pattern"] == {"q_proj": 2} and facts["alpha_pattern"] == {"wo": 3.0}
    assert facts["rank"] == 4 and facts["rslora"] is True
    params = trees.named_leaves(load_params(str(tmp_path / "run")))
    ranks = {name.split("/")[-3]: a.shape[-1] for name, a in params.items() if name[-1] == "a"}
    assert ranks == {"query": 2, "wo": 4}


def test_a_run_that_was_stopped_goes_on_as_the_unbroken_one(
    tuned: Path, over_base: list[str], tmp_path: Path
) -> None:
    run(tmp_path, *over_base, "--gin.TRAIN_STEPS=5")
    run(tmp_path, *over_base, "--gin.TRAIN_STEPS=8")
    assert losses(tmp_path) == losses(tuned)
    for ours, theirs in zip(
        *(trees.named_leaves(load_params(str(d))).values() for d in (tmp_path, tuned)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_goes_on_from_an_adapter(tuned: Path, base: Path, tmp_path: Path) -> None:
    flags = [f"--gin.INITIAL_CHECKPOINT_PATH='{base}'", f"--gin.ADAPTER='{tuned}'"]
    run(tmp_path, *flags, "--gin.TRAIN_STEPS=3")
    assert losses(tmp_path)[3] < losses(tuned)[3]
    assert load_meta(str(tmp_path))["adapter"]["lora"] == load_meta(str(tuned))["adapter"]["lora"]


def test_a_run_and_its_base_with_adapter_evaluate_alike(
    tuned: Path, base: Path, tmp_path: Path, capsys
) -> None:
    common = [*MODEL, "--gin_file=runs/eval.gin"]
    for name, flags in {
        "run": [f"--gin.CHECKPOINT_PATH='{tuned}'"],
        "both": [f"--gin.CHECKPOINT_PATH='{base}'", f"--gin.ADAPTER='{tuned}'"],
        "base": [f"--gin.CHECKPOINT_PATH='{base}'"],
    }.items():
        output = f"--gin.EVAL_OUTPUT_DIR='{tmp_path / name}'"
        assert eval_script.main([*common, *flags, output]) == 0
    scores = {n: json.loads((tmp_path / n / "scores.json").read_text()) for n in ("run", "both")}
    assert scores["run"] == scores["both"]
    assert "warning: " not in capsys.readouterr().err
    whole = json.loads((tmp_path / "base" / "scores.json").read_text())
    assert whole["loss"]["cross_entropy"] > scores["run"]["loss"]["cross_entropy"] + 0.1


@pytest.mark.parametrize("command", ["eval", "infer"])
def test_macros_of_the_run_are_checked_against_its_adapter(
    command: str, tuned: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    main, out = {
        "eval": (eval_script.main, "EVAL_OUTPUT_DIR"),
        "infer": (infer.main, "INFER_OUTPUT_DIR"),
    }[command]
    common = [*MODEL, f"--gin_file=runs/{command}.gin", f"--gin.{out}='{tmp_path}'"]
    run_path, base_path = (f"--gin.CHECKPOINT_PATH='{path}'" for path in (tuned, base))
    same = ["--gin.LORA_ALPHA=16", "--gin.LORA_TARGETS=('wo', 'query')"]  # in other words
    assert main([*common, run_path, *LORA, *same]) == 0
    assert main([*common, base_path, f"--gin.ADAPTER='{tuned}'", *LORA]) == 0
    # Training without LORA_RANK tunes no adapter either, whatever else is said of one.
    assert main([*common, base_path, *same]) == 0
    own = f"but the adapter {tuned} has"
    for flags, message in (
        ([run_path, "--gin.LORA_RANK=8"], f"LORA_RANK: 8, {own} 4; allowed: the same, or None"),
        ([run_path, "--gin.LORA_ALPHA=8.0"], f"LORA_ALPHA: 8.0, {own} 16.0; allowed: "),
        ([run_path, "--gin.LORA_TARGETS='all'"], f"LORA_TARGETS: 'all', {own} ['q_proj', 'wo'];"),
        ([run_path, "--gin.LORA_TARGETS=['q']"], "LoRA.targets: 'q' matches no linear layer"),
        ([base_path, "--gin.LORA_RANK=4"], f"LORA_RANK: 4, but {base} has no adapter; allowed: "),
    ):
        capsys.readouterr()
        assert main([*common, *flags]) == 1
        errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(errors) == 1 and message in errors[0], errors


def test_each_adapter_is_opened_once_and_has_to_be_of_the_first_one_s_shape(
    tuned: Path, over_base: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    run(tmp_path / "wide", *over_base, "--gin.TRAIN_STEPS=3", "--gin.LORA_RANK=6")
    opened: list[str] = []
    open_adapter = adapters.open_adapter

    def noted(path: str, config):
        opened.append(path)
        return open_adapter(path, config)

    monkeypatch.setattr(adapters, "open_adapter", noted)
    paths = [str(tuned), str(tmp_path / "wide")]
    flags = [f"--gin.CHECKPOINT_PATH={paths}", f"--gin.EVAL_OUTPUT_DIR='{tmp_path / 'out'}'"]
    flags.append("--gin.PROMPT='tk.name'")
    assert eval_script.main([*MODEL, "--gin_file=runs/eval.gin", *flags]) == 1
    assert len(opened) == len(set(opened)) == 2
    lines = capsys.readouterr().err.splitlines()
    warned = [line for line in lines if "warning: " in line]
    assert warned == [f"warning: {tuned}: tuned with prompt 'tk.def', used with 'tk.name'"]
    errors = [line for line in lines if "error: " in line]
    assert len(errors) == 1 and "wide has other adapters than" in errors[0], errors


def test_a_base_in_four_bits_is_tuned_resumed_evaluated_and_used(
    over_base: list[str], tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    quantised = [*over_base, "--gin.QUANTIZATION='nf4'"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(whole, *quantised, "--gin.TRAIN_STEPS=5")
    run(stopped, *quantised, "--gin.TRAIN_STEPS=4")
    run(stopped, *quantised, "--gin.TRAIN_STEPS=5")
    assert losses(stopped) == losses(whole)
    first = 3  # the base has made two steps
    assert 0 < abs(losses(whole)[first] - losses(tuned)[first]) < 0.1  # four bits say nearly that
    assert load_meta(str(stopped))["adapter"]["base"]["quantization"] == "nf4"

    assert re.search(r"%\); [\d,]+ of these in NF4, \d\.\d\d bits each\n", capsys.readouterr().out)
    flags = [*MODEL, f"--gin.CHECKPOINT_PATH='{stopped}'", "--gin.QUANTIZATION='nf4'"]
    scored, written = tmp_path / "scored", tmp_path / "written"
    to_eval = ["--gin_file=runs/eval.gin", f"--gin.EVAL_OUTPUT_DIR='{scored}'"]
    to_infer = ["--gin_file=runs/infer.gin", f"--gin.INFER_OUTPUT_DIR='{written}'"]
    assert eval_script.main([*flags, *to_eval]) == 0
    assert infer.main([*flags, *to_infer]) == 0
    assert "warning: " not in capsys.readouterr().err
    said = [
        [row.prediction for row in read_predictions(path / "predictions.jsonl")]
        for path in (scored, written)
    ]
    assert said[0] == said[1]


def test_models_are_loaded_with_one_adapter_or_several(tuned: Path, base: Path) -> None:
    assert Model.load(str(tuned)).adapters == ("adapter",)
    both = Model.load(str(base), adapters={"one": str(tuned), "two": str(tuned)})
    assert both.adapters == ("one", "two") and both.step == 8
    with pytest.raises(ConfigError, match="adapter and adapters; allowed: one of them"):
        Model.load(str(base), adapter=str(tuned), adapters={"one": str(tuned)})


def test_what_does_not_fit_is_one_line(
    tuned: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = tmp_path / "other"
    run(other, "--gin.TRAIN_STEPS=2", "--gin.RANDOM_SEED=5")
    initial = "--gin.INITIAL_CHECKPOINT_PATH="
    for flags, message in (
        (["--gin.LORA_RANK=4"], "INITIAL_CHECKPOINT_PATH: not set; adapters (LORA_RANK) are"),
        (["--gin.QUANTIZATION='nf4'"], "QUANTIZATION: 'nf4' without LORA_RANK"),
        (["--gin.QUANTIZATION='int4'"], "QUANTIZATION: 'int4'; allowed: 'nf4', None"),
        (
            [f"{initial}'{other}'", f"--gin.ADAPTER='{tuned}'"],
            f"{tuned}: an adapter of another base ({base}): that one's fingerprint begins with",
        ),
        ([f"{initial}'{base}'", f"--gin.ADAPTER='{base}'"], "holds a whole model, not an adapter"),
        (
            [f"{initial}'{base}'", f"--gin.ADAPTER='{tuned}'", "--gin.LORA_RANK=8"],
            "the LORA macros say",
        ),
        ([f"{initial}'{base}'", "--gin.LORA_RANK=4", "--gin.LORA_TARGETS=['q']"], "'q' matches no"),
    ):
        capsys.readouterr()
        run_dir = f"--gin.MODEL_DIR='{tmp_path / 'refused'}'"
        assert train.main([*TRAIN, run_dir, "--gin.TRAIN_STEPS=3", *flags]) == 1
        errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(errors) == 1 and message in errors[0], errors
