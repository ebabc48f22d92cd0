"""Scores of targets are those of the targets, whatever the model was trained on."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from test_decoder import LLAMA, Vocabulary

from t5x_ext.data.records import Example
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.likelihood import Scorer, predict_with_scores, score_targets
from t5x_ext.errors import ConfigError
from t5x_ext.models import DecoderOnlyModel
from t5x_ext.models.network import Transformer
from t5x_ext.partitioning import PjitPartitioner

MODEL = DecoderOnlyModel(Transformer(LLAMA), Vocabulary())
ON_PROMPT = MODEL.replace(loss_on_prompt=True)


def example(number: int, prompt: list[int], target: list[int]) -> Example:
    arrays = np.array(prompt, np.int32), (np.array(target, np.int32),)
    return Example(str(number), "task", "", *arrays, "", ("x",), False)


EXAMPLES = [
    example(0, [5, 9, 11, 3, 8], [7, 2, 1]),
    example(1, [6], [4, 1]),
    example(2, list(range(3, 20)), [9, 9, 9, 9, 1]),
]


def test_a_score_leaves_the_prompt_out_though_the_loss_counts_it() -> None:
    device = PjitPartitioner(devices=jax.devices()[:1])
    params = MODEL.init_params(jax.random.key(0))
    params["decoder"]["logits_dense"]["kernel"] *= 4.0
    plain, scorer = (Scorer(model, device, 2, 24) for model in (MODEL, ON_PROMPT))
    tokens = scorer.token_log_probs(params, EXAMPLES)
    assert [len(row) for row in tokens] == [3, 2, 5]
    sums = [float(row.sum()) for row in tokens]
    expected = plain.log_likelihoods(params, EXAMPLES)
    np.testing.assert_allclose(sums, expected, atol=1e-5)
    scored = [row.score["log_likelihood"] for row in score_targets(scorer, params, EXAMPLES)]
    np.testing.assert_allclose(scored, expected, atol=1e-5)
    decoder = Decoder(ON_PROMPT, device, 2, 24, 6)
    predicted = predict_with_scores(decoder, scorer, params, EXAMPLES)
    again = predict_with_scores(decoder, plain, params, EXAMPLES)
    for ours, theirs in zip(predicted, again, strict=True):
        assert ours.prediction == theirs.prediction
        assert ours.score["log_likelihood"] == pytest.approx(
            theirs.score["log_likelihood"], abs=1e-5
        )


def test_a_row_with_an_empty_prompt_is_named() -> None:
    device = PjitPartitioner(devices=jax.devices()[:1])
    rows = [*EXAMPLES, example(17, [], [4, 1])]
    with pytest.raises(ConfigError, match="^task: the prompt of row 17 has no token, .*allowed: 1"):
        Scorer(MODEL, device, 2, 24).log_likelihoods({}, rows)
    with pytest.raises(ConfigError, match="^task: the prompt of row 17 has no token"):
        list(Decoder(MODEL, device, 2, 24, 6).decode_texts({}, rows))
