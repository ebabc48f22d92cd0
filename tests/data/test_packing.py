"""Packing plans: nothing lost, nothing split, nothing overlapping, and dense."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_ext.data.packing import lay_out, pack_rows


def superni_like_lengths(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of about 400 tokens with a long tail and answers of a few, cut at 1024 and 128."""
    random = np.random.RandomState(0)
    inputs = np.clip(random.lognormal(5.8, 0.6, count), 30, 1024).astype(np.int64)
    targets = np.clip(random.lognormal(1.8, 1.0, count), 2, 128).astype(np.int64)
    return inputs, targets


@settings(max_examples=100, deadline=None)
@given(
    sides=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10)), max_size=60),
    open_rows=st.integers(1, 8),
)
def test_every_example_has_its_own_place_inside_a_row(sides, open_rows):
    lengths = np.array(sides, np.int64).reshape(-1, 2)
    rows = pack_rows(lengths[:, 0], lengths[:, 1], 20, 10, open_rows)
    layout = lay_out(rows, lengths[:, 0], lengths[:, 1])

    assert sorted(layout.items) == list(range(len(sides)))
    assert sorted(set(layout.rows)) == list(range(layout.num_rows))
    for starts, column, limit in ((layout.encoder_starts, 0, 20), (layout.decoder_starts, 1, 10)):
        taken = np.zeros((layout.num_rows, limit), np.int64)
        for item, row, start in zip(layout.items, layout.rows, starts, strict=True):
            stop = start + lengths[item, column]
            assert stop <= limit
            taken[row, start:stop] += 1
        assert taken.max(initial=0) <= 1
    for row in range(layout.num_rows):
        segments = layout.segments[layout.rows == row]
        np.testing.assert_array_equal(segments, np.arange(len(segments)) + 1)


def test_part_is_the_same_rows_counted_from_zero():
    inputs, targets = superni_like_lengths(50)
    layout = lay_out(pack_rows(inputs, targets, 1024, 128), inputs, targets)
    part = layout.part(3, 6)
    chosen = (layout.rows >= 3) & (layout.rows < 6)
    assert part.num_rows == 3
    np.testing.assert_array_equal(part.items, layout.items[chosen])
    np.testing.assert_array_equal(part.rows, layout.rows[chosen] - 3)
    beyond = layout.part(layout.num_rows, layout.num_rows + 4)
    assert beyond.num_rows == 4
    assert len(beyond.items) == 0


@pytest.mark.parametrize("row_lengths", [(1024, 128), (1024, 256)])
def test_density_on_superni_like_lengths(row_lengths):
    inputs, targets = superni_like_lengths(20_000)
    num_rows = pack_rows(inputs, targets, *row_lengths).max() + 1
    assert inputs.sum() / (num_rows * row_lengths[0]) > 0.98


def test_small_data_sets_are_dense_too():
    inputs, targets = superni_like_lengths(100)
    num_rows = pack_rows(inputs, targets, 1024, 128).max() + 1
    assert num_rows <= np.ceil(inputs.sum() / 1024) + 2


def test_a_full_decoder_closes_a_row_that_still_has_encoder_room():
    ones = np.ones(4, np.int64)
    rows = pack_rows(ones, 3 * ones, 100, 6)
    assert np.bincount(rows).tolist() == [2, 2]
