"""Prefetching: the order, and errors of the source."""

from __future__ import annotations

import pytest

from t5x_ext.data.prefetching import prefetch


def test_prefetch_keeps_order_and_raises_errors_at_their_place():
    def numbers():
        yield from range(10)
        raise OSError("disk gone")

    stream = prefetch(numbers())
    assert [next(stream) for _ in range(10)] == list(range(10))
    with pytest.raises(OSError, match="disk gone"):
        next(stream)
    assert list(prefetch(iter(range(100)), depth=3)) == list(range(100))
