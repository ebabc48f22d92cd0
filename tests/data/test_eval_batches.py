"""Evaluation batches: examples sorted by length, in rows of a few lengths."""

from __future__ import annotations

import numpy as np
import pytest
from batch_examples import FEATURES, make_example, make_examples

from t5x_ext.data.batching import eval_batches
from t5x_ext.data.length_buckets import make_length_buckets
from t5x_ext.errors import ConfigError


def eval_all(examples, batch_size, inputs, targets=32, buckets=None):
    lengths = {"inputs": inputs, "targets": targets}
    return eval_batches(FEATURES, examples, batch_size, lengths, buckets)


def test_eval_batches_come_biggest_first_and_cover_all():
    examples = make_examples(23)
    buckets = (8, 16, 32, 64)
    seen, lengths = [], []
    for indices, batch in eval_all(examples, 4, 64, buckets=buckets):
        lengths.append(batch["encoder_input_tokens"].shape[1])
        assert batch["decoder_target_tokens"].shape == (4, 32)
        for index, tokens in zip(indices, batch["encoder_input_tokens"], strict=True):
            if index < 0:
                assert not tokens.any()
            else:
                seen.append(index)
                expected = examples[index].inputs
                np.testing.assert_array_equal(tokens[: len(expected)], expected)
                assert not tokens[len(expected) :].any()
    assert sorted(seen) == list(range(23))
    assert lengths == sorted(lengths, reverse=True)
    assert set(lengths) <= set(buckets)
    assert len(lengths) == 6


def test_eval_batches_of_examples_without_targets():
    indices, batch = next(eval_all([make_example("x", [3, 1])], 2, 4, 5))
    assert indices.tolist() == [0, -1]
    assert batch["decoder_loss_weights"].tolist() == [[0] * 5] * 2
    assert list(eval_all([], 2, 4)) == []


def test_eval_batches_refuse_what_no_bucket_holds():
    with pytest.raises(ConfigError, match="inputs: an example of 5 tokens; allowed: 4"):
        next(eval_all([make_example("x", [3] * 5, [1])], 2, 4))
    with pytest.raises(ConfigError, match="targets: an example of 3 tokens; allowed: 2"):
        next(eval_all([make_example("x", [3], [4, 4, 1])], 2, 4, 2))


def test_length_buckets_double_up_to_the_limit():
    assert make_length_buckets(400) == (64, 128, 256, 400)
    assert make_length_buckets(1024) == (64, 128, 256, 512, 1024)
    assert make_length_buckets(50) == (50,)
    assert make_length_buckets(400, per_doubling=2) == (64, 96, 128, 192, 256, 384, 400)
    assert make_length_buckets(96, per_doubling=2) == (64, 96)
