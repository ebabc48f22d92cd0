"""Dropout as T5X draws it: masks shared along one axis, keys passed as arguments."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def dropout(
    x: jax.Array, rate: float, key: jax.Array | None, broadcast_axis: int | None
) -> jax.Array:
    """Dropout whose mask is shared along one axis, as T5X shares it along length.

    Args:
      x: activations.
      rate: share of values set to zero.
      key: PRNG key; None switches dropout off.
      broadcast_axis: axis along which one mask is used for all positions; None for none.
    """
    if key is None or rate == 0.0:
        return x
    mask_shape = list(x.shape)
    if broadcast_axis is not None:
        mask_shape[broadcast_axis] = 1
    keep = jax.random.bernoulli(key, 1.0 - rate, tuple(mask_shape))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x)).astype(x.dtype)


def fold_key(key: jax.Array | None, site: int) -> jax.Array | None:
    """The key of one place where dropout is applied; None stays None."""
    return None if key is None else jax.random.fold_in(key, site)
