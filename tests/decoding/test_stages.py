"""Parking rows that go on changes nothing but the time, whatever the method."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from t5x_ext.data.records import Example
from t5x_ext.decoding import Beam, Greedy, Method, Sampling
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.programs import Programs
from t5x_ext.decoding.stages import stage_ends
from t5x_ext.models import BaseTransformerModel, DecoderOnlyModel, EncoderDecoderModel, network
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner

CONFIG = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=2,
    mlp_dim=32,
    mlp_activations=("gelu", "linear"),
)
LLAMA = LlamaConfig(
    vocab_size=64, emb_dim=16, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=8, mlp_dim=32
)
LENGTH = 40
FIRST = 4
METHODS = {
    "greedy": Greedy(),
    "sampling": Sampling(num_samples=3, top_p=0.95, seed=1),
    "t5x": Beam(num_beams=3),
    "hf": Beam(num_beams=3, style="hf", length_penalty=1.0, early_stopping=True),
}


class Vocabulary:
    vocab_size = 64
    eos_id = 1


def make_model(family: str, **changes: object) -> BaseTransformerModel:
    if family == "llama":
        return DecoderOnlyModel(network.Transformer(LLAMA.replace(**changes)), Vocabulary())
    module = network.Transformer(CONFIG.replace(**changes))
    return EncoderDecoderModel(module, Vocabulary(), Vocabulary())


@pytest.fixture(scope="module", params=["t5", "llama"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def weights(family: str) -> Params:
    made = make_model(family).init_params(jax.random.key(5))
    # Sharper than random weights are, and EOS likelier, so that rows end at many places.
    kernel = made["decoder"]["logits_dense"]["kernel"] * 4.0
    made["decoder"]["logits_dense"]["kernel"] = kernel.at[:, 1].multiply(1.6)
    return made


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    rng = np.random.default_rng(0)

    def one(index: int) -> Example:
        tokens = np.append(rng.integers(3, 64, rng.integers(2, 100)), 1).astype(np.int32)
        return Example(f"e{index}", "task", "cat", tokens, (), "", (), False)

    return [one(index) for index in range(50)]


@functools.lru_cache
def make_decoder(
    family: str, method: Method, first_stage: int | None, batch_size: int, devices: int
) -> Decoder:
    mesh = PjitPartitioner(devices=jax.devices()[:devices], model=2 if devices > 1 else 1)
    return Decoder(make_model(family), mesh, batch_size, 128, LENGTH, method, first_stage)


def decode(decoder: Decoder, weights: Params, examples: list[Example], numbers=None) -> np.ndarray:
    outputs = {}
    for indices, tokens in decoder.decode_outputs(weights, examples, numbers):
        for index, rows in zip(indices.tolist(), tokens, strict=True):
            assert index not in outputs
            outputs[index] = rows
    return np.stack([outputs[index] for index in range(len(examples))])


def test_stages_grow_fourfold() -> None:
    assert stage_ends(128, 8) == (8, 32, 128)
    assert stage_ends(255, 8) == (8, 32, 255)
    assert stage_ends(256, 8) == (8, 32, 128, 256)
    assert stage_ends(5, 8) == (5,)
    assert stage_ends(128, None) == (128,)


@pytest.mark.slow(but="t5-hf")
@pytest.mark.parametrize("name", METHODS)
def test_parking_changes_no_token(family, weights, examples, name) -> None:
    method = METHODS[name]
    whole = decode(make_decoder(family, method, None, 8, 1), weights, examples)
    lengths = np.argmax(whole == 1, axis=-1)
    assert ((lengths > 0) & (lengths < FIRST)).any() and ((lengths == 0) | (lengths >= FIRST)).any()
    parked = make_decoder(family, method, FIRST, 8, 1)
    assert (decode(parked, weights, examples) == whole).all()
    assert any("positions 4 to 16" in shape for shape in parked.programs.shapes)
    # A few rows alone, in another order, keep their numbers and so their samples.
    some = [7, 3, 41, 20, 33]
    few = decode(parked, weights, [examples[i] for i in some], some)
    assert (few == whole[some]).all()


@pytest.mark.slow(but="llama-t5x")
@pytest.mark.parametrize("name", ["sampling", "t5x"])
def test_a_mesh_decodes_as_one_device(family, weights, examples, name) -> None:
    """Rows over two devices, heads over two, parked rows moved between them."""
    one = decode(make_decoder(family, METHODS[name], FIRST, 8, 1), weights, examples)
    assert (
        decode(make_decoder(family, METHODS[name], FIRST, 8, 4), weights, examples) == one
    ).all()


@pytest.mark.slow
def test_compiled_shapes_are_bounded_and_told(family, weights, examples) -> None:
    decoder = make_decoder(family, METHODS["greedy"], FIRST, 4, 1)
    for count in (1, 7, 50):
        decode(decoder, weights, examples[:count])
    programs = decoder.programs
    assert programs._read._cache_size() <= len(decoder.buckets)
    compiled = programs._advance._cache_size()
    # For each bucket the first stage of full batches, and later ones of full and of small batches.
    assert compiled == len(programs.shapes) <= 3 * (1 + 2 * 2)
    assert "4 x 96, positions 0 to 4" in programs.shapes


@pytest.mark.slow(but="t5")
def test_finished_rows_give_their_places_to_others(family, weights, examples, monkeypatch) -> None:
    """Later stages run on full batches, but for the last batch of each."""
    decoder = make_decoder(family, METHODS["greedy"], FIRST, 8, 1)
    whole = decode(make_decoder(family, METHODS["greedy"], None, 8, 1), weights, examples)
    ends = np.where((whole == 1).any(-1), np.argmax(whole == 1, axis=-1) + 1, LENGTH)
    runs = []
    real = Programs.advance

    def advance(programs, weights, rows, stage):
        runs.append((stage, len(rows.prompt.mask)))
        return real(programs, weights, rows, stage)

    monkeypatch.setattr(Programs, "advance", advance)
    decode(decoder, weights, examples)
    for stage, start in ((1, FIRST), (2, 4 * FIRST)):
        going_on = int((ends > start).sum())
        assert going_on > (8 if stage == 1 else 0)
        sizes = [size for each, size in runs if each == stage]
        assert len(sizes) == -(-going_on // 8)
        assert min(sizes) < 2 * (going_on % 8 or 8)  # what was left ran as a small batch


@pytest.mark.slow
def test_bfloat16_chooses_almost_the_same_tokens(family, weights, examples) -> None:
    model = make_model(family, dtype="bfloat16")
    partitioner = PjitPartitioner(devices=jax.devices()[:1])
    half = Decoder(model, partitioner, 8, 128, LENGTH, METHODS["greedy"], FIRST)
    full = decode(make_decoder(family, METHODS["greedy"], FIRST, 8, 1), weights, examples)
    # Rounding turns some choices; most first tokens agree.
    assert (decode(half, weights, examples)[:, 0, 0] == full[:, 0, 0]).mean() > 0.8
