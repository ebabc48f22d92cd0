"""Whole networks with adapters give the logits that PEFT and bitsandbytes gave."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_ext import Model
from t5x_ext.checkpoints import load_params, open_source
from t5x_ext.checkpoints.adapters import open_adapter
from t5x_ext.checkpoints.combining import combine
from t5x_ext.models.decoder_only import DecoderOnlyModel
from t5x_ext.models.merging import Product, find_products
from t5x_ext.models.network import Transformer
from t5x_ext.models.parameters import join

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "specialization" / "goldens"


@pytest.fixture(scope="module")
def goldens() -> Path:
    if not GOLDENS.is_dir():
        pytest.skip(f"golden adapters not found at {GOLDENS}")
    return GOLDENS


def test_rows_of_two_adapters_and_of_none_in_one_batch(goldens) -> None:
    row = rows_by_id(goldens / "lora_many.jsonl")["lm-batch"]
    named = {name: str(goldens / "adapters" / name) for name in row["adapters"] if name}
    model = Model.load(str(goldens / "models" / row["model"]), adapters=named)
    found = model.token_logits(row["inputs"], adapter=row["adapters"])
    for logits, wanted in zip(found, row["last_logits"], strict=True):
        np.testing.assert_allclose(logits[-1], wanted, atol=1e-5, rtol=0)


def test_a_weighted_sum_of_two_adapters(goldens) -> None:
    row = rows_by_id(goldens / "lora_many.jsonl")["lm-cat1_0"]
    base = str(goldens / "models" / row["model"])
    config, params = open_source(base).config, load_params(base)
    each = [open_adapter(str(goldens / "adapters" / name), config) for name in row["adapters"]]
    combined = combine(each, row["weights"], config)
    model = DecoderOnlyModel(module=Transformer(config, combined.lora))
    ids = np.array([row["input_ids"]], np.int32)
    batch = {"decoder_input_tokens": ids, "decoder_segment_ids": np.ones_like(ids)}
    found = jax.jit(model.logits)(join(params, combined.params), batch)
    np.testing.assert_allclose(found[0, -1], row["last_logits"], atol=1e-5, rtol=0)


def test_a_base_of_codes_with_and_without_an_adapter(goldens) -> None:
    """Kernels stay in four bits up to the product that uses them."""
    row = json.loads((goldens / "qlora_forward.json").read_text())
    base, adapter = str(goldens / "models" / row["model"]), goldens / "adapters" / row["adapter"]
    model = Model.load(base, adapters={"one": str(adapter)}, quantization="nf4")
    found, bare = model.token_logits([row["input_ids"]] * 2, adapter=["one", None])
    np.testing.assert_allclose(found[-1], row["last_logits"], atol=5e-5, rtol=0)
    np.testing.assert_allclose(bare[-1], row["without_adapter_last_logits"], atol=5e-5, rtol=0)
    assert found.argmax(-1).tolist() == row["argmax_each_position"]


@pytest.mark.parametrize(
    "name", ["llama_biomedicine", "llama_finance", "llama_rslora", "mpt_biomedicine"]
)
def test_what_an_adapter_adds_to_one_kernel(goldens, name) -> None:
    directory = goldens / "adapters" / name
    config = open_source(str(goldens / "models" / name.split("_")[0])).config
    adapter = open_adapter(str(directory), config)
    module = "mlp/wi" if name.startswith("mpt") else "self_attention/query"
    kernel = f"decoder/layers/{module}/kernel"
    product = find_products(config, adapter.lora, adapter.params)[kernel]
    every = slice(None)
    zero = np.zeros((product.a.shape[1], product.b.shape[2]), np.float32)
    found = product.of_layer(0, every, every).add_to(zero)
    wanted = np.load(directory / "delta_of_one_module.npz")["delta"]
    np.testing.assert_allclose(found.T, wanted, atol=1e-6, rtol=1e-5)


def test_a_stored_weight_of_the_other_orientation_gets_the_same_product(goldens) -> None:
    """`fan_in_fan_out` is about the base's weight alone: A and B are stored alike."""
    golden = np.load(goldens / "lora_fan_in_fan_out.npz")
    product = Product(golden["lora_A"].T, float(golden["scaling"]) * golden["lora_B"].T)
    merged = product.add_to(golden["weight_in_out"])
    np.testing.assert_allclose(merged - golden["weight_in_out"], golden["delta_in_out"], atol=1e-6)
    np.testing.assert_allclose(golden["x"] @ merged + golden["bias"], golden["y"], atol=1e-5)


def rows_by_id(path: Path) -> dict[str, dict]:
    return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
