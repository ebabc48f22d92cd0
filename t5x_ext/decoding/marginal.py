"""Prompts that share one output: a mixture of what each of them makes probable, token by token.

    p(y_t | x, y_<t) = sum_j p(d_j | x) p(y_t | x, d_j, y_<t)

(Kang et al. 2023, eq. 2; RAG-Token of Lewis et al. 2020). Distributions are mixed, not logits and
not whole outputs. Whatever restricts or sharpens the choice of a token acts on the mixture.

Letters used in shapes: B outputs, C prompts ("contexts") of each, T output length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def marginalise(logits: jax.Array, log_weights: jax.Array) -> jax.Array:
    """The logarithm of the mixture.

    Args:
      logits: float32 [B, C, ..., V], of any scale.
      log_weights: float32 [B, C], natural logarithms of the contexts' weights; -inf where an output
        has fewer than C contexts, whose logits then count for nothing, not even as NaN.

    Returns:
      float32 [B, ..., V], log-probabilities; -inf throughout where all weights are.
    """
    weights = log_weights.reshape(*log_weights.shape, *(1,) * (logits.ndim - 2))
    each = jnp.where(weights > -jnp.inf, jax.nn.log_softmax(logits) + weights, -jnp.inf)
    largest = jnp.max(each, axis=1, keepdims=True)
    # -inf - -inf is NaN: where nothing is possible, subtract nothing.
    shift = jnp.where(largest > -jnp.inf, largest, 0.0)
    return jnp.log(jnp.sum(jnp.exp(each - shift), axis=1)) + shift[:, 0]


def mix_scores(log_probs: Sequence[np.ndarray], log_weights: Sequence[float]) -> np.ndarray:
    """Log-probabilities of one given output under the mixture, token by token.

    Args:
      log_probs: float [T] of the output's tokens, given each context.
      log_weights: as of `marginalise`.

    Returns:
      float64 [T].
    """
    each = np.stack([np.asarray(one, np.float64) for one in log_probs])
    return np.logaddexp.reduce(each + np.asarray(log_weights)[:, None], axis=0)
