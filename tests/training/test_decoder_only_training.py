"""Decoder-only models train as T5 does: packed as unpacked, on meshes, in parts, side by side."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory
from t5x_ext.models import DecoderOnlyModel, parameters
from t5x_ext.models.falcon import FalconConfig
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.mpt import MptConfig
from t5x_ext.models.network import Transformer
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.schedules import create_learning_rate_scheduler
from t5x_ext.training.optimizers import AdamW
from t5x_ext.training.step import sum_gradients
from t5x_ext.training.trainer import Program, Trainer

SHAPE = {"vocab_size": 64, "emb_dim": 16, "num_layers": 2, "head_dim": 8, "mlp_dim": 32}
CONFIGS = {
    "llama": LlamaConfig(num_heads=4, num_kv_heads=2, **SHAPE),
    "mpt": MptConfig(num_heads=4, num_kv_heads=4, **SHAPE),
    "falcon_7b": FalconConfig(num_heads=4, num_kv_heads=1, **SHAPE),
    "falcon_40b": FalconConfig(num_heads=4, num_kv_heads=2, shared_norm=False, **SHAPE),
}
LENGTHS = {"inputs": 24, "targets": 8}


def make_model(family: str, **changes) -> DecoderOnlyModel:
    config = CONFIGS[family].replace(**changes)
    return DecoderOnlyModel(Transformer(config), optimizer_def=AdamW())


def make_batches(model: DecoderOnlyModel, batch_size: int, pack: bool, count: int = 24):
    rng = np.random.default_rng(3)

    def one(index: int) -> Example:
        prompt = rng.integers(0, 60, rng.integers(2, 20)).astype(np.int32)
        answer = rng.integers(0, 60, rng.integers(1, 8)).astype(np.int32)
        return Example(str(index), "t", "", prompt, (answer,), "", ("",), False)

    members = [in_memory("t", [one(index) for index in range(count)])]
    return TrainBatches(
        members, batch_size, LENGTHS, pack, seed=0, shuffle=False, features=model.features
    )


def sums(model: DecoderOnlyModel, params, batch, num_microbatches: int = 1):
    step = jax.jit(lambda p, b: sum_gradients(model, p, b, None, num_microbatches))
    return step(params, batch)


def assert_close(ours, expected, atol: float | None = None) -> None:
    """To `atol`, or to 1e-5 of an array's largest value: sums depend on a processor's order."""

    def check(a, b):
        bound = 1e-5 * max(1.0, np.abs(b).max()) if atol is None else atol
        np.testing.assert_allclose(a, b, atol=bound, rtol=1e-4)

    jax.tree.map(check, ours, expected)


@pytest.mark.slow(but="falcon_40b")
@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.optimised
def test_packed_equals_unpacked_with_all_gradients(family: str) -> None:
    model = make_model(family)
    params = model.init_params(jax.random.key(0))
    packed, info = make_batches(model, 16, pack=True).make(0, 0)
    unpacked, _ = make_batches(model, 24, pack=False).make(0, 0)
    assert len(info.ids) == 24 and packed["decoder_segment_ids"].max() > 1
    joined, joined_info = make_batches(model, 24, pack="batch").make(0, 0)
    assert joined_info.num_rows < 24
    expected = sums(model, params, unpacked)
    assert_close(sums(model, params, packed), expected)
    assert_close(sums(model, params, joined), expected)


@pytest.mark.slow
def test_microbatches_and_remat_change_no_gradient() -> None:
    model = make_model("llama")
    params = model.init_params(jax.random.key(0))
    batch, _ = make_batches(model, 24, pack=False).make(0, 0)
    expected = sums(model, params, batch)
    assert_close(sums(model, params, batch, num_microbatches=4), expected)
    for change in ({"remat_policy": "minimal"}, {"remat_policy": "full"}, {"scan_layers": False}):
        assert_close(sums(make_model("llama", **change), params, batch), expected)


def test_a_bidirectional_prompt_changes_the_prompt_alone() -> None:
    """The last prompt token sees the whole prompt either way, the ones before only with it."""
    plain = make_model("llama")
    whole = DecoderOnlyModel(plain.module, inputs_bidirectional_attention=True)
    params = plain.init_params(jax.random.key(1))
    batch, _ = make_batches(whole, 4, pack=True).make(0, 0)
    assert batch["decoder_causal_attention"].any()
    causal = {k: v for k, v in batch.items() if k != "decoder_causal_attention"}
    with_prefix, without = whole.logits(params, batch), plain.logits(params, causal)
    assert float(jnp.abs(with_prefix - without).max()) > 1e-3
    one_by_one = jnp.zeros_like(batch["decoder_causal_attention"])
    again = whole.logits(params, causal | {"decoder_causal_attention": one_by_one})
    np.testing.assert_allclose(again, without, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "mpt"])
def test_a_bidirectional_prompt_sees_itself_alone_in_a_packed_row(family: str) -> None:
    model = make_model(family).replace(inputs_bidirectional_attention=True)
    params = model.init_params(jax.random.key(0))
    packed, _ = make_batches(model, 16, pack=True).make(0, 0)
    unpacked, _ = make_batches(model, 24, pack=False).make(0, 0)
    assert packed["decoder_segment_ids"].max() > 1
    loss = jax.jit(lambda batch: model.loss_sums(params, batch, None))
    assert_close(loss(packed), loss(unpacked))


MESHES = {
    "data": dict(data=8),
    "fsdp": dict(data=1, fsdp=8),
    "all": dict(data=2, fsdp=2, model=2),
    "fsdp_model": dict(data=1, fsdp=4, model=2),
    "data_model": dict(data=4, model=2),
}


@functools.cache
def losses_of(family: str, mesh: str | None, num_microbatches: int) -> tuple[float, ...]:
    """Losses of three steps on packed rows, with dropout; on one device where there is no mesh."""
    one = PjitPartitioner(devices=jax.devices()[:1])
    partitioner = one if mesh is None else PjitPartitioner(**MESHES[mesh])
    model = make_model(family, dropout_rate=0.1)
    rate = create_learning_rate_scheduler("constant", base_learning_rate=1e-2)
    program = Program(model, partitioner, Trainer(num_microbatches, rate))
    state, found = program.init_state(jax.random.key(0)), []
    batches = make_batches(model, 16, pack=True, count=120)
    for _ in range(3):
        batch, info = next(batches)
        placed = {name: partitioner.put_rows(x, info.num_rows) for name, x in batch.items()}
        state, metrics = program.train_step(state, placed, jax.random.key(5))
        found.append(float(metrics["loss"]))
    batches.close()
    return tuple(found)


GRID = [(mesh, "llama", count) for mesh in MESHES for count in (1, 2)]
GRID += [(mesh, family, 1) for mesh in MESHES for family in CONFIGS if family != "llama"]


@pytest.mark.slow(but="fsdp-llama-1")
@pytest.mark.parametrize(("mesh", "family", "num_microbatches"), GRID)
def test_a_mesh_gives_the_run_of_one_device(mesh: str, family: str, num_microbatches: int) -> None:
    one = losses_of(family, None, num_microbatches)
    np.testing.assert_allclose(losses_of(family, mesh, num_microbatches), one, rtol=1e-5)


def test_parameter_counts_by_shapes() -> None:
    """LLaMA-2 7B and LLaMA-3 8B as published."""
    seven = LlamaConfig(
        vocab_size=32_000,
        emb_dim=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        mlp_dim=11_008,
    )
    eight = seven.replace(vocab_size=128_256, num_kv_heads=8, mlp_dim=14_336)
    counts = [parameters.count_params(Transformer(config).specs) for config in (seven, eight)]
    assert counts == [6_738_415_616, 8_030_261_248]
