"""Prefetching: the order, and errors of the source."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from t5x_ext.data.prefetching import prefetch

REPO = Path(__file__).resolve().parents[2]


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


EXITING = """
import sys
import jax
import jax.numpy as jnp
from t5x_ext.data.prefetching import prefetch
from t5x_ext.terminal import exit_status

multiply = jax.jit(lambda x: x @ x)

def batches():
    while True:
        x = jnp.ones((512, 512))
        for _ in range(20):
            x = multiply(x).block_until_ready()
        yield x

def call():
    stream = prefetch(batches())
    next(stream)
    globals()["stream"] = stream  # nobody closes it
    raise KeyboardInterrupt

sys.exit(exit_status(call))
"""


def test_an_exit_while_a_batch_is_made_does_not_abort():
    """A daemon thread that is cut off in native code ends the process with SIGABRT."""
    done = subprocess.run([sys.executable, "-c", EXITING], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
