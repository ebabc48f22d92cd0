"""Stop sequences end an output where they appear, however they fall into tokens."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from shared_outputs import CONTEXTS, make

from mixtures.vocabularies import bundled_vocabulary
from t5x_ext import Model
from t5x_ext.decoding import Beam, Contrastive, Sampling
from t5x_ext.decoding.stops import Stops, token_texts
from t5x_ext.errors import ConfigError
from t5x_ext.models.network import T5Config, Transformer
from t5x_ext.partitioning import PjitPartitioner

VOCABULARY = bundled_vocabulary()
PROMPTS = [contexts[0] for contexts in CONTEXTS]
RNG = np.random.default_rng(1)


def test_the_table_finds_what_a_search_in_the_text_finds() -> None:
    size = VOCABULARY.vocab_size
    texts = token_texts(VOCABULARY, size + 5)
    assert texts[size:] == ("",) * 5
    stops = Stops(("aa", "aba", "ll", "#"), VOCABULARY, size + 5)
    letters = [i for i, text in enumerate(texts) if text and set(text) <= set(" abl#xo")]
    found = 0
    for _ in range(500):
        tokens = RNG.choice(letters, 12)
        text = "".join(texts[token] for token in tokens)
        places = [text.find(stop) + len(stop) for stop in stops.sequences if stop in text]
        ends = np.cumsum([len(texts[token]) for token in tokens])
        expected = int(np.searchsorted(ends, min(places))) + 1 if places else None
        assert stops.end_of(tokens) == expected
        found += expected is not None
        if expected is not None:
            kept = stops.cut_tokens(tokens[:expected].tolist())
            before = "".join(texts[token] for token in kept)
            assert text.startswith(before) and not any(s in before for s in stops.sequences)
    assert 100 < found < 500


def test_ids_stop_as_texts_do() -> None:
    stops = Stops(((5, 6, 5, 7), (9,)), None, 12)
    assert stops.end_of(np.array([5, 6, 5, 6, 5, 7, 1])) == 6
    assert stops.end_of(np.array([5, 6, 5, 6, 9, 5, 7])) == 5
    assert stops.end_of(np.array([5, 6, 7])) is None
    assert stops.cut_tokens([1, 5, 6, 5, 7]) == [1]


@pytest.mark.slow
@pytest.mark.parametrize("method", [None, Sampling(temperature=1.5, seed=4)])
def test_outputs_end_at_the_first_stop_and_are_else_the_same(method) -> None:
    model = make("llama")
    plain = model.generate_outputs(PROMPTS, 24, method)
    assert {one.finish for one in plain} == {"length"}
    # A pair of ids somewhere in an output, and one id of another: they stop several of them.
    stop = [plain[0].tokens[4:6], [plain[1].tokens[9]]]
    found = model.generate_outputs(PROMPTS, 24, method, stop=stop)
    assert found[0].finish == found[1].finish == "stop"
    for one, whole in zip(found, plain, strict=True):
        text = whole.tokens
        ends = [
            place
            for length, ids in ((2, stop[0]), (1, stop[1]))
            for place in range(length, 25)
            if text[place - length : place] == ids
        ]
        if not ends:
            assert one == whole
            continue
        assert one.finish == "stop"
        assert one.log_probs == pytest.approx(whole.log_probs[: min(ends)], abs=1e-6)
        assert one.tokens == text[: len(one.tokens)]
        assert min(ends) - len(one.tokens) in (1, 2)
    assert found == model.generate_outputs(PROMPTS, 24, method, stop=stop, batch_size=2)


def random_text_model() -> Model:
    config = T5Config(
        vocab_size=896,
        emb_dim=32,
        num_heads=4,
        head_dim=8,
        num_encoder_layers=1,
        num_decoder_layers=1,
        mlp_dim=48,
    )
    params = Transformer(config).init(jax.random.key(3))
    return Model(config, params, VOCABULARY, PjitPartitioner(devices=jax.devices()[:1]))


@pytest.mark.slow
def test_texts_end_before_the_stop() -> None:
    model = random_text_model()
    prompts = ["a red box", "is it a cat?", "the cat"]
    method = Sampling(temperature=1.5, seed=1)
    whole = model.generate(prompts, 20, decoding=method)
    outputs = model.generate_outputs(prompts, 20, method, stop=["e", "o"])
    assert any(one.finish == "stop" for one in outputs)
    for text, one in zip(whole, outputs, strict=True):
        first = min((text.find(stop) for stop in "eo" if stop in text), default=len(text))
        assert one.text == text[:first]
        assert (one.finish == "stop") == (first < len(text))
    assert [one.text for one in outputs] == model.generate(
        prompts, 20, decoding=method, stop=["e", "o"]
    )


def test_what_does_not_fit_is_one_line() -> None:
    model = make("llama")
    for call, message in (
        (lambda: model.generate_tokens([[1]], 4, stop="###"), "stop: '###'; allowed: a list"),
        (
            lambda: model.generate_tokens([[1]], 4, stop=["#"]),
            "stop: '#', but there is no vocabulary",
        ),
        (lambda: model.generate_tokens([[1]], 4, stop=[[]]), "allowed: 1 or more"),
        (
            lambda: model.generate_tokens([[1]], 4, stop=[[64]]),
            r"stop\[0\] has id 64; allowed: 0 to 63",
        ),
        (lambda: model.generate_tokens([[1]], 4, Beam(), stop=[[1]]), "stop: not with Beam"),
        (lambda: model.generate_outputs([[1]], 4, Beam()), "log-probabilities: not with Beam"),
        (lambda: model.generate_tokens([[1]] * 2, 4, numbers=[1]), "numbers: 1 for 2 prompts"),
        (
            lambda: model.generate_tokens([[1] * 2047], 4),
            "a prompt of 2047 tokens and 4 of its answer; allowed: 2048 in all",
        ),
        (lambda: model.token_logits([[1] * 2049]), "a prompt of 2049 tokens; allowed: 2048"),
        (lambda: model.score_tokens([[1]], []), "0 responses for 1 prompts"),
        (lambda: model.generate([["a"]], weights=[[1.0]]), "has no vocabulary"),
        (lambda: model.generate([[[1]]], weights=[[1.0]]), r"prompts\[0\]\[0\] is list"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="stops"):
        model.generate_tokens([[1]], 4, stops=[[1]])


def test_a_contrast_stops_too() -> None:
    model, other = make("llama"), make("llama")
    plain = model.generate_tokens(PROMPTS, 12, Contrastive(), amateur=other)
    stop = [[plain[0][5]]]
    found = model.generate_tokens(PROMPTS, 12, Contrastive(), amateur=other, stop=stop)
    assert found[0] == plain[0][: plain[0].index(plain[0][5])]
