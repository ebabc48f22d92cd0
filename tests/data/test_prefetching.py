"""Prefetching: the order, and errors of the source."""

from __future__ import annotations

import threading

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


def test_prefetch_works_ahead_and_ends_when_nobody_wants_more():
    made = []

    def numbers():
        for number in range(1000):
            made.append(number)
            yield number

    before = set(threading.enumerate())
    stream = prefetch(numbers(), depth=2)
    assert next(stream) == 0
    (worker,) = set(threading.enumerate()) - before
    stream.close()
    worker.join(timeout=10)
    assert not worker.is_alive()
    assert len(made) <= 5
