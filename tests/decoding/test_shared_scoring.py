"""Answers to one prompt: the prompt is read once, and no answer is more or less likely for it."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from shared_outputs import make, with_adapters

from t5x_ext import Model
from t5x_ext.data.records import Example
from t5x_ext.decoding.likelihood import Scorer, to_example
from t5x_ext.models import DecoderOnlyModel
from t5x_ext.partitioning import PjitPartitioner

RNG = np.random.default_rng(0)


def tokens(length: int) -> np.ndarray:
    return RNG.integers(2, 64, length).astype(np.int32)


def with_options(prompt_length: int, option_lengths: list[int]) -> list[Example]:
    prompt = tokens(prompt_length)
    return [to_example(prompt, tokens(length)) for length in option_lengths]


# Options of one token and of none, two that begin alike, and prompts of one token.
FIRST = with_options(60, [3, 1, 7, 2])
EXAMPLES = [
    *FIRST,
    to_example(FIRST[0].inputs, np.concatenate([FIRST[0].targets[0], tokens(4)])),
    *with_options(41, [5, 5]),
    *with_options(25, [1, 0, 2, 30]),
    *with_options(1, [4, 6]),
    *with_options(33, [8]),
]


def batches(scorer: Scorer, examples: list[Example], adapters: np.ndarray | None = None) -> list:
    return list(scorer._batches(examples, adapters))


def check(model: Model, examples: list[Example], adapters: np.ndarray | None = None) -> None:
    whole = Scorer(model._described, model.partitioner, 4, 64, share_prefixes=False)
    shared = dataclasses.replace(whole, share_prefixes=True)
    assert any(rows.prefixes is not None for rows in batches(shared, examples, adapters))
    assert not any(rows.prefixes is not None for rows in batches(whole, examples, adapters))
    asked = model.params, examples, adapters
    expected = whole.token_log_probs(*asked)
    for one, other, example in zip(shared.token_log_probs(*asked), expected, examples, strict=True):
        assert one.shape == other.shape == example.targets[0].shape
        np.testing.assert_allclose(one, other, atol=2e-5)
    sums = shared.log_likelihoods(*asked)
    np.testing.assert_allclose(sums, whole.log_likelihoods(*asked), atol=1e-4)
    assert len(set(sums.round(3).tolist())) > 3 * len(examples) // 4


@pytest.mark.slow(but="mpt")
@pytest.mark.parametrize("family", ["llama", "mpt", "falcon"])
def test_of_every_family(family: str) -> None:
    """Positions by rotation and by bias, one key head for all and one for two."""
    check(make(family), EXAMPLES)


def test_of_several_adapters() -> None:
    """A prompt is read once for each adapter."""
    check(with_adapters("llama"), EXAMPLES[:5] * 3, np.repeat(np.arange(3, dtype=np.int32), 5))


@pytest.mark.slow
def test_on_a_mesh() -> None:
    """Rows over two devices and heads over two."""
    check(make("llama", PjitPartitioner(devices=jax.devices()[:4], data=2, model=2)), EXAMPLES)


@pytest.mark.parametrize("family", ["t5", "prefix", "flash"])
def test_not_where_decoding_reads_prompts_whole(family: str) -> None:
    model = make("t5" if family == "t5" else "llama")._described
    if family == "prefix":
        assert isinstance(model, DecoderOnlyModel)
        model = model.replace(inputs_bidirectional_attention=True)
    elif family == "flash":
        config = model.module.config.replace(attention="flash")
        model = model.replace(module=model.module.replace(config))
    scorer = Scorer(model, PjitPartitioner(devices=jax.devices()[:1]), 4, 64, share_prefixes=True)
    assert all(rows.prefixes is None for rows in batches(scorer, EXAMPLES))


def test_options_of_a_prompt_are_in_one_batch_and_read_it_once() -> None:
    model = make("llama")
    scorer = Scorer(model._described, model.partitioner, 4, 128, share_prefixes=True)
    questions = [with_options(length, [1, 2, 3, 4]) for length in (100, 80)]
    in_turn = [option for pair in zip(*questions, strict=True) for option in pair]
    for rows, question in zip(batches(scorer, in_turn), questions, strict=True):
        assert [in_turn[place] for place in rows.places] == question[::-1]
        assert rows.prefixes.lengths.tolist() == [len(question[0].inputs) - 1]
        assert rows.features["decoder_input_tokens"].shape == (4, 16)
        assert rows.features["decoder_loss_weights"].sum(axis=1).tolist() == [4, 3, 2, 1]


def test_prompts_are_read_whole_where_compiling_costs_more() -> None:
    """As it does for fourteen rows, on any model that is small."""
    model = make("llama")
    scorer = Scorer(model._described, model.partitioner, 4, 64)
    assert all(rows.prefixes is None for rows in batches(scorer, EXAMPLES))


def test_few_answers_have_to_begin_alike_and_few_prompts_do_not() -> None:
    """Two answers to each question save half of it; a template of all does not hide that."""
    model = make("llama")
    template = tokens(20)
    examples = []
    for _ in range(4):
        question = np.concatenate([template, tokens(40)])
        examples += [to_example(question, tokens(2)) for _ in range(2)]
    scorer = Scorer(model._described, model.partitioner, 8, 64, share_prefixes=True)
    (rows,) = batches(scorer, examples)
    assert sorted(rows.prefixes.lengths.tolist()) == [59] * 4
    check(model, examples)
