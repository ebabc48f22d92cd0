"""Padding is what the batch says it is: a token with id 0, or an empty side, is data like any."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from t5x_ext.data.batching import TrainBatches, eval_batches
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory
from t5x_ext.models import EncoderDecoderModel, network

CONFIG = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_dim=32,
    dropout_rate=0.0,
)
LENGTHS = {"inputs": 32, "targets": 24}
MODEL = EncoderDecoderModel(network.Transformer(CONFIG))
WEIGHTS = MODEL.init_params(jax.random.key(0))

compiled = jax.jit(lambda batch: MODEL.loss_sums(WEIGHTS, batch, None))


def make_example(name: str, inputs, targets) -> Example:
    arrays = np.array(inputs, np.int32), (np.array(targets, np.int32),)
    return Example(name, "task", "", *arrays, "", ("x",), False)


ODD = {
    "zero in the input": make_example("a", [5, 0, 0, 9, 1], [7, 8, 1]),
    "zero in the target": make_example("b", [11, 12, 1], [4, 0, 6, 1]),
    "zero at the ends": make_example("c", [0, 13, 0], [0, 5, 0]),
    "no input": make_example("d", [], [9, 9, 14, 1]),
}


def sums_of(examples, pack: bool):
    batches = TrainBatches([in_memory("task", examples)], len(examples), LENGTHS, pack, seed=0)
    return compiled(batches.make(0, 0)[0])


@pytest.mark.parametrize("what", ODD)
def test_an_odd_example_has_one_loss_packed_unpacked_and_evaluated(what):
    others = [make_example(f"e{i}", [20 + i, 30, 1], [40 + i, 1]) for i in range(3)]
    alone = sums_of([ODD[what]], pack=False)
    rest = sums_of(others, pack=False)
    together = sums_of([*others, ODD[what]], pack=True)
    _, batch = next(eval_batches(MODEL.features, [ODD[what]], 1, LENGTHS))
    assert float(alone.weight) == len(ODD[what].targets[0])
    for found, expected in ((together.loss - rest.loss, alone.loss), (compiled(batch), alone)):
        np.testing.assert_allclose(np.array(found), np.array(expected), rtol=2e-5)


def test_an_empty_input_is_read_as_a_row_of_padding_is():
    batch, _ = TrainBatches([in_memory("t", [ODD["no input"]])], 1, LENGTHS, False, 0).make(0, 0)
    padding = {name: rows for name, rows in batch.items() if not name.startswith("encoder")}
    padding["encoder_input_tokens"] = np.zeros((1, 32), np.int32)
    padding["encoder_segment_ids"] = np.zeros((1, 32), np.int32)
    np.testing.assert_allclose(compiled(batch).loss, compiled(padding).loss, rtol=1e-6)
