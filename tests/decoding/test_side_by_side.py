"""Models that decode side by side give the tokens that each gives alone."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.data.records import Example
from t5x_ext.decoding import Beam, Greedy, Method, Sampling, placement
from t5x_ext.decoding.adapters import gather_by_slot
from t5x_ext.decoding.batches import Batching
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.loop import Prompts
from t5x_ext.decoding.outputs import Output
from t5x_ext.decoding.predict import predict, predict_by_adapter
from t5x_ext.decoding.requests import Request
from t5x_ext.models import EncoderDecoderModel, network, parameters
from t5x_ext.models.lora import LoRA
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner

CONFIG = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=32,
    mlp_activations=("gelu", "linear"),
)
METHODS = {
    "greedy": Greedy(),
    "sampling": Sampling(num_samples=2, top_p=0.95, seed=1),
    "t5x": Beam(num_beams=3),
}
SIZES = (23, 5, 40)  # prompts of each model


class Vocabulary:
    vocab_size = 64
    eos_id = 1

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


MODEL = EncoderDecoderModel(network.Transformer(CONFIG), Vocabulary(), Vocabulary())


def make_weights(seed: int) -> Params:
    """Some models end most rows at once, others go on: EOS is the likelier the larger the seed."""
    made = parameters.init_params(network.Transformer(CONFIG).specs, jax.random.key(seed))
    kernel = made["decoder"]["logits_dense"]["kernel"] * 4.0
    made["decoder"]["logits_dense"]["kernel"] = kernel.at[:, 1].multiply(1.0 + 0.4 * seed)
    return made


def make_examples(seed: int, count: int) -> list[Example]:
    rng = np.random.default_rng(seed)

    def one(index: int) -> Example:
        tokens = np.append(rng.integers(3, 64, rng.integers(2, 40 * (seed + 1))), 1)
        return Example(f"e{index}", "t", "c", tokens.astype(np.int32), (), "", (), False)

    return [one(index) for index in range(count)]


WEIGHTS = [make_weights(seed) for seed in range(3)]
SETS = [make_examples(seed, count) for seed, count in enumerate(SIZES)]


def make_decoder(method: Method, axes: dict[str, int] | None) -> Decoder:
    mesh = PjitPartitioner(devices=None if axes else jax.devices()[:1], **(axes or {}))
    return Decoder(MODEL, mesh, 8, 128, 40, method, first_stage=4)


@functools.cache
def alone(name: str) -> list[Output]:
    """The outputs of all sets, one model after the other."""
    decoder = make_decoder(METHODS[name], None)
    outputs = []
    for weights, examples in zip(WEIGHTS, SETS, strict=True):
        found = dict(pair for pairs in decoder.decode_texts(weights, examples) for pair in pairs)
        outputs += [found[index] for index in range(len(examples))]
    return outputs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("greedy", None),
        ("greedy", dict(expert=4, data=2)),
        ("sampling", dict(expert=4, data=1, model=2)),
        ("t5x", dict(expert=2, fsdp=2, model=2)),
    ],
)
def test_side_by_side_equals_alone(name: str, axes: dict[str, int] | None) -> None:
    decoder = make_decoder(METHODS[name], axes)
    models = [*WEIGHTS, WEIGHTS[0]]  # the fourth has no prompts
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    pairs = [pair for pairs in decoder.decode_texts_together(stacked, SETS) for pair in pairs]
    assert sorted(place for place, _ in pairs) == list(range(sum(SIZES)))  # each once
    assert [output for _, output in sorted(pairs)] == alone(name)
    lengths = [len(output.tokens) for output in alone(name)]
    assert min(lengths) < 4 and max(lengths) > 16  # all stages had rows to decode
    assert any("positions 4 to 16" in shape for shape in decoder.programs_together.shapes)


ADAPTED = EncoderDecoderModel(
    network.Transformer(CONFIG, LoRA(4, alpha=64.0)), Vocabulary(), Vocabulary()
)


def make_adapter(seed: int) -> Params:
    """An adapter that is large enough to change most outputs."""
    drawn = ADAPTED.module.init_trainable(jax.random.key(seed))
    keys = iter(jax.random.split(jax.random.key(seed), 99))
    return jax.tree.map(lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), drawn)


@pytest.mark.slow(but="method1-None")
@pytest.mark.parametrize(
    ("method", "axes"),
    [
        (Greedy(), None),
        (Sampling(top_p=0.95, seed=1), None),
        (Greedy(), dict(expert=2, fsdp=2, data=2)),
    ],
)
def test_rows_of_several_adapters_in_one_batch_equal_each_adapter_alone(method, axes) -> None:
    mesh = PjitPartitioner(devices=None if axes else jax.devices()[:1], **(axes or {}))
    adapters = [make_adapter(seed) for seed in range(4)]  # the last one has no prompts
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *adapters)
    of_mesh = parameters.join(WEIGHTS[0], gather_by_slot(stacked, mesh))
    count = len(adapters) // mesh.num_expert_slots
    sets = [SETS[0][:10], SETS[0][:3], SETS[0][:6]]
    decoder = Decoder(ADAPTED.with_adapters(count), mesh, 8, 40, 16, method, first_stage=8)
    found = predict_by_adapter(decoder, of_mesh, sets)
    one_device = PjitPartitioner(devices=jax.devices()[:1])
    single = Decoder(ADAPTED, one_device, 8, 40, 16, method, first_stage=None)
    for adapter, examples, rows in zip(adapters, sets, found, strict=False):
        assert rows == predict(single, parameters.join(WEIGHTS[0], adapter), examples)
    assert found[0][:3] != found[1] != found[2][:3]


def test_the_base_under_adapters_counts_once_however_many_there_are() -> None:
    """What is held decides whether weights are gathered before the first token."""
    mesh = PjitPartitioner(devices=jax.devices()[:1])
    own, shared = placement.params_bytes(ADAPTED.generator, mesh)
    assert shared == placement.params_bytes(MODEL.generator, mesh).own
    assert own == 4 * parameters.count_params(ADAPTED.module.trainable)
    weights = placement.weights_bytes(ADAPTED.generator, mesh)
    needed = shared + weights.shared + 16 * (own + weights.own)
    room = int(needed / placement.MEMORY_SHARE) + 2
    tight = dataclasses.replace(mesh, device_bytes=room)
    assert placement.holds_whole_weights(ADAPTED.generator, tight, 0, num_models=16)
    assert not placement.holds_whole_weights(ADAPTED.generator, tight, 0, num_models=17)


def test_the_loop_ends_with_the_last_row_of_all_models() -> None:
    """One answer for all: the loop's condition is a scalar, and nothing is selected by it."""
    decoder = make_decoder(Greedy(), None)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *WEIGHTS)
    programs = decoder.programs_together
    weights = programs.prepare(stacked)
    tokens = jnp.ones((3, 8, 64), jnp.int32)
    prompts = Prompts(tokens, jnp.full((3, 8), 64), jnp.zeros((3, 8), jnp.int32))
    rows = programs._read(stacked, weights, prompts, None)
    traced = programs._advance.trace(weights, rows, 0)
    loops = [eqn for eqn in traced.jaxpr.eqns if eqn.primitive.name == "while"]
    assert [loop.params["cond_jaxpr"].out_avals[0].shape for loop in loops] == [()]


def test_batches_of_several_sets_are_those_of_each() -> None:
    buckets = (32, 64, 128)
    sets = [[Request.of(one, n) for n, one in enumerate(examples)] for examples in [*SETS, []]]
    batches = [batch[:3] for batch in Batching(8, buckets).side_by_side(sets)]
    assert [places.shape for places, _, _ in batches] == [(4, 8)] * 5
    seen = np.concatenate([places[places >= 0] for places, _, _ in batches])
    assert sorted(seen) == list(range(sum(SIZES)))
    everything = [example for examples in SETS for example in examples]
    for places, inputs, lengths in batches:
        real = places >= 0
        assert inputs.shape[2] in buckets
        assert not inputs[~real].any() and not lengths[~real].any()
        for place, row, length in zip(places[real], inputs[real], lengths[real], strict=True):
            tokens = everything[place].inputs
            assert length == len(tokens)
            assert (row[:length] == tokens).all() and not row[length:].any()
    assert (batches[1][0][1] == -1).all()  # the second set has one batch
