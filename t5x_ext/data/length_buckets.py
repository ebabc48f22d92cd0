"""Lengths that rows may have: few, so that few shapes are compiled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from t5x_ext.errors import ConfigError

_NUM_SIZES = 8


def batches_by_length(
    lengths: Sequence[int] | np.ndarray, batch_size: int, buckets: Sequence[int]
) -> Iterator[tuple[np.ndarray, int]]:
    """Places in `lengths`, longest first, in batches.

    Yields:
        places: int64 [n], at most `batch_size`.
        length: the smallest bucket that holds the longest of them.

    Raises:
        ConfigError: a length is beyond the largest bucket.
    """
    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield chosen, smallest_holding(int(lengths[chosen[0]]), buckets, "inputs")


def make_length_buckets(limit: int, smallest: int = 64, per_doubling: int = 1) -> tuple[int, ...]:
    """Lengths up to `limit`, that many for each doubling of `smallest`, evenly spaced in between.

    400, per_doubling 1 -> 64, 128, 256, 400
    400, per_doubling 2 -> 64, 96, 128, 192, 256, 384, 400
    """
    buckets = []
    while smallest < limit:
        between = (smallest + smallest * part // per_doubling for part in range(per_doubling))
        buckets += [length for length in between if length < limit]
        smallest *= 2
    return (*buckets, limit)


def joined_size(num_rows: int, batch_size: int, multiple: int) -> int:
    """The least number of rows that joined batches may have and that is not below `num_rows`.

    There are at most 8, each of which compiles its own step: 16 examples, multiple 1 -> 2, 4,
    6, ... 16 rows.

    Args:
        num_rows: rows that are needed.
        batch_size: examples of a batch.
        multiple: what every number of rows is a multiple of; divides batch_size.
    """
    step = -(-(batch_size // multiple) // _NUM_SIZES) * multiple
    return min(-(-num_rows // step) * step, batch_size)


def multiples(step: int, limit: int) -> tuple[int, ...]:
    """Multiples of `step` up to `limit`, which is always among them: 32, 80 -> 32, 64, 80."""
    return (*range(step, limit, step), limit)


def smallest_holding(longest: int, lengths: Sequence[int], side: str) -> int:
    """The smallest of the ascending `lengths` that holds `longest` tokens."""
    for length in lengths:
        if length >= longest:
            return length
    raise ConfigError(
        f"{side}: an example of {longest} tokens; allowed: {lengths[-1]} (TASK_FEATURE_LENGTHS)"
    )
