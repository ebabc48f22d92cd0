"""The train step: packing, microbatches and meshes change how it is computed, not the result."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext import schedules
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory
from t5x_ext.models import EncoderDecoderModel, network, parameters
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.training import optimizers
from t5x_ext.training.state import state_shardings
from t5x_ext.training.step import sum_gradients
from t5x_ext.training.trainer import Program, Trainer, train_loop

CONFIG = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=4,
    head_dim=8,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_dim=32,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.0,
)
LENGTHS = {"inputs": 48, "targets": 16}


def make_model(optimizer=None, **changes) -> EncoderDecoderModel:
    config = dataclasses.replace(CONFIG, **changes)
    return EncoderDecoderModel(
        network.Transformer(config), optimizer_def=optimizer or optimizers.AdamW()
    )


def make_examples(count: int) -> list[Example]:
    rng = np.random.default_rng(0)

    def tokens(low: int, high: int) -> np.ndarray:
        return np.append(rng.integers(3, 64, rng.integers(low, high)), 1).astype(np.int32)

    return [
        Example(f"e{i}", "task", "", tokens(3, 20), (tokens(1, 8),), "", ("x",), False)
        for i in range(count)
    ]


def make_batches(count: int, batch_size: int, pack: bool | str) -> TrainBatches:
    return TrainBatches(
        [in_memory("task", make_examples(count))], batch_size, LENGTHS, pack, seed=0
    )


def run(
    partitioner: PjitPartitioner,
    microbatches: int,
    steps: int,
    optimizer=None,
    pack=True,
    **changes,
):
    trainer = Trainer(microbatches, schedules.create_learning_rate_scheduler("constant", 1e-2))
    program = Program(make_model(optimizer, **changes), partitioner, trainer)
    losses: list[jax.Array] = []
    state = train_loop(
        program,
        program.init_state(jax.random.key(0)),
        make_batches(200, 8, pack),
        steps,
        jax.random.key(1),
        [lambda event: losses.append(event.metrics["loss"])],
    )
    return np.array([float(x) for x in losses]), jax.device_get(state.params), state


def loss_sums(model: EncoderDecoderModel):
    """The model's loss, compiled: op by op it would take a minute."""
    return jax.jit(lambda weights, batch: model.loss_sums(weights, batch, None))


def gradients(model: EncoderDecoderModel, weights, batch, microbatches: int = 1):
    return jax.jit(lambda w, b: sum_gradients(model, w, b, None, microbatches))(weights, batch)


@pytest.mark.slow
def test_the_step_of_a_joined_batch_is_that_of_the_padded_one() -> None:
    padded, joined = (make_batches(24, 12, pack) for pack in (False, "batch"))
    model = make_model(dropout_rate=0.0)
    weights = model.init_params(jax.random.key(0))
    for step in range(2):
        (batch, _), (fewer, info) = (each.make(0, step) for each in (padded, joined))
        assert info.num_rows <= 6
        expected, sums = gradients(model, weights, batch)
        found, same_sums = gradients(model, weights, fewer)
        np.testing.assert_allclose(same_sums.loss, sums.loss, rtol=1e-6)
        assert same_sums.weight == sums.weight
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
        )


def test_packed_loss_is_the_mean_over_unpacked_examples() -> None:
    model = make_model()
    weights = model.init_params(jax.random.key(0))
    packed, info = make_batches(24, 12, pack=True).make(0, 0)
    assert len(info.ids) == 24  # all examples are in this batch, several to a row
    compiled = loss_sums(model)
    sums = compiled(weights, packed)
    total = weight = 0.0
    for example in make_examples(24):
        alone = TrainBatches([in_memory("task", [example])], 1, LENGTHS, pack=False, seed=0)
        one = compiled(weights, alone.make(0, 0)[0])
        total, weight = total + float(one.loss), weight + float(one.weight)
    assert float(sums.weight) == weight
    assert float(sums.loss) / weight == pytest.approx(total / weight, abs=1e-5)


@pytest.mark.optimised
def test_packed_gradient_is_the_unpacked_gradient() -> None:
    model = make_model()
    weights = model.init_params(jax.random.key(0))
    packed, _ = make_batches(24, 12, pack=True).make(0, 0)
    unpacked, _ = make_batches(24, 24, pack=False).make(0, 0)
    grads = [gradients(model, weights, batch)[0] for batch in (packed, unpacked)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), *grads)


@pytest.mark.slow(but="None")
@pytest.mark.parametrize("factor", ["NUM_REAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE", 100.0, None])
def test_microbatched_gradient_is_the_full_batch_gradient(factor) -> None:
    model = dataclasses.replace(make_model(), loss_normalizing_factor=factor)
    weights = model.init_params(jax.random.key(0))
    batch, _ = make_batches(60, 8, pack=True).make(0, 0)
    whole, whole_sums = gradients(model, weights, batch)
    parts, part_sums = gradients(model, weights, batch, 4)
    np.testing.assert_allclose(part_sums, whole_sums, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), whole, parts)


@pytest.mark.slow
def test_memory_does_not_grow_with_microbatches() -> None:
    batch, _ = make_batches(400, 32, pack=True).make(0, 0)

    def peak_temporary_bytes(microbatches: int) -> int:
        trainer = Trainer(microbatches, schedules.create_learning_rate_scheduler("constant"))
        program = Program(make_model(), PjitPartitioner(devices=jax.devices()[:1]), trainer)
        lowered = program.train_step.lower(program.abstract_state(), batch, jax.random.key(0))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    one, four = peak_temporary_bytes(1), peak_temporary_bytes(4)
    assert four < 0.6 * one


@pytest.mark.slow
def test_position_tables_of_each_layer_train_on_a_mesh_as_on_one_device() -> None:
    one = PjitPartitioner(devices=jax.devices()[:1])
    losses_one, params, _ = run(one, 1, 6, position_table_per_layer=True)
    losses, _, _ = run(PjitPartitioner(fsdp=4, model=2), 1, 6, position_table_per_layer=True)
    np.testing.assert_allclose(losses, losses_one, atol=1e-4)
    assert losses_one[-1] < losses_one[0]
    start = make_model(position_table_per_layer=True).init_params(jax.random.key(0))
    for stack in ("encoder", "decoder"):
        tables = params[stack]["layers"]["relpos_bias"]["rel_embedding"]
        first, second = np.abs(tables - start[stack]["layers"]["relpos_bias"]["rel_embedding"])
        assert first.max() > 1e-3 and second.max() > 1e-3
        assert np.abs(first - second).max() > 1e-4  # each by its own gradient


@pytest.mark.slow
def test_adafactor_trains_on_a_mesh_as_on_one_device() -> None:
    optimizer = optimizers.Adafactor()
    one = PjitPartitioner(devices=jax.devices()[:1])
    losses_one, _, _ = run(one, 1, 8, optimizer)
    losses, _, _ = run(PjitPartitioner(fsdp=4, model=2), 1, 8, optimizer)
    np.testing.assert_allclose(losses, losses_one, atol=1e-4)
    assert losses_one[-1] < losses_one[0]


def test_full_sized_slots_of_adafactor_are_split_like_their_parameters() -> None:
    model = make_model(optimizers.Adafactor(beta1=0.9, factored=False))
    partitioner = PjitPartitioner(fsdp=4, model=2)
    optimizer = model.optimizer_def.build(parameters.param_axes(model.specs))
    layout = state_shardings(model, optimizer, partitioner)
    for slot in ("v", "m"):
        slots = layout.opt_state.slots["encoder"]["layers"]["mlp"]["wi_0"]["kernel"]
        assert tuple(getattr(slots, slot).spec) == (None, "fsdp", "model")


def test_training_learns_to_copy() -> None:
    losses, _, _ = run(PjitPartitioner(devices=jax.devices()[:1]), 1, 60)
    assert losses[0] > 4.0  # about log(64)
    assert losses[-1] < 0.75 * losses[0]


def test_dropout_key_depends_on_the_step_and_the_run() -> None:
    model = make_model(dropout_rate=0.5)
    weights = model.init_params(jax.random.key(0))
    batch, _ = make_batches(24, 12, pack=True).make(0, 0)
    key = jax.random.key(0)
    loss = jax.jit(lambda step: model.loss_sums(weights, batch, jax.random.fold_in(key, step)).loss)
    first, again, other = loss(0), loss(0), loss(1)
    assert float(first) == float(again) != float(other)


def test_loss_weights_of_zero_take_rows_out() -> None:
    model = make_model()
    weights = model.init_params(jax.random.key(0))
    full, _ = make_batches(3, 3, pack=False).make(0, 0)
    filled, _ = make_batches(3, 8, pack=False).make(0, 0)  # five filler rows
    one, other = (loss_sums(model)(weights, batch) for batch in (full, filled))
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert jnp.isfinite(other.loss)
