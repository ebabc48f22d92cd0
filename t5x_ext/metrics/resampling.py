"""Bootstrap: scores of statistics that were drawn again with replacement and summed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from t5x_ext.metrics.metric import mean_of, with_ones

BOOTSTRAP_SAMPLES = 2000
LEVEL = 0.95
_CHUNK = 100  # resamples drawn at once: 100 x 11,810 indices are 9 MB

Finish = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A score with its percentile bootstrap interval at `LEVEL`; all three in the same unit."""

    mean: float
    low: float
    high: float


def total(statistics: np.ndarray) -> np.ndarray:
    """Sum over rows, [rows, k] -> [k]; each statistic by NumPy's pairwise summation."""
    return np.ascontiguousarray(statistics.T).sum(axis=1)


def resample(
    statistics: np.ndarray, finish: Finish, seed: int | np.random.Generator = 0
) -> np.ndarray:
    """Scores of `BOOTSTRAP_SAMPLES` draws of all units with replacement.

    The draws depend on (number of units, seed) alone, so that two systems scored on the same units
    are resampled in pairs.

    Args:
        statistics: [units, k], units >= 1.
        finish: [..., k] -> [...].
        seed: of the draws; a generator continues where it is.

    Returns:
        [BOOTSTRAP_SAMPLES] scores.
    """
    rng = np.random.default_rng(seed)
    n = len(statistics)
    first = n * np.arange(_CHUNK)[:, None]
    scores = []
    for _ in range(BOOTSTRAP_SAMPLES // _CHUNK):
        draws = rng.integers(n, size=(_CHUNK, n)) + first
        times = np.bincount(draws.ravel(), minlength=_CHUNK * n).reshape(_CHUNK, n)
        scores.append(finish(times.astype(statistics.dtype) @ statistics))
    return np.concatenate(scores)


def percentile_bounds(samples: np.ndarray) -> tuple[float, float]:
    """The central `LEVEL` of bootstrap samples [n]; infinite samples are kept as they are."""
    tail = (1 - LEVEL) / 2
    # "nearest" never averages a finite value with an infinite one.
    low, high = np.quantile(samples, [tail, 1 - tail], method="nearest")
    return float(low), float(high)


def interval(statistics: np.ndarray, finish: Finish, seed: int = 0) -> Interval:
    """Score of all units, and its interval when the units are drawn again with replacement."""
    low, high = percentile_bounds(resample(statistics, finish, seed))
    return Interval(float(finish(total(statistics))), low, high)


def mean_interval(values: np.ndarray, seed: int = 0) -> Interval:
    """Mean of `values` [n], n >= 1, and its interval; a pure function of (values, seed)."""
    return interval(with_ones(values), mean_of, seed)


def difference_interval(
    first: np.ndarray, second: np.ndarray, finish: Finish, seed: int = 0
) -> Interval:
    """How much higher the first score is than the second; both on the same units, in pairs."""
    samples = resample(first, finish, seed) - resample(second, finish, seed)
    apart = finish(total(first)) - finish(total(second))
    return Interval(float(apart), *percentile_bounds(samples))


def sum_units(statistics: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Sums the rows of each unit, [rows, k] -> [units, k], units in order of first appearance.

    Args:
        statistics: [rows, k].
        units: [rows] integers; rows of equal number belong together.
    """
    _, first, unit = np.unique(units, return_index=True, return_inverse=True)
    if len(first) == len(units):
        return statistics
    place = np.empty(len(first), int)
    place[np.argsort(first)] = np.arange(len(first))
    sums = np.zeros((len(first), statistics.shape[1]), statistics.dtype)
    np.add.at(sums, place[unit], statistics)
    return sums
