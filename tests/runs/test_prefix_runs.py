"""A prefix language model stays one: what a run was trained with, all that load it are told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gin
import jax
import pytest

from mixtures.vocabularies import bundled_vocabulary
from t5x_ext import Model, convert, infer, train
from t5x_ext import eval as eval_script
from t5x_ext.checkpoints import load_meta
from t5x_ext.checkpoints.peft.modules import OWN_FILE
from t5x_ext.errors import ConfigError
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.network import Transformer
from t5x_ext.partitioning import PjitPartitioner

CONFIG = LlamaConfig(
    vocab_size=768, emb_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=32
)
MODEL = [
    "--gin_file=models/llama_tiny.gin",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 8}",
    "--gin.MIXTURE_OR_TASK_NAME='task142_animal_entailment'",
    "--gin.PROMPT='tk.def'",
    "--gin.BATCH_SIZE=8",
]
PREFIX = "--gin.models.DecoderOnlyModel.inputs_bidirectional_attention=True"


@pytest.fixture(autouse=True)
def _forget_gin():
    yield
    gin.clear_config()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    params = Transformer(CONFIG).init(jax.random.key(0))
    one = PjitPartitioner(devices=jax.devices()[:1])
    model = Model(CONFIG, params, bundled_vocabulary(), one, inputs_bidirectional_attention=True)
    model.save(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_model_is_loaded_as_it_was_trained(saved: Path, tmp_path: Path) -> None:
    model = Model.load(str(saved))
    assert model.inputs_bidirectional_attention
    assert model._described.features.bidirectional_prompt
    prompts, answers = [[5, 9, 11, 3]], [[7, 2, 1]]
    causal = dataclasses.replace(model, inputs_bidirectional_attention=False)
    ours, theirs = (one.score_tokens(prompts, answers)[0] for one in (model, causal))
    assert ours != pytest.approx(theirs, abs=1e-5)
    causal.save(str(tmp_path / "causal"))
    assert not Model.load(str(tmp_path / "causal")).inputs_bidirectional_attention


def test_transformers_would_read_it_otherwise(saved: Path, tmp_path: Path) -> None:
    for write in (
        lambda path: Model.load(str(saved)).save(path, "hf"),
        lambda path: convert.convert(str(saved), path, "hf"),
    ):
        with pytest.raises(
            ConfigError, match="trained with inputs_bidirectional_attention, and tr"
        ):
            write(str(tmp_path / "hf"))
    assert not (tmp_path / "hf").exists()
    convert.convert(str(saved), str(tmp_path / "ours"), "t5x_ext")
    assert Model.load(str(tmp_path / "ours")).inputs_bidirectional_attention


@pytest.mark.parametrize(("command", "what"), [(eval_script, "EVAL"), (infer, "INFER")])
def test_commands_refuse_another_mask(command, what: str, saved: Path, tmp_path: Path, capsys):
    flags = [*MODEL, f"--gin_file=runs/{what.lower()}.gin", f"--gin.CHECKPOINT_PATH='{saved}'"]
    assert command.main([*flags, f"--gin.{what}_OUTPUT_DIR='{tmp_path / 'out'}'"]) == 1
    assert capsys.readouterr().err == (
        "error: DecoderOnlyModel.inputs_bidirectional_attention: False; allowed: True, with which "
        f"{saved} was trained\n"
    )


@pytest.mark.slow
def test_a_run_and_an_adapter_over_it_say_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("SUPERNI_DIR", raising=False)
    common = [*MODEL, "--gin_file=runs/train.gin", "--gin.BUDGET=8", "--gin.TRAIN_STEPS=1"]
    whole, adapter = tmp_path / "whole", tmp_path / "adapter"
    assert train.main([*common, PREFIX, f"--gin.MODEL_DIR='{whole}'"]) == 0
    assert load_meta(str(whole))["inputs_bidirectional_attention"] is True
    flags = [f"--gin.INITIAL_CHECKPOINT_PATH='{whole}'", "--gin.LORA_RANK=2", "--gin.TRAIN_STEPS=2"]
    assert train.main([*common, *flags, f"--gin.MODEL_DIR='{adapter}'"]) == 0
    assert Model.load(str(whole)).inputs_bidirectional_attention
    assert not Model.load(str(adapter)).inputs_bidirectional_attention
    peft = tmp_path / "peft"
    convert.convert(str(adapter), str(peft), "peft")
    both = {"one": str(adapter), "two": str(peft)}
    assert not Model.load(str(whole), adapters=both).inputs_bidirectional_attention
    (peft / OWN_FILE).unlink()  # as of PEFT itself: it was tuned as its base
    assert Model.load(str(whole), adapter=str(peft)).inputs_bidirectional_attention
    with pytest.raises(ConfigError, match="adapters one, two were tuned with and without"):
        Model.load(str(whole), adapters=both)
    flags = ["--gin_file=runs/eval.gin", f"--gin.CHECKPOINT_PATH='{whole}'", PREFIX]
    output = f"--gin.EVAL_OUTPUT_DIR='{tmp_path / 'out'}'"
    assert eval_script.main([*MODEL, *flags, output, "--gin.SPLIT='validation'"]) == 0
