"""Weights that a mesh splits are gathered once, not for every token.

Read from the compiled programs: whatever runs inside the loop over tokens.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

import compilers
import jax
import numpy as np
import pytest

from t5x_ext.decoding import placement
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.loop import Prompts
from t5x_ext.models import EncoderDecoderModel, network, nf4, parameters
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning import compiling, hlo, lowering
from t5x_ext.planning.devices import parse_topology
from t5x_ext.training.state import abstract_params
from t5x_ext.training.trainer import Program, Trainer

CONFIG = network.T5Config(
    vocab_size=512,
    emb_dim=64,
    num_heads=8,
    num_encoder_layers=2,
    num_decoder_layers=2,
    head_dim=16,
    mlp_dim=192,
    mlp_activations=("gelu", "linear"),
    dtype="bfloat16",
)
WORKLOAD = lowering.Workload(16, 64, 32)
MESHES = {
    "fsdp": dict(fsdp=8),
    "fsdp and model": dict(fsdp=4, model=2),
    "data, fsdp and model": dict(data=2, fsdp=2, model=2),
    "data and fsdp": dict(data=2, fsdp=4),
}


class Vocabulary:
    vocab_size = 512
    eos_id = 1


MODEL = EncoderDecoderModel(network.Transformer(CONFIG), Vocabulary(), Vocabulary())
NUMBERS = np.full((1, 16), 64, np.int32), np.zeros((1, 16), np.int32)  # lengths, and of prompts


def reached(module: hlo.Module, name: str, seen: set[str]) -> Iterator[hlo.Instruction]:
    """All instructions of a computation and of those it calls."""
    if name in seen:
        return
    seen.add(name)
    for instruction in module.computations[name]:
        yield instruction
        for word in re.findall(r"[\w.\-]+", instruction.attributes):
            if word in module.computations:
                yield from reached(module, word, seen)


def gathers_per_token(text: str) -> list[tuple[int, ...]]:
    """Shapes that are all-gathered in the loop over tokens."""
    module = hlo.parse(text)
    (loop,) = [
        instruction
        for computation in module.computations.values()
        for instruction in computation
        if instruction.opcode == "while" and "/decode_tokens/" in instruction.attributes
    ]
    inside = list(reached(module, loop.attribute("body"), set()))
    assert any(one.opcode in ("dot", "convolution", "fusion") for one in inside)
    return [
        array.dims
        for one in inside
        if one.opcode.removesuffix("-start") == "all-gather"
        for array in one.arrays
    ]


def weight_shapes() -> set[tuple[int, ...]]:
    """Shapes of all kernels and tables of the decoder, and of their transposes."""
    decoder = parameters.abstract_params(MODEL.specs)["decoder"]
    shapes = {leaf.shape[1:] for leaf in jax.tree.leaves(decoder["layers"])}
    shapes |= {(CONFIG.vocab_size, CONFIG.emb_dim)}
    return shapes | {shape[::-1] for shape in shapes}


def compile_decoding(partitioner: PjitPartitioner) -> str:
    program = Program(MODEL, partitioner, Trainer())
    return lowering.lower_decoding(program, WORKLOAD, 1).compile().as_text()


def tpu_devices() -> list[jax.Device]:
    compilers.load_libtpu()
    return compiling.describe_devices(parse_topology("v5e:2x4"))


@pytest.mark.slow(but="fsdp-tpu")
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("name", MESHES)
def test_no_weight_is_gathered_for_a_token(name, platform) -> None:
    devices = jax.devices() if platform == "cpu" else tpu_devices()
    partitioner = PjitPartitioner(**MESHES[name], devices=devices, device_bytes=1 << 30)
    gathered = gathers_per_token(compile_decoding(partitioner))
    assert not weight_shapes() & set(gathered)
    if partitioner.num_model_shards == 1:
        assert gathered == []


def test_weights_that_do_not_fit_are_gathered_for_every_token() -> None:
    """Guards the test above: without room, what it looks for is there.

    On a TPU only: the compiler for CPUs moves the gathers out of the loop by itself.
    """
    partitioner = PjitPartitioner(fsdp=8, devices=tpu_devices(), device_bytes=1000)
    assert len(gathers_per_token(compile_decoding(partitioner))) >= 2 * 9


def split_params(model: EncoderDecoderModel, mesh: PjitPartitioner) -> parameters.Params:
    layout = mesh.param_shardings(
        parameters.param_axes(model.specs), parameters.abstract_params(model.specs)
    )
    return jax.device_put(parameters.init_params(model.specs, jax.random.key(0)), layout)


def layouts(decoder: Decoder, model_params: parameters.Params) -> set[tuple[int, ...]]:
    """Parts of the device mesh in which the prepared kernels lie, by dimension."""
    weights = decoder.programs.prepare(model_params)
    kernels = [leaf for leaf in jax.tree.leaves(weights.layers) if leaf.ndim == 2]
    return {
        tuple(whole // part for whole, part in zip(one.shape, shard, strict=True))
        for one in kernels
        for shard in [one.sharding.shard_shape(one.shape)]
    }


def test_what_the_decoder_prepares_is_whole_but_for_model_where_it_fits() -> None:
    mesh = PjitPartitioner(fsdp=4, model=2)
    model_params = split_params(MODEL, mesh)
    decoder = Decoder(MODEL, mesh, 16, 64, 32)
    assert layouts(decoder, model_params) == {(1, 2), (2, 1)}

    needed = (
        placement.params_bytes(MODEL.generator, mesh).own
        + placement.weights_bytes(MODEL.generator, mesh).own
        + decoder.programs.cache_bytes
    )
    for spare, parts in ((1, {(1, 2), (2, 1)}), (-1, {(4, 2), (2, 4)})):
        room = int((needed + 100) / placement.MEMORY_SHARE) + 2 * spare
        tight = dataclasses.replace(mesh, device_bytes=room)
        one = Decoder(MODEL, tight, 16, 64, 32, resident_bytes=100)
        assert layouts(one, model_params) == parts


def test_bytes_are_those_of_the_arrays() -> None:
    mesh = PjitPartitioner(fsdp=4, model=2)
    model_params = split_params(MODEL, mesh)
    decoder = Decoder(MODEL, mesh, 16, 64, 32, first_stage=None)
    programs = decoder.programs
    weights = programs.prepare(model_params)

    def held(tree) -> int:
        return sum(one.addressable_shards[0].data.nbytes for one in jax.tree.leaves(tree))

    assert placement.params_bytes(MODEL.generator, mesh) == (held(model_params), 0)
    assert placement.weights_bytes(MODEL.generator, mesh) == (held(weights), 0)
    inputs = np.ones((1, 16, 64), np.int32)
    rows = programs.begin(model_params, weights, Prompts(inputs, *NUMBERS)).rows
    assert programs.cache_bytes == held((rows.prompt.keys, rows.prompt.values, rows.cache))


def test_a_base_in_four_bits_counts_its_codes() -> None:
    mesh = PjitPartitioner(fsdp=4, model=2)
    plain, quantised = (
        EncoderDecoderModel(
            network.Transformer(CONFIG, quantization=how), Vocabulary(), Vocabulary()
        ).generator
        for how in (None, "nf4")
    )
    placed = nf4.quantise_abstract(quantised.specs, abstract_params(MODEL, mesh), mesh)
    held = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(placed)
    )
    assert placement.params_bytes(quantised, mesh) == (held, 0)
    whole, codes = (placement.weights_bytes(each, mesh).own for each in (plain, quantised))
    top = sum(
        mesh.bytes_per_device(x, mesh.gathered_spec(axes))
        for x, axes in zip(
            jax.tree.leaves(jax.eval_shape(plain.prepare, plain.abstract_params()).top),
            jax.tree.leaves(plain.weight_axes().top, is_leaf=lambda x: isinstance(x, tuple)),
            strict=True,
        )
    )
    # Of two bytes a number little more than half a byte is left, but for tables and norms.
    assert (codes - top) / (whole - top) == pytest.approx(0.27, abs=0.03)
    room = placement.params_bytes(quantised, mesh).own + codes
    tight = dataclasses.replace(mesh, device_bytes=int(room / placement.MEMORY_SHARE) + 2)
    assert placement.holds_whole_weights(quantised, tight, 0)
    assert not placement.holds_whole_weights(plain, tight, 0)


def test_tokens_do_not_depend_on_where_weights_lie() -> None:
    config = dataclasses.replace(CONFIG, dtype="float32")
    model = EncoderDecoderModel(network.Transformer(config), Vocabulary(), Vocabulary())
    mesh = PjitPartitioner(fsdp=4, model=2)
    model_params = split_params(model, mesh)
    inputs = np.random.default_rng(0).integers(2, 500, (1, 16, 64)).astype(np.int32)
    outputs = []
    for device_bytes in (1 << 30, 1000):
        partitioner = dataclasses.replace(mesh, device_bytes=device_bytes)
        programs = Decoder(model, partitioner, 16, 64, 32, first_stage=None).programs
        weights = programs.prepare(model_params)
        done = programs.begin(model_params, weights, Prompts(inputs, *NUMBERS))
        outputs.append(np.asarray(done.outputs))
    assert (outputs[0] == outputs[1]).all() and len(np.unique(outputs[0])) > 3
