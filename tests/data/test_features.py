"""Decoder-only rows: what is read, what is predicted, and what counts."""

from __future__ import annotations

import numpy as np
import pytest

from t5x_ext.data.batching import TrainBatches, eval_batches
from t5x_ext.data.features import DecoderOnlyFeatures
from t5x_ext.data.packing import lay_out
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory

LENGTHS = {"inputs": 8, "targets": 8}


def make_example(name: str, inputs, targets) -> Example:
    arrays = np.array(inputs, np.int32), (np.array(targets, np.int32),)
    return Example(name, "task", "", *arrays, "", ("x",), False)


def packed(features: DecoderOnlyFeatures) -> dict[str, list[int]]:
    """Three examples in one row; the last has no prompt."""
    inputs = [np.array(tokens, np.int32) for tokens in ([3, 4, 5], [0, 6], [])]
    targets = [np.array(tokens, np.int32) for tokens in ([7, 2], [8, 0, 2], [9, 2])]
    sides = features.sides(*(np.array([len(t) for t in side]) for side in (inputs, targets)))
    layout = lay_out(np.zeros(3, np.int64), *sides)
    batch = features.build(inputs, targets, layout, {"inputs": 12, "targets": 12})
    assert all(array.shape == (1, 12) for array in batch.values())
    return {name: array[0].tolist() for name, array in batch.items()}


def test_a_packed_row_is_read_and_predicted_token_by_token() -> None:
    assert packed(DecoderOnlyFeatures()) == {
        "decoder_input_tokens": [3, 4, 5, 7, 0, 6, 8, 0, 9, 0, 0, 0],
        "decoder_target_tokens": [4, 5, 7, 2, 6, 8, 0, 2, 2, 0, 0, 0],
        "decoder_loss_weights": [0, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0],
        "decoder_segment_ids": [1, 1, 1, 1, 2, 2, 2, 2, 3, 0, 0, 0],
        "decoder_positions": [0, 1, 2, 3, 0, 1, 2, 3, 0, 0, 0, 0],
    }


def test_the_prompt_may_count_and_may_see_itself_whole() -> None:
    row = packed(DecoderOnlyFeatures(loss_on_prompt=True, bidirectional_prompt=True))
    assert row["decoder_loss_weights"] == [1] * 9 + [0] * 3
    assert row["decoder_causal_attention"] == [1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("pack", [False, True])
def test_training_batches_hold_every_target_token_once(pack: bool) -> None:
    rng = np.random.default_rng(0)
    examples = [
        make_example(str(i), rng.integers(1, 60, rng.integers(1, 9)), rng.integers(1, 60, 4))
        for i in range(30)
    ]
    features = DecoderOnlyFeatures()
    batches = TrainBatches([in_memory("t", examples)], 4, LENGTHS, pack, seed=0, features=features)
    steps = batches.steps_per_epoch()
    made = [batches.make(0, step) for step in range(steps)]
    counted = sum(batch["decoder_loss_weights"].sum() for batch, _ in made)
    assert counted == sum(len(example.targets[0]) for example in examples)
    assert steps == (8 if not pack else steps) and steps < 9
    assert all(0 <= info.padding_share < 1 for _, info in made)


def test_evaluation_rows_are_as_long_as_prompt_and_target_need() -> None:
    examples = [make_example("a", range(1, 9), [7, 2]), make_example("b", [5], [2])]
    ((indices, batch),) = eval_batches(DecoderOnlyFeatures(), examples, 3, LENGTHS, (4, 9, 16))
    assert indices.tolist() == [0, 1, -1]
    assert batch["decoder_target_tokens"].shape == (3, 9)
    assert batch["decoder_loss_weights"].sum(axis=1).tolist() == [2, 1, 0]


def test_a_lone_token_predicts_nothing() -> None:
    examples = [make_example("a", [5], []), make_example("b", [5, 6], [2])]
    ((_, batch),) = eval_batches(DecoderOnlyFeatures(), examples, 2, LENGTHS)
    assert batch["decoder_loss_weights"].sum(axis=1).tolist() == [1, 0]
