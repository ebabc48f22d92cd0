"""A row longer than the model's context is refused by every command, before data is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import gin
import jax
import pytest

from t5x_ext import eval as eval_command
from t5x_ext import infer, plan, study, train
from t5x_ext.errors import ConfigError
from t5x_ext.gin_utils import parse_flags
from t5x_ext.models import DecoderOnlyModel, EncoderDecoderModel
from t5x_ext.models.falcon import FalconConfig
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.mpt import MptConfig
from t5x_ext.models.network import T5Config, Transformer

SHAPE = {"vocab_size": 64, "emb_dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2}
SHAPE |= {"head_dim": 8, "mlp_dim": 32, "max_length": 100}
SIZE = {"vocab_size": 64, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32}
SIZE |= {"num_encoder_layers": 1, "num_decoder_layers": 1}
TINY = ["--gin_file=models/llama_tiny.gin", "--gin.MIXTURE_OR_TASK_NAME='nothing.jsonl'"]
LONG = "--gin.TASK_FEATURE_LENGTHS={'inputs': 2000, 'targets': 49}"
REFUSED = (
    "TASK_FEATURE_LENGTHS: {'inputs': 2000, 'targets': 49}; allowed: 2048 in all, the model's "
    "context (LlamaConfig.max_length)"
)


@pytest.fixture(autouse=True)
def _forget_gin():
    yield
    gin.clear_config()


@pytest.mark.parametrize("config", [LlamaConfig, MptConfig, FalconConfig])
def test_prompt_and_target_share_the_context(config: type) -> None:
    model = DecoderOnlyModel(Transformer(config(**SHAPE)))
    model.check_context({"inputs": 60, "targets": 40})
    model.check_context(None)
    with pytest.raises(ConfigError, match=rf"allowed: 100 in all, .*{config.__name__}.max_length"):
        model.check_context({"inputs": 60, "targets": 41})


def test_each_side_of_a_model_with_an_encoder_has_the_context() -> None:
    @dataclasses.dataclass(frozen=True)
    class LearnedPositions(T5Config):
        max_length: int = 100

    plain = EncoderDecoderModel(Transformer(T5Config(**SIZE)))
    plain.check_context({"inputs": 10**6, "targets": 10**6})  # relative positions have no end
    model = EncoderDecoderModel(Transformer(LearnedPositions(**SIZE)))
    model.check_context({"inputs": 100, "targets": 100})
    for lengths in ({"inputs": 101, "targets": 1}, {"inputs": 1, "targets": 101}):
        with pytest.raises(ConfigError, match="allowed: 100, the model's context"):
            model.check_context(lengths)


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (train.main, ["--gin_file=runs/train.gin", "--gin.MODEL_DIR='{0}'", "--gin.TRAIN_STEPS=1"]),
        (
            eval_command.main,
            [
                "--gin_file=runs/eval.gin",
                "--gin.CHECKPOINT_PATH='{0}'",
                "--gin.EVAL_OUTPUT_DIR='{0}'",
            ],
        ),
        (
            infer.main,
            [
                "--gin_file=runs/infer.gin",
                "--gin.CHECKPOINT_PATH='{0}'",
                "--gin.INFER_OUTPUT_DIR='{0}'",
            ],
        ),
        (plan.main, ["--gin_file=runs/plan.gin", "--topology=v5e:1x1"]),
    ],
    ids=["train", "eval", "infer", "plan"],
)
def test_commands_refuse_it_in_one_line(
    main: Callable[[list[str]], int], flags: list[str], tmp_path: Path, capsys, monkeypatch
) -> None:
    jax.devices()  # made with the suite's flags, before `plan` changes them
    monkeypatch.setenv("XLA_FLAGS", "")
    given = [flag.replace("{0}", str(tmp_path / "run")) for flag in flags]
    task = TINY if main is not plan.main else TINY[:1]
    assert main([*task, *given, LONG]) == 1
    assert capsys.readouterr().err == f"error: {REFUSED}\n"


def test_what_a_plan_is_asked_to_decode_is_held_to_it_too() -> None:
    flags, args = parse_flags(
        plan._parser(), [TINY[0], "--gin_file=runs/plan.gin", "--topology=v5e:1x1"]
    )
    decoding = plan.Decoding(wanted=True, prompt_length=2000, output_length=49)
    with pytest.raises(ConfigError, match="--prompt_length, --output_length: .*allowed: 2048"):
        plan._setup(flags, decoding)


def test_a_study_names_the_recipe(tmp_path: Path, capsys) -> None:
    flags = ["--gin_file=studies/self_specialization_tiny.gin", f"--gin.MODEL_DIR='{tmp_path}/s'"]
    for context, owner in ((671, "InitialModel base"), (639, "Recipe")):
        assert study.main([*flags, f"--gin.llama.LlamaConfig.max_length={context}"]) == 1
        error = capsys.readouterr().err
        assert (
            error.startswith(f"error: {owner}: task_feature_lengths {{") and error.count("\n") == 1
        )
        assert f"allowed: {context} in all" in error
    factor = "--gin.models.DecoderOnlyModel.loss_normalizing_factor='NUM_TOTAL_TARGET_TOKENS'"
    assert study.main([*flags, factor]) == 1
    assert capsys.readouterr().err.startswith("error: Recipe: pack: 'batch', with which LOSS_NORM")
    assert not (tmp_path / "s").exists()
