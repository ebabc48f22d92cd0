"""Counts metrics on rows, in several processes where there is much to count."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from t5x_ext.metrics.metric import Metric
from t5x_ext.metrics.predictions import Prediction

_MIN_ROWS = 1000  # fewer are counted sooner than processes start


class Count(NamedTuple):
    """What is to be counted: one metric on the rows of one task."""

    metric: Metric
    rows: Sequence[Prediction]

    def statistics(self) -> np.ndarray:
        """[rows, k], see `Metric.statistics`."""
        return self.metric.statistics(self.rows)


# What the processes of `statistics_of` find when they start; a fork need not send it.
_batches: list[list[Count]] = []


def statistics_of(counts: Sequence[Count], processes: int = 1) -> list[np.ndarray]:
    """The statistics of each, in order; the same from any number of processes.

    Args:
        counts: see `Count`.
        processes: to share the work, at most. They are forks of this one, which must have started
            no threads: it may not have used JAX. On other systems than Linux there is one.
    """
    # Metrics of one class remember each other's tokens or edits, so one process counts them.
    by_class: dict[type[Metric], list[int]] = {}
    for place, count in enumerate(counts):
        by_class.setdefault(type(count.metric), []).append(place)
    is_much = max((len(count.rows) for count in counts), default=0) >= _MIN_ROWS
    processes = min(processes, len(by_class))
    if not is_much or processes < 2 or sys.platform != "linux" or "jax" in sys.modules:
        return [count.statistics() for count in counts]
    _batches[:] = [[counts[i] for i in places] for places in by_class.values()]
    try:
        forks = multiprocessing.get_context("fork")
        with forks.Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
            found = pool.map(_count_batch, range(len(_batches)), chunksize=1)
    finally:
        _batches.clear()
    places = itertools.chain.from_iterable(by_class.values())
    by_place = dict(zip(places, itertools.chain.from_iterable(found), strict=True))
    return [by_place[i] for i in range(len(counts))]


def _count_batch(number: int) -> list[np.ndarray]:
    return [count.statistics() for count in _batches[number]]
