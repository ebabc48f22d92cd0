"""Every mesh gives the single-device run: its losses, its parameters, in the shards promised.

Eight virtual devices, packed rows, dropout off, float32.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from t5x_ext import schedules
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory
from t5x_ext.models import EncoderDecoderModel, network, parameters
from t5x_ext.partitioning import PjitPartitioner, standard_logical_axis_rules
from t5x_ext.training.optimizers import AdamW
from t5x_ext.training.trainer import Program, Trainer

STEPS = 20
ROWS = 32  # 8 batch shards x 4 microbatches
LENGTHS = {"inputs": 24, "targets": 12}
MODEL = EncoderDecoderModel(
    network.Transformer(
        network.T5Config(
            vocab_size=64,
            emb_dim=16,
            num_heads=4,
            head_dim=6,
            num_encoder_layers=2,
            num_decoder_layers=2,
            mlp_dim=40,
            mlp_activations=("gelu", "linear"),
            dropout_rate=0.0,
        )
    ),
    optimizer_def=AdamW(),
)
# The mesh axis that splits each logical axis of a parameter, as docs and gin files promise it.
SPLIT_BY = {
    "embed": "fsdp",
    "joined_kv": "model",
    "heads": "model",
    "mlp": "model",
    "vocab": "model",
}
MESHES = {
    "8x1x1": dict(data=8),
    "1x8x1": dict(fsdp=8),
    "2x2x2": dict(data=2, fsdp=2, model=2),
    "1x2x4": dict(fsdp=2, model=4),
    "4x1x2": dict(data=4, model=2),
}


class Run(NamedTuple):
    losses: np.ndarray
    state: Any


def make_batches() -> list[dict[str, np.ndarray]]:
    """Packed batches: most rows hold two or three examples."""
    rng = np.random.default_rng(0)

    def tokens(low: int, high: int) -> np.ndarray:
        return np.append(rng.integers(3, 64, rng.integers(low, high)), 1).astype(np.int32)

    examples = [
        Example(f"e{i}", "task", "", tokens(3, 16), (tokens(1, 6),), "", ("x",), False)
        for i in range(500)
    ]
    batches = TrainBatches([in_memory("task", examples)], ROWS, LENGTHS, pack=True, seed=0)
    made = [batches.make(0, step)[0] for step in range(4)]
    assert max(batch["encoder_segment_ids"].max() for batch in made) > 1
    return made


def make_program(partitioner: PjitPartitioner, num_microbatches: int) -> Program:
    rate = schedules.create_learning_rate_scheduler("constant", 1e-3)
    return Program(MODEL, partitioner, Trainer(num_microbatches, rate))


@functools.cache
def first_state() -> Any:
    """On the host; making it on each mesh would take longer than training."""
    one = PjitPartitioner(devices=tuple(jax.devices()[:1]))
    return jax.device_get(make_program(one, 1).init_state(jax.random.key(0)))


def train(partitioner: PjitPartitioner, num_microbatches: int) -> Run:
    program = make_program(partitioner, num_microbatches)
    layout = jax.tree.map(lambda array: array.sharding, program.abstract_state())
    state = jax.device_put(first_state(), layout)
    key, batches, losses = jax.random.key(1), make_batches(), []
    for step in range(STEPS):
        batch = batches[step % len(batches)]
        placed = {name: partitioner.put_whole(rows) for name, rows in batch.items()}
        state, metrics = program.train_step(state, placed, key)
        losses.append(metrics["loss"])
    return Run(np.array(jax.device_get(losses)), state)


@pytest.fixture(scope="module")
def one_device() -> Run:
    return train(PjitPartitioner(devices=jax.devices()[:1]), 1)


@pytest.mark.slow(but="1x8x1-4")
@pytest.mark.parametrize("num_microbatches", [1, 4])
@pytest.mark.parametrize("name", MESHES)
def test_mesh_gives_the_run_of_one_device(name, num_microbatches, one_device) -> None:
    mesh = MESHES[name]
    losses, state = train(PjitPartitioner(**mesh), num_microbatches)

    assert one_device.losses[-1] < one_device.losses[0] - 0.1  # it does learn something
    np.testing.assert_allclose(losses, one_device.losses, atol=1e-5)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5),
        jax.device_get(state.params),
        jax.device_get(one_device.state.params),
    )
    adam = state.opt_state[1]
    for tree in (state.params, adam.mu, adam.nu):
        jax.tree.map(
            lambda array, axes: assert_lives_in_its_shards(array, axes, mesh),
            tree,
            parameters.param_axes(MODEL.specs),
        )


@pytest.mark.slow
def test_width_of_activations_and_parameters_over_two_mesh_axes_gives_the_same_run(
    one_device,
) -> None:
    """T5X's activation_partitioning_dims and parameter_partitioning_dims."""
    rules = standard_logical_axis_rules(
        activation_partitioning_dims=2, parameter_partitioning_dims=2
    )
    losses, state = train(PjitPartitioner(data=2, fsdp=2, model=2, logical_axis_rules=rules), 1)
    np.testing.assert_allclose(losses, one_device.losses, atol=1e-5)
    kernel = state.params["encoder"]["layers"]["mlp"]["wi_0"]["kernel"]  # [layers, embed, mlp]
    assert tuple(kernel.sharding.spec) == (None, ("data", "fsdp"), "model")
    scale = state.params["encoder"]["encoder_norm"]["scale"]
    assert tuple(scale.sharding.spec) == ("model",)


def assert_lives_in_its_shards(array: jax.Array, axes: tuple[str, ...], mesh: dict) -> None:
    """Each device holds its part of every axis that the table splits, and nothing more."""
    parts = [mesh.get(SPLIT_BY.get(axis), 1) for axis in axes]
    part_shape = tuple(size // n for size, n in zip(array.shape, parts, strict=True))
    shards = array.addressable_shards
    assert len(shards) == 8
    assert {shard.data.shape for shard in shards} == {part_shape}
    # As many different parts as there should be; the rest are copies.
    assert len({str(shard.index) for shard in shards}) == np.prod(parts)
