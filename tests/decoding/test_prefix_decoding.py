"""Prefix language models decode with the mask that they train with."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from test_decoder_only_decoding import CONFIGS, EOS, PROMPTS

from t5x_ext.decoding import Greedy
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.likelihood import Scorer, to_example
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.decoding.outputs import make_output
from t5x_ext.decoding.requests import Request
from t5x_ext.models import DecoderOnlyModel
from t5x_ext.models.network import Transformer
from t5x_ext.partitioning import PjitPartitioner

IDS = OutputIds(EOS, 64)
ROWS = [np.array(prompt, np.int32) for prompt in PROMPTS]
Answer = tuple[list[int], np.ndarray]
FAMILIES = [
    name if name in ("llama", "mpt", "falcon_7b") else pytest.param(name, marks=pytest.mark.slow)
    for name in CONFIGS
]


@pytest.fixture(scope="module")
def device() -> PjitPartitioner:
    return PjitPartitioner(devices=jax.devices()[:1])


def make(family: str) -> tuple[DecoderOnlyModel, Any]:
    network = Transformer(CONFIGS[family])
    params = jax.jit(network.init)(jax.random.key(0))
    params = jax.tree.map(lambda x: x * (2.0 if x.ndim > 1 else 1), params)
    return DecoderOnlyModel(network, inputs_bidirectional_attention=True), params


def decode(decoder: Decoder, params: Any) -> list[Answer]:
    """Of each prompt, what was produced (ids, EOS included) and its log-probabilities."""
    found: dict[int, Answer] = {}
    requests = [Request((row,), number) for number, row in enumerate(ROWS)]
    for finished in decoder.decode_requests(params, requests):
        for index, place in enumerate(finished.places.tolist()):
            row, log_probs = finished.outputs[index, 0], finished.log_probs[index, 0]
            count = len(make_output(row, log_probs, IDS).log_probs)
            found[place] = row[:count].tolist(), log_probs[:count]
    return [found[place] for place in range(len(ROWS))]


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_gives_the_probabilities_of_training(family: str, device: PjitPartitioner) -> None:
    """Step by step behind prompts of all lengths, and at once in rows as training has them."""
    model, params = make(family)
    decoder = Decoder(
        model, device, 8, 16, 8, Greedy(), first_stage=None, ids=IDS, keep_log_probs=True
    )
    answers = decode(decoder, params)
    pairs = zip(ROWS, answers, strict=True)
    examples = [to_example(row, np.array(ids, np.int32)) for row, (ids, _) in pairs]
    expected = Scorer(model, device, 8, 16).token_log_probs(params, examples)
    for (_, ours), theirs in zip(answers, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-5)
    if family == "llama":
        causal = model.replace(inputs_bidirectional_attention=False)
        others = Scorer(causal, device, 8, 16).token_log_probs(params, examples)
        apart = [float(np.abs(a - b).max()) for a, b in zip(expected, others, strict=True)]
        assert max(apart) > 1e-2
        assert min(apart) < 1e-5  # a prompt of a single token sees no more with the flag


@pytest.mark.slow
def test_a_row_does_not_depend_on_its_batch(device: PjitPartitioner) -> None:
    model, params = make("mpt")
    together, alone = (
        decode(Decoder(model, device, size, 16, 8, Greedy(), ids=IDS, keep_log_probs=True), params)
        for size in (7, 1)
    )
    for (ids, ours), (own_ids, theirs) in zip(together, alone, strict=True):
        assert ids == own_ids
        np.testing.assert_allclose(ours, theirs, atol=3e-5)
