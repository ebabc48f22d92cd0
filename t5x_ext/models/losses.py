"""Cross-entropy with z-loss and label smoothing, in sums, so that any batch can be split."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_ext import bounds
from t5x_ext.errors import ConfigError

LossNormalizingFactor = float | int | str | None
SPECIAL_FACTORS = (
    "NUM_REAL_TARGET_TOKENS",
    "NUM_TOTAL_TARGET_TOKENS",
    "AVERAGE_PER_SEQUENCE",
)


class LossSums(NamedTuple):
    """Sums over target tokens, float32 scalars; add them over microbatches and hosts.

    Attributes:
      loss: weighted cross-entropy plus z-loss.
      cross_entropy: weighted cross-entropy alone.
      z_loss: weighted z-loss alone.
      correct: weighted number of tokens whose highest logit is the target.
      weight: sum of weights.
    """

    loss: jax.Array
    cross_entropy: jax.Array
    z_loss: jax.Array
    correct: jax.Array
    weight: jax.Array


def log_probabilities(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Natural logarithms of the targets' probabilities: [B, T, V], int32 [B, T] -> [B, T]."""
    all_ids = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(all_ids, targets[..., None], axis=-1)[..., 0]


def cross_entropy_sums(
    logits: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> LossSums:
    """Weighted sums of cross-entropy and z-loss over a batch.

    With smoothing, the target gets 1 - s and every other id s / (V - 1); the entropy of that
    distribution is subtracted, so that a perfect prediction has loss 0 (as in T5X).

    Args:
      logits: float32 [B, T, V].
      targets: int32 [B, T].
      weights: float32 [B, T]; 0 takes a token out.
      label_smoothing: s, in [0, 1).
      z_loss: factor of log(Z)^2, which keeps logits from drifting.

    Returns:
      Sums, not means.
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    target_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    if label_smoothing:
        vocab_size = logits.shape[-1]
        low = label_smoothing / (vocab_size - 1)
        high = 1.0 - label_smoothing
        entropy = -(high * math.log(high) + (vocab_size - 1) * low * math.log(low + 1e-20))
        expected_logit = high * target_logit + low * (logits.sum(axis=-1) - target_logit)
        cross_entropy = log_z - expected_logit - entropy
    else:
        cross_entropy = log_z - target_logit
    z_term = z_loss * jnp.square(log_z)
    correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    return LossSums(
        loss=jnp.sum((cross_entropy + z_term) * weights),
        cross_entropy=jnp.sum(cross_entropy * weights),
        z_loss=jnp.sum(z_term * weights),
        correct=jnp.sum(correct * weights),
        weight=jnp.sum(weights),
    )


def zero_sums() -> LossSums:
    """The sums over no tokens."""
    return LossSums(*(jnp.zeros((), jnp.float32),) * len(LossSums._fields))


def cross_entropy_gradient(
    logits: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[LossSums, jax.Array]:
    """`cross_entropy_sums`, and the gradient of their `loss`: float32 [B, T, V].

    With p the softmax and q the smoothed target distribution, the gradient of a token is
    weight * ((1 + 2 * z_loss * log Z) * p - q). Written out, since a derived one would scatter
    into an array of this size to subtract q.
    """
    sums = cross_entropy_sums(logits, targets, weights, label_smoothing, z_loss)
    log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    probabilities = jnp.exp(logits - log_z)
    is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
    low = label_smoothing / (logits.shape[-1] - 1)
    wanted = jnp.where(is_target, 1.0 - label_smoothing, low)
    return sums, weights[..., None] * ((1.0 + 2.0 * z_loss * log_z) * probabilities - wanted)


def check_normalizing_factor(factor: LossNormalizingFactor) -> None:
    """Raises ConfigError unless `factor` is None, a positive number or one of the named rules."""
    if isinstance(factor, str) and factor not in SPECIAL_FACTORS:
        raise ConfigError(
            f"LOSS_NORMALIZING_FACTOR: unknown {factor!r}; allowed: a number, None, "
            f"{', '.join(SPECIAL_FACTORS)}"
        )
    if factor is not None and not isinstance(factor, str):
        bounds.check_positive("LOSS_NORMALIZING_FACTOR", factor)


def apply_weighting_rule(
    factor: LossNormalizingFactor, weights: jax.Array, segment_ids: jax.Array
) -> jax.Array:
    """Token weights under T5X's rule; only AVERAGE_PER_SEQUENCE changes them.

    AVERAGE_PER_SEQUENCE divides a token's weight by the weight of its sequence, so that every
    example counts alike however long its target is (segments of packed rows count apart).

    Args:
      factor: a number, None or a named rule.
      weights: float32 [B, T].
      segment_ids: int32 [B, T].

    Returns:
      float32 [B, T].
    """
    if factor != "AVERAGE_PER_SEQUENCE":
        return weights
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]).astype(weights.dtype)
    totals = jnp.einsum("bts,bs->bt", same, weights)
    return jnp.where(totals > 0, weights / jnp.maximum(totals, 1e-9), 0.0)


def loss_denominator(
    factor: LossNormalizingFactor, weight_sum: jax.Array, num_target_positions: int
) -> jax.Array:
    """What the summed loss of the *global* batch is divided by.

    Args:
      factor: a number (as is), None (1: the sum is the loss), NUM_REAL_TARGET_TOKENS (mean over
        real tokens), NUM_TOTAL_TARGET_TOKENS (padding counts too) or AVERAGE_PER_SEQUENCE
        (weights are already per sequence, their sum is the number of sequences).
      weight_sum: float32 scalar, over the global batch.
      num_target_positions: B * T of the global batch.
    """
    if factor is None:
        return jnp.ones((), jnp.float32)
    if factor in ("NUM_REAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE"):
        return jnp.maximum(weight_sum, 1e-9)
    if factor == "NUM_TOTAL_TARGET_TOKENS":
        return jnp.float32(num_target_positions)
    return jnp.float32(factor)
