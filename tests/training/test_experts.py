"""Models trained side by side equal models trained alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory
from t5x_ext.models import (
    BaseTransformerModel,
    DecoderOnlyModel,
    EncoderDecoderModel,
    network,
)
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.schedules import create_learning_rate_scheduler
from t5x_ext.training.experts import ExpertProgram, train_experts
from t5x_ext.training.optimizers import AdamW
from t5x_ext.training.trainer import Program, Trainer, train_loop

CONFIG = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=2,
    head_dim=8,
    mlp_dim=32,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.1,
)
LLAMA = LlamaConfig(
    vocab_size=64,
    emb_dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=32,
    dropout_rate=0.1,
)
MODEL = EncoderDecoderModel(network.Transformer(CONFIG), optimizer_def=AdamW())
MODELS: dict[str, BaseTransformerModel] = {
    "t5": MODEL,
    "llama": DecoderOnlyModel(network.Transformer(LLAMA), optimizer_def=AdamW()),
}
TRAINER = Trainer(learning_rate_fn=create_learning_rate_scheduler("constant", 1e-2))
STEPS = [6, 2, 9]


def batches(
    seed: int,
    pack: bool | str = False,
    batch_size: int = 4,
    model: BaseTransformerModel = MODEL,
) -> TrainBatches:
    rng = np.random.default_rng(seed)
    examples = [
        Example(
            id=f"{seed}-{i}",
            task="t",
            category="c",
            inputs=rng.integers(2, 64, rng.integers(9, 20)).astype(np.int32),
            targets=(rng.integers(2, 64, rng.integers(2, 8)).astype(np.int32),),
            inputs_pretokenized="",
            references=("",),
            truncated=False,
        )
        for i in range(10 + 3 * seed)
    ]
    return TrainBatches(
        [in_memory("t", examples)],
        batch_size=batch_size,
        lengths={"inputs": 32, "targets": 16},
        pack=pack,
        seed=seed,
        length_buckets={"inputs": (32,), "targets": (16,)} if model is MODEL else None,
        features=model.features,
    )


def program(partitioner: PjitPartitioner, model: BaseTransformerModel = MODEL) -> Program:
    return Program(model, partitioner, TRAINER)


@functools.cache
def alone(family: str) -> list:
    """Parameters and losses of three runs, one after the other on one device."""
    model = MODELS[family]
    single = program(PjitPartitioner(devices=tuple(jax.devices()[:1])), model)
    results = []
    for seed, steps in enumerate(STEPS):
        losses = []
        state = single.state_from_params(model.init_params(jax.random.key(7)))
        state = train_loop(
            single,
            state,
            batches(seed, model=model),
            steps,
            jax.random.key(seed),
            [lambda event, losses=losses: losses.append(float(event.metrics["loss"])) and None],
        )
        results.append((jax.tree.map(np.asarray, state.params), [losses[0], losses[-1]]))
    return results


@pytest.mark.slow(but="t5-{'expert': 2, 'fsdp': 2, 'model': 2}")
@pytest.mark.parametrize(
    ("family", "axes"),
    [
        ("t5", None),
        ("t5", dict(expert=4, data=2)),
        ("t5", dict(expert=2, fsdp=2, model=2)),
        ("llama", dict(expert=2, fsdp=2, model=2)),
    ],
    ids=str,
)
def test_side_by_side_equals_alone(family: str, axes: dict | None) -> None:
    devices, model = None if axes else tuple(jax.devices()[:1]), MODELS[family]
    mesh_program = program(PjitPartitioner(devices=devices, **(axes or {})), model)
    experts = ExpertProgram(mesh_program, num_experts=4)  # the fourth idles
    initial = mesh_program.init_state(jax.random.key(7)).params
    params, losses = train_experts(
        experts,
        experts.start(initial),
        [batches(seed, model=model) for seed in range(3)],
        STEPS,
        [jax.random.key(seed) for seed in range(3)],
    )
    for index, (expected, expected_losses) in enumerate(alone(family)):
        np.testing.assert_allclose(losses[index], expected_losses, rtol=1e-5)
        own = jax.tree.map(lambda x, index=index: np.asarray(x[index]), params)
        # AdamW divides by the root of a moment: where that is tiny, rounding is magnified.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), own, expected)
    # An expert without steps has not moved.
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[3], y), params, initial)


def test_the_mesh_splits_the_expert_axis() -> None:
    experts = ExpertProgram(program(PjitPartitioner(expert=4, fsdp=2)), num_experts=8)
    state = experts.start(MODEL.init_params(jax.random.key(0)))
    kernel = state.params["encoder"]["layers"]["mlp"]["wi_0"]["kernel"]  # [8, 2, 16, 32]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 2, 8, 32)}
    assert state.step.shape == (8,)


@pytest.mark.slow
def test_joined_batches_of_other_numbers_of_rows_train_side_by_side() -> None:
    model = EncoderDecoderModel(
        network.Transformer(CONFIG.replace(dropout_rate=0.0)), optimizer_def=AdamW()
    )
    single = Program(model, PjitPartitioner(devices=tuple(jax.devices()[:1])), TRAINER)
    initial = model.init_params(jax.random.key(7))
    keys = [jax.random.key(0)] * 2
    _, together = train_experts(
        ExpertProgram(single, 2),
        ExpertProgram(single, 2).start(initial),
        [batches(0, "batch", 4), batches(1, "batch", 8)],
        [3, 3],
        keys,
    )
    assert batches(0, "batch", 4).num_rows < batches(1, "batch", 8).num_rows
    for seed, size in ((0, 4), (1, 8)):
        losses: list[float] = []
        keep = [lambda event, losses=losses: losses.append(float(event.metrics["loss"])) and None]
        state = single.state_from_params(jax.tree.map(jnp.copy, initial))
        train_loop(single, state, batches(seed, False, size), 3, keys[0], keep)
        np.testing.assert_allclose(together[seed], [losses[0], losses[2]], rtol=1e-5)
