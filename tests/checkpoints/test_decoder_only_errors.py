"""Decoder-only directories that are damaged, or ask for what we do not compute: one line each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gin
import numpy as np
import pytest
from hf_checkpoints import edit_config, make_checkpoint, read_arrays, write_arrays

from mixtures.vocabularies import bundled_vocabulary, save_tokenizer
from t5x_ext import eval as eval_script
from t5x_ext import infer, train
from t5x_ext.checkpoints import load, open_source
from t5x_ext.convert import main
from t5x_ext.errors import ConfigError
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.falcon import FalconConfig
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.mpt import MptConfig

SIZES: dict[str, Any] = dict(vocab_size=50, emb_dim=24, num_layers=2, num_heads=6, mlp_dim=96)
FAMILIES: dict[str, ModelConfig] = {
    "llama": LlamaConfig(**SIZES, num_kv_heads=2, head_dim=4),
    "mpt": MptConfig(**SIZES, num_kv_heads=6, head_dim=4),
    "falcon": FalconConfig(**SIZES, num_kv_heads=1, head_dim=4),
}
# What config.json is changed to, and what is said of it.
REFUSED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "llama": [
        ({"sliding_window": 128}, "sliding_window is 128, .*max_position_embeddings, 2048"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "has 'sliding_attention'"),
        ({"attention_bias": True}, "attention_bias is True, which is not supported"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"num_local_experts": 8}, "num_local_experts is 8"),
        ({"hidden_act": "relu2"}, "hidden_act is 'relu2', .* allowed: silu"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type is 'yarn', .*'llama3'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "type is 'linear'"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_type is 'dynamic'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is None"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "rope_theta is 10000.0, but .* 500000.0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        (
            {"num_key_value_heads": 4},
            "config.json: LlamaConfig.num_kv_heads: 4; allowed: a divisor",
        ),
        ({"num_key_value_heads": 3}, r"k_proj.weight is \[8, 24\], config.json needs .*=12"),
        (
            {"tie_word_embeddings": True, "hidden_size": 48},
            r"norm.weight is \[24\], config.json needs \[hidden_size=48\]",
        ),
        ({"num_hidden_layers": 10**9}, "1000000000 layers in a stack, but .* tensors"),
        ({"vocab_size": 51}, "vocab_size=51"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ({"model_type": "mixtral"}, "'mixtral' is not supported .*mixtures of experts"),
    ],
    "mpt": [
        ({"attn_config": {"alibi": False}}, "attn_config: alibi is False"),
        ({"attn_config": {"qk_ln": True}}, "attn_config: qk_ln is True"),
        ({"attn_config": {"prefix_lm": True}}, "prefix_lm is True"),
        ({"attn_config": {"attn_type": "multiquery_attention"}}, "'multiquery_attention'"),
        ({"attn_config": {"softmax_scale": 0.25}}, "softmax_scale is 0.25.*allowed: None, 0.5"),
        ({"attn_config": {"clip_qkv": -1}}, "clip_qkv is -1; allowed: a number > 0"),
        ({"no_bias": False}, "no_bias is False"),
        ({"logit_scale": 0.5}, "logit_scale is 0.5"),
        ({"n_heads": 5}, "n_heads is 5; allowed: a divisor of d_model, 24"),
        ({"tie_word_embeddings": False}, "False, but there is no lm_head.weight"),
    ],
    "falcon": [
        ({"alibi": True}, "alibi is True"),
        ({"bias": True}, "bias is True"),
        ({"parallel_attn": False}, "parallel_attn is False"),
        ({"activation": "swiglu"}, "activation is 'swiglu'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_type is 'llama3'.*allowed: 'default'"),
        ({"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn is 2"),
        ({"multi_query": False}, "num_kv_heads is 1; allowed .* num_attention_heads, 6"),
        (
            {"new_decoder_architecture": True, "num_kv_heads": 2},
            "missing: .*ln_mlp.* unknown: .*input_layernorm",
        ),
    ],
}
CASES = [(family, *case) for family, cases in REFUSED.items() for case in cases]


@pytest.mark.parametrize(
    ("family", "change", "message"), CASES, ids=[f"{f}-{json.dumps(c)}" for f, c, _ in CASES]
)
def test_a_config_that_lies_or_asks_for_more_is_refused_in_one_line(
    family: str, change: dict[str, Any], message: str, tmp_path: Path, capsys
) -> None:
    directory = make_checkpoint(tmp_path / "hf", FAMILIES[family])
    edit_config(directory, **change)
    with pytest.raises(ConfigError, match=message):
        open_source(str(directory))
    assert main([str(directory), str(tmp_path / "out"), "--to", "t5x_ext"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    assert str(directory) in captured.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tensor_of_another_shape_is_named(family: str, tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "hf", FAMILIES[family])
    arrays = read_arrays(directory)
    name = next(n for n in arrays if "Wqkv" in n or "query_key_value" in n or "q_proj" in n)
    write_arrays(directory, arrays | {name: np.ascontiguousarray(arrays[name][:-1])})
    with pytest.raises(ConfigError, match=f"1 of another shape: {name} is "):
        open_source(str(directory))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_and_an_unknown_tensor_are_named(family: str, tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "hf", FAMILIES[family])
    arrays = read_arrays(directory)
    arrays["transformer.wpe.weight"] = arrays.pop(max(arrays))
    write_arrays(directory, arrays)
    with pytest.raises(ConfigError, match="1 missing: .*1 unknown: transformer.wpe.weight"):
        open_source(str(directory))


@pytest.mark.parametrize("family", ["mpt", "falcon"])
def test_the_head_follows_the_tensors(family: str, tmp_path: Path) -> None:
    """A copy of the embedding is left out where they are said to be tied; another head is used."""
    directory = make_checkpoint(tmp_path / "hf", FAMILIES[family])
    arrays = read_arrays(directory)
    table = next(a for n, a in arrays.items() if "wte" in n or "word_embeddings" in n)
    for head, tied in ((table, True), (table + 1, False)):
        write_arrays(directory, arrays | {"lm_head.weight": head})
        source = open_source(str(directory))
        assert source.config.logits_via_embedding is tied
        assert ("decoder/logits_dense/kernel" in source.tensors) is not tied


def test_an_mpt_that_transformers_cannot_hold_is_not_written(tmp_path: Path) -> None:
    """Its feed-forward block has 4 times the width, whatever `expansion_ratio` says."""
    directory = make_checkpoint(tmp_path / "mpt", FAMILIES["mpt"])
    assert json.loads((directory / "config.json").read_text())["expansion_ratio"] == 4
    message = "^MptConfig.mlp_dim: 48; allowed: 4 times emb_dim, 96, as transformers has it"
    with pytest.raises(ConfigError, match=message):
        make_checkpoint(tmp_path / "narrow", FAMILIES["mpt"].replace(mlp_dim=48))
    assert not (tmp_path / "narrow").exists()


OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"rope_theta": 5e5}, "LlamaConfig.rope_theta: 10000.0; allowed: 500000.0"),
    ("llama", {"norm_epsilon": 1e-6}, "LlamaConfig.norm_epsilon: 1e-05; allowed: 1e-06"),
    ("llama", {"rope_scaling_factor": 8.0}, "rope_scaling_factor: 1.0; allowed: 8.0"),
    ("llama", {"num_heads": 3, "num_kv_heads": 1, "head_dim": 8}, "num_heads: 6; allowed: 3"),
    ("mpt", {"clip_qkv": 6.0}, "MptConfig.clip_qkv: None; allowed: 6.0"),
    ("mpt", {"alibi_bias_max": 16.0}, "MptConfig.alibi_bias_max: 8.0; allowed: 16.0"),
    ("falcon", {"mlp_activations": ("relu",)}, "mlp_activations: .'gelu_exact',.; allowed: .'relu"),
]


@pytest.mark.parametrize(("family", "change", "message"), OTHERS)
def test_a_network_that_computes_something_else_is_not_given_the_weights(
    family: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """No tensor's shape shows it: LLaMA 3.1 8B has those of LLaMA 3 8B."""
    config = FAMILIES[family]
    directory = make_checkpoint(tmp_path / "hf", config.replace(**change))
    with pytest.raises(ConfigError, match=f"{message}.*, as {directory} states"):
        load(str(directory), config=config)
    of_a_run = dict(dtype="bfloat16", dropout_rate=0.1, max_length=64, attention="xla")
    load(str(directory), config=config.replace(**change, **of_a_run))


@pytest.mark.parametrize("command", [train, eval_script, infer])
def test_commands_refuse_a_gin_file_of_another_model(command, tmp_path: Path, capsys) -> None:
    config = LlamaConfig(
        vocab_size=768,
        emb_dim=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        mlp_dim=128,
        norm_epsilon=1e-6,
        rope_theta=5e5,
    )  # of models/llama_tiny.gin, but for the last
    directory = make_checkpoint(tmp_path / "hf", config)
    save_tokenizer(bundled_vocabulary(), str(directory))
    name = {train: "train", eval_script: "eval", infer: "infer"}[command]
    place = {train: "MODEL_DIR"}.get(command, f"{name.upper()}_OUTPUT_DIR")
    start = "INITIAL_CHECKPOINT_PATH" if command is train else "CHECKPOINT_PATH"
    flags = {
        "TASK_FEATURE_LENGTHS": {"inputs": 96, "targets": 8},
        "MIXTURE_OR_TASK_NAME": "task142_animal_entailment",
        "PROMPT": "tk.def",
        "BATCH_SIZE": 8,
        place: str(tmp_path / "out"),
        start: str(directory),
        **({"BUDGET": 8, "TRAIN_STEPS": 1} if command is train else {}),
    }
    files = ["--gin_file=models/llama_tiny.gin", f"--gin_file=runs/{name}.gin"]
    try:
        bindings = [f"--gin.{key}={value!r}" for key, value in flags.items()]
        assert command.main([*files, *bindings]) == 1
    finally:
        gin.clear_config()
    said = f"error: LlamaConfig.rope_theta: 10000.0; allowed: 500000.0, as {directory} states"
    assert capsys.readouterr().err.splitlines()[-1] == said
