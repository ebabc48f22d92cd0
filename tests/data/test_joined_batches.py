"""The examples of each batch joined in as few rows as hold them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from batch_examples import make_batches, make_example, make_examples, share_of, take

from t5x_ext.data import batching
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.features import DecoderOnlyFeatures, EncoderDecoderFeatures
from t5x_ext.data.packing import join_rows
from t5x_ext.data.tables import in_memory


def test_joined_batches_hold_the_examples_of_unpacked_ones_in_fewer_rows():
    examples = make_examples(200, num_targets=3)
    alone = make_batches(examples, batch_size=16, pack=False)
    joined = make_batches(examples, batch_size=16, pack="batch", multiple=2)
    assert joined.steps_for_epochs(2) == alone.steps_for_epochs(2) == 26
    sizes = set()
    for (padded, one), (fewer, info) in zip(take(alone, 26), take(joined, 26), strict=True):
        assert sorted(info.ids) == sorted(one.ids)
        assert (info.epoch, info.step_in_epoch) == (one.epoch, one.step_in_epoch)
        assert info.num_tokens == one.num_tokens
        assert info.padding_share < one.padding_share
        for name in ("encoder_input_tokens", "decoder_target_tokens"):
            assert sorted(fewer[name][fewer[name] > 0]) == sorted(padded[name][padded[name] > 0])
        assert len(fewer["encoder_input_tokens"]) == info.num_rows <= 10
        assert info.num_rows % 2 == 0
        sizes.add(info.num_rows)
    # Few batches: all of the first epoch have one shape.
    assert joined.num_rows in sizes
    assert len(sizes) <= 2


def test_joined_batches_of_a_long_epoch_take_the_rows_that_each_needs():
    batches = make_batches(make_examples(2400), batch_size=16, pack="batch")
    sizes = Counter(batches.make(0, step)[1].num_rows for step in range(150))
    assert batches.num_rows == sizes.most_common(1)[0][0]
    assert 2 <= len(sizes) <= 8


def test_a_joined_batch_that_needs_more_rows_than_the_first_ones_gets_them():
    short = [make_example(f"s{i}", [5] * 3, [6] * 2) for i in range(2048)]
    long = [make_example(f"l{i}", [5] * 64, [6] * 16) for i in range(8)]
    batches = make_batches([*short, *long], batch_size=8, pack="batch", shuffle=False)
    assert batches.num_rows == 1
    assert batches.make(0, 0)[1].num_rows == 1
    assert batches.make(0, 256)[1].num_rows == 8


def test_rows_of_joined_batches_are_as_long_as_wastes_least():
    examples = [make_example(f"e{i}", [5] * 40, [6] * 10) for i in range(8)]
    lengths = {"inputs": 128, "targets": 32}
    batches = TrainBatches([in_memory("t", examples)], 8, lengths, "batch", 0)
    # Eight rows of 64 and 32 hold one each; three of 128 and 32 hold all, three to a row.
    assert (batches.num_rows, dict(batches.row_lengths)) == (3, lengths)


def test_the_shape_of_joined_rows_is_found_in_few_tries(monkeypatch):
    tries = Counter()

    def counted(layout, first, second, *limits):
        tries[limits] += 1
        return join_rows(layout, first, second, *limits)

    monkeypatch.setattr(batching, "join_rows", counted)
    examples = make_examples(320)
    for features, lengths, allowed in (
        (DecoderOnlyFeatures(), {"inputs": 1792, "targets": 256}, 64),
        (EncoderDecoderFeatures(), {"inputs": 1024, "targets": 256}, 256),
    ):
        tries.clear()
        TrainBatches([in_memory("t", examples)], 32, lengths, "batch", 0, features=features)
        assert len(tries) <= allowed / 4
        assert max(tries.values()) == 10  # once for each batch


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_hosts_share_joined_batches(num_hosts):
    examples = make_examples(40)
    whole = take(make_batches(examples, 8, pack="batch", multiple=4), 6)
    hosts = [
        make_batches(examples, 8, "batch", host_rows=share_of(host, num_hosts), multiple=4)
        for host in range(num_hosts)
    ]
    for batch, info in whole:
        parts = [next(host) for host in hosts]
        assert all(part_info == info for _, part_info in parts)
        for name in batch:
            joined = np.concatenate([part[name] for part, _ in parts])
            np.testing.assert_array_equal(joined, batch[name], err_msg=name)
