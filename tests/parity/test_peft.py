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
from t5x_ext.convert import convert
from t5x_ext.models import DecoderOnlyModel, EncoderDecoderModel, network
from t5x_ext.models.lora import LoRA
from t5x_ext.models.parameters import join, map_specs
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.schedules import create_learning_rate_scheduler
from t5x_ext.training.optimizers import AdamW
from t5x_ext.training.trainer import Program, Trainer

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
theirs = pytest.importorskip("peft")

# All linear layers of a family, and a selection with other ranks and scales.
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
    adapter = peft.StoredAdapter(lora, params, str(directory))
    peft.write(str(tmp_path / "adapter"), config, adapter)
    rows = [pair.prompt for pair in make_pairs(base.config.vocab_size)]
    ours = our_logits(config, join(load_params(str(directory)), params), rows, lora)
    model = theirs.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    assert_equal(ours, token_logits(model, rows))


@pytest.mark.parametrize("variant", ["llama_gqa_tied", "mpt", "falcon_7b"])
def test_a_combination_is_peft_s_cat_and_loads_in_it(variant: str, tmp_path: Path) -> None:
    """Without rsLoRA in the first, with which PEFT scales its result by the root of its rank."""
    everything, one = DECODER_ONLY[variant]
    base = make_model(variant)
    directory = str(save(base, tmp_path / "base"))
    config = open_source(directory).config
    rows = [pair.prompt for pair in make_pairs(base.config.vocab_size)]
    kinds = {
        "one": dict(target_modules=everything.split(), rank_pattern={one: 2}),
        "two": dict(target_modules=[one], r=3, lora_alpha=5),
    }
    for seed, (name, settings) in enumerate(kinds.items()):
        with_adapter(make_model(variant), seed, **settings).save_pretrained(tmp_path / name)
    model = theirs.PeftModel.from_pretrained(base, tmp_path / "one", adapter_name="one").eval()
    alone = token_logits(model, rows)
    model.load_adapter(tmp_path / "two", "two")
    model.add_weighted_adapter(["one", "two"], [0.5, -2.0], "both", combination_type="cat")
    model.set_adapter("both")
    wanted = token_logits(model, rows)
    assert max(np.abs(a - b).max() for a, b in zip(alone, wanted, strict=True)) > 0.1

    paths, made = [str(tmp_path / name) for name in kinds], str(tmp_path / "made")
    convert(directory, made, "peft", combine=paths, weights=[0.5, -2.0])
    found = peft.read(made, config)
    params = join(load_params(directory), found.params)
    again = theirs.PeftModel.from_pretrained(make_model(variant), made).eval()
    for logits in (our_logits(config, params, rows, found.lora), token_logits(again, rows)):
        for ours, of_peft in zip(logits, wanted, strict=True):
            np.testing.assert_allclose(ours, of_peft, atol=1e-4)


STEPS, RATE = 20, 1e-3


@pytest.mark.slow(but="mpt")
@pytest.mark.parametrize("variant", ["llama_gqa_tied", "mpt", "falcon_7b"])
def test_twenty_steps_of_training_are_peft_s(variant: str, tmp_path: Path) -> None:
    """The same weights, batches and AdamW: losses and every tensor of the adapter stay together."""
    base = make_model(variant)
    directory = str(save(base, tmp_path / "base"))
    model = with_adapter(base, 3, target_modules=DECODER_ONLY[variant][0].split())
    model.save_pretrained(tmp_path / "start")
    rng = np.random.default_rng(4)
    rows = rng.integers(3, base.config.vocab_size, (STEPS, 4, 13))
    weights = rng.random((STEPS, 4, 12)) < 0.5  # of the tokens after the first
    wanted = torch_losses(model, rows, weights)
    model.save_pretrained(tmp_path / "end")

    config = open_source(directory).config
    start, end = (peft.read(tmp_path / name, config) for name in ("start", "end"))
    ours = DecoderOnlyModel(
        network.Transformer(config, start.lora), optimizer_def=AdamW(), z_loss=0.0
    )
    rate = create_learning_rate_scheduler("constant", RATE)
    program = Program(
        ours, PjitPartitioner(devices=jax.devices()[:1]), Trainer(learning_rate_fn=rate)
    )
    state = program.state_from_params(jax.tree.map(jax.numpy.asarray, start.params))
    key, frozen, losses = jax.random.key(0), load_params(directory), []
    for batch in map(as_batch, rows, weights):
        state, metrics = program.train_step(state, batch, key, frozen)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, wanted, atol=1e-4)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start.params, end.params)
    assert min(jax.tree.leaves(moved)) > 5 * RATE
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), state.params, end.params)


def torch_losses(model: Any, rows: np.ndarray, weights: np.ndarray) -> list[float]:
    """Tunes the adapter of a model of PEFT's, a step on each batch of ids [B, L + 1]."""
    own = [weight for name, weight in model.named_parameters() if "lora_" in name]
    for weight in own:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(own, lr=RATE, weight_decay=0.0)
    losses = []
    for ids, counted in zip(torch.from_numpy(rows), torch.from_numpy(weights), strict=True):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[counted], ids[:, 1:][counted])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def as_batch(rows: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The same rows as our features."""
    ids = rows.astype(np.int32)
    return {
        "decoder_input_tokens": ids[:, :-1],
        "decoder_target_tokens": ids[:, 1:],
        "decoder_loss_weights": weights.astype(np.int32),
        "decoder_segment_ids": np.ones_like(ids[:, 1:]),
        "decoder_positions": np.broadcast_to(
            np.arange(ids.shape[1] - 1, dtype=np.int32), weights.shape
        ),
    }


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
    peft.write(str(tmp_path / "ours"), config, peft.StoredAdapter(found.lora, found.params))
    base = model.unload()
    again = theirs.PeftModel.from_pretrained(base, str(tmp_path / "ours")).eval()
    np.testing.assert_allclose(in_torch(again), wanted, atol=1e-6)
