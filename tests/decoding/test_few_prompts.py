"""Calls for few prompts compute few rows, in one program where stages would save little."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from t5x_ext import Model
from t5x_ext.decoding import Greedy, Sampling, calls, compile_costs
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.network import Transformer
from t5x_ext.partitioning import PjitPartitioner

CONFIG = LlamaConfig(
    vocab_size=64, emb_dim=16, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=8, mlp_dim=32
)
PROMPTS = [[2 + (7 * row + place) % 60 for place in range(3 + row)] for row in range(9)]


@pytest.fixture(scope="module")
def model() -> Model:
    params = Transformer(CONFIG).init(jax.random.key(0))
    return Model(CONFIG, params, None, PjitPartitioner(devices=jax.devices()[:1]))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, model: Model) -> list[Decoder]:
    """The decoders that a call makes."""
    decoders: list[Decoder] = []

    class Kept(Decoder):
        def __post_init__(self) -> None:
            super().__post_init__()
            decoders.append(self)

    monkeypatch.setattr(calls, "Decoder", Kept)
    vars(model).pop("_decoder", None)
    return decoders


@pytest.mark.parametrize(
    ("count", "batch_size", "places"),
    [(0, 8, 1), (1, 8, 1), (2, 8, 2), (3, 8, 8), (8, 8, 8), (9, 8, 8), (1, 1, 1), (5, 32, 8)],
)
def test_places(count: int, batch_size: int, places: int) -> None:
    one_device = PjitPartitioner(devices=jax.devices()[:1])
    assert compile_costs.places_for(one_device, batch_size, count, 64, worth=0) == places


def test_few_places_have_to_save_what_their_program_costs() -> None:
    one_device = PjitPartitioner(devices=jax.devices()[:1])
    saved = compile_costs.TIMES_ASKED * 7 * 64
    found = [compile_costs.places_for(one_device, 8, 1, 64, saved + more) for more in (-1, 0)]
    assert found == [1, 8]


def test_places_are_divided_by_the_mesh() -> None:
    mesh = PjitPartitioner(devices=jax.devices()[:4])
    found = [compile_costs.places_for(mesh, 32, count, 64, 0) for count in (1, 4, 5, 8, 9)]
    assert found == [4, 4, 8, 8, 32]


@pytest.mark.parametrize("method", [Greedy(), Sampling(top_p=0.9, seed=3)])
def test_answers_are_those_of_a_full_batch(
    model: Model,
    made: list[Decoder],
    method: Greedy | Sampling,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vars(model), "_worth_compiling", 0)
    full = model.generate_outputs(PROMPTS, 12, decoding=method)
    for count in (1, 2, 5):
        few = model.generate_outputs(PROMPTS[:count], 12, decoding=method)
        assert [one.tokens for one in few] == [one.tokens for one in full[:count]]
        for one, other in zip(few, full, strict=False):
            np.testing.assert_allclose(one.log_probs, other.log_probs, atol=2e-5)
    assert [decoder.batch_size for decoder in made] == [8, 1, 2]  # that of five is known


def test_stages_are_compiled_where_they_save_more_than_that_costs(
    model: Model, made: list[Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(model), "_worth_compiling", 100)
    for count, new in [(1, 400), (9, 7), (2, 101), (9, 8)]:
        model.generate_tokens(PROMPTS[:count], new)
    # In two batches of 8, 14 rows wait for up to 98 positions for 7 tokens, and 112 for 8.
    assert [decoder.first_stage for decoder in made] == [None, None, 8, 8]


def test_scores_are_those_of_a_full_batch(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(model), "_worth_compiling", 0)
    answers = [[5, 6, 7]] * len(PROMPTS)
    full = model.score_tokens(PROMPTS, answers)
    for count in (1, 2):
        few = model.score_tokens(PROMPTS[:count], answers[:count])
        np.testing.assert_allclose(few, full[:count], atol=2e-5)
        logits = model.token_logits(PROMPTS[:count])
        for one, other in zip(logits, model.token_logits(PROMPTS), strict=False):
            np.testing.assert_allclose(one, other, atol=2e-5)
