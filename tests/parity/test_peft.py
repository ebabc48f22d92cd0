"""Adapters go to PEFT and come from it with equal logits, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from decoder_only_twins import make_model, make_pairs, save, token_logits
from hf_twins import make_batch, make_twin

from t5x_ext.checkpoints import load_params, open_source, peft
from t5x_ext.models import DecoderOnlyModel, EncoderDecoderModel, network
from t5x_ext.models.lora import LoRA
from t5x_ext.models.parameters import join, map_specs

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
theirs = pytest.importorskip("peft")

# All linear layers of a family, and a selection with ranks and scales of its own.
DECODER_ONLY = {
    "llama_gqa_tied": ("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj", "v_proj"),
    "mpt": ("Wqkv out_proj up_proj down_proj", "Wqkv"),
    "falcon_7b": ("query_key_value dense dense_h_to_4h dense_4h_to_h", "query_key_value"),
    "falcon_40b": ("query_key_value dense dense_h_to_4h dense_4h_to_h", "query_key_value"),
}


def with_adapter(model: Any, seed: int, **settings: Any) -> Any:
    """A model of transformers with a random adapter; neither A nor B is zero."""
    settings = dict(r=4, lora_alpha=12, lora_dropout=0.0) | settings
    model = theirs.get_peft_model(model, theirs.LoraConfig(**settings)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if "lora_" in name:
                noise = torch.randn(weight.shape, generator=generator)
                weight.copy_(0.5 * noise * weight.shape[1] ** -0.5)
    return model


def our_logits(config, params, rows: list[list[int]], lora: LoRA) -> list[np.ndarray]:
    model = DecoderOnlyModel(module=network.Transformer(config, lora))
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    segments = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        segments[index, : len(row)] = 1
    batch = {"decoder_input_tokens": ids, "decoder_segment_ids": segments}
    logits = np.asarray(jax.jit(model.logits)(params, batch))
    return [values[: len(row)] for values, row in zip(logits, rows, strict=True)]


def assert_equal(ours: list[np.ndarray], torch_logits: list[np.ndarray]) -> None:
    for one, other in zip(ours, torch_logits, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", DECODER_ONLY)
@pytest.mark.parametrize("kind", ["all", "patterns"])
def test_peft_s_adapters_have_its_logits_here(variant: str, kind: str, tmp_path: Path) -> None:
    everything, one = DECODER_ONLY[variant]
    settings: dict[str, Any] = dict(target_modules=everything.split())
    if kind == "patterns":
        settings |= dict(use_rslora=True, rank_pattern={one: 2}, alpha_pattern={one: 3.0})
        settings |= dict(layers_to_transform=[1])
    base = make_model(variant)
    directory = save(base, tmp_path / "base")
    rows = [pair.prompt for pair in make_pairs(base.config.vocab_size)]
    before = token_logits(base, rows)
    model = with_adapter(base, 1, **settings)
    model.save_pretrained(tmp_path / "adapter")
    config = open_source(str(directory)).config
    found = peft.read(tmp_path / "adapter", config)
    wanted = token_logits(model, rows)
    params = join(load_params(str(directory)), found.params)
    assert_equal(our_logits(config, params, rows, found.lora), wanted)
    assert max(np.abs(a - b).max() for a, b in zip(before, wanted, strict=True)) > 0.1


@pytest.mark.parametrize("variant", DECODER_ONLY)
def test_our_adapters_have_our_logits_in_peft(variant: str, tmp_path: Path) -> None:
    base = make_model(variant)
    directory = save(base, tmp_path / "base")
    config = open_source(str(directory)).config
    lora = LoRA(rank=3, alpha=7.0, rank_pattern={"mlp/wo": 2}, alpha_pattern={"mlp/wo": 5.0})
    rng = np.random.default_rng(0)
    params = map_specs(
        lambda spec: (0.2 * rng.normal(size=spec.shape)).astype(np.float32),
        network.Transformer(config, lora).trainable,
    )
    peft.write(str(tmp_path / "adapter"), config, lora, params, None, str(directory))
    rows = [pair.prompt for pair in make_pairs(base.config.vocab_size)]
    ours = our_logits(config, join(load_params(str(directory)), params), rows, lora)
    model = theirs.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    assert_equal(ours, token_logits(model, rows))


def test_t5_goes_both_ways(tmp_path: Path) -> None:
    """Its three kinds of attention share suffixes, and stacks differ in depth."""
    twin = make_twin("t5_1_1", tmp_path / "base")
    config, batch = twin.source.config, make_batch(twin.source.config.vocab_size)
    given = {
        "input_ids": batch["encoder_input_tokens"],
        "attention_mask": batch["encoder_input_tokens"] > 0,
        "decoder_input_ids": batch["decoder_input_tokens"],
    }
    real = batch["decoder_target_tokens"] > 0

    def in_torch(model: Any) -> np.ndarray:
        tensors = {name: torch.from_numpy(np.array(x)).long() for name, x in given.items()}
        with torch.no_grad():
            return model(**tensors, use_cache=False).logits.numpy()[real]

    def here(found: peft.StoredAdapter) -> np.ndarray:
        model = EncoderDecoderModel(module=network.Transformer(config, found.lora))
        return np.asarray(jax.jit(model.logits)(join(twin.params, found.params), batch))[real]

    model = with_adapter(
        twin.torch_model, 2, target_modules=r".*(EncDecAttention\.(q|v)|encoder.*wi_0|wo)"
    )
    model.save_pretrained(tmp_path / "theirs")
    found = peft.read(tmp_path / "theirs", config)
    wanted = in_torch(model)
    np.testing.assert_allclose(here(found), wanted, atol=2e-4, rtol=1e-4)
    peft.write(str(tmp_path / "ours"), config, found.lora, found.params, None)
    base = model.unload()
    again = theirs.PeftModel.from_pretrained(base, str(tmp_path / "ours")).eval()
    np.testing.assert_allclose(in_torch(again), wanted, atol=1e-6)
