"""The pieces of a T5 layer, as functions of (parameters, activations).

Letters used in shapes: B batch, Q query length, K key length, D emb_dim, H heads, C head_dim,
F mlp_dim. Activations are in the compute dtype; norms, attention logits and softmax are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from t5x_ext.models.params import Params

# Finite, so that a row with nothing to attend to gives a uniform softmax instead of NaN.
MASKED = -1e10

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
    "linear": lambda x: x,
}


def rms_norm(scale: jax.Array, x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Root-mean-square norm without mean or bias, computed in float32. [..., D] -> [..., D]."""
    x32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + epsilon)
    return (x32 * inverse * scale).astype(x.dtype)


def dense(params: Params, x: jax.Array) -> jax.Array:
    """Product with `params['kernel']` in the dtype of `x`. [..., in] -> [..., out].

    Rows are laid in one axis first: the kernel's gradient then contracts one axis, which XLA on
    CPUs computes without a transposed copy of both operands (28% of an encoder's step).
    """
    rows = x.reshape(-1, x.shape[-1]) @ params["kernel"].astype(x.dtype)
    return rows.reshape(*x.shape[:-1], -1)


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
    """The key of one dropout site within a layer; None stays None."""
    return None if key is None else jax.random.fold_in(key, site)


def mlp(
    params: Params,
    x: jax.Array,
    activations: Sequence[str],
    dropout_rate: float,
    key: jax.Array | None,
) -> jax.Array:
    """Feed-forward block; several activations are multiplied (gated GELU). [B, Q, D] -> same."""
    hidden: Any = None
    for index, name in enumerate(activations):
        kernel = "wi" if len(activations) == 1 else f"wi_{index}"
        branch = ACTIVATIONS[name](checkpoint_name(dense(params[kernel], x), kernel))
        hidden = branch if hidden is None else hidden * branch
    hidden = dropout(hidden, dropout_rate, key, broadcast_axis=-2)  # [B, Q, F]
    return dense(params["wo"], hidden)


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """[B, Q, H*C] -> [B, Q, H, C]."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
) -> jax.Array:
    """Attention without scaling: T5 folds 1/sqrt(C) into the query's initialisation.

    Args:
      query: [B, Q, H, C].
      key: [B, K, H, C].
      value: [B, K, H, C].
      bias: float32 [1, H, Q, K], added to the logits; None for none.
      mask: bool, broadcastable to [B, H, Q, K]; False positions are not attended to.

    Returns:
      [B, Q, H, C] in the dtype of `value`.
    """
    logits = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = add_bias(logits, bias)
    if mask is not None:
        logits = jnp.where(mask, logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, value)


@jax.custom_vjp
def add_bias(logits: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias that all rows share: [B, H, Q, K] + [1, H, Q, K], float32 both."""
    return logits + bias


def _add_bias_forward(logits: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return add_bias(logits, bias), None


def _add_bias_backward(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    # A product with ones, where autodiff has a sum: XLA's CPU compiler merges the sums of all
    # layers into one loop, which goes through them number by number with long strides.
    ones = jnp.ones(gradient.shape[0], gradient.dtype)
    return gradient, jnp.einsum("b,bhqk->hqk", ones, gradient, precision="highest")[None]


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def relative_position_buckets(
    distance: np.ndarray, bidirectional: bool, num_buckets: int, max_distance: int
) -> np.ndarray:
    """Bucket of a distance (key position - query position): exact when near, logarithmic when far.

    Source: T5 (Raffel et al. 2020, section 2.1); same rounding as T5X and Hugging Face.

        -distance (causal)  0  1  2 ... 15  16..18  19..20 ...  >= 113
        bucket of 32        0  1  2 ... 15  16      17     ...  31

    Returns:
      int32, shaped as `distance`.
    """
    offset = np.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        offset = np.where(distance > 0, num_buckets, 0)
        size = np.abs(distance)
    else:
        size = np.maximum(-distance, 0)
    num_exact = num_buckets // 2
    # float32 throughout: float64 would round a few far distances into another bucket than T5X.
    log_ratio = np.log(size.astype(np.float32) / num_exact + np.finfo(np.float32).eps)
    log_ratio = log_ratio / np.float32(np.log(max_distance / num_exact))
    far = num_exact + (log_ratio * (num_buckets - num_exact)).astype(np.int32)
    bucket = np.where(size < num_exact, size, np.minimum(far, num_buckets - 1))
    return (bucket + offset).astype(np.int32)


def relative_position_bias(
    table: jax.Array,
    query_length: int,
    key_length: int,
    bidirectional: bool,
    max_distance: int,
) -> jax.Array:
    """Looks up `table` [H, num_buckets] for every pair of positions: float32 [1, H, Q, K].

    Packed segments are contiguous, so a distance between two positions of a row is also their
    distance within the segment; pairs of different segments are masked elsewhere.
    """
    distance = np.arange(key_length)[None, :] - np.arange(query_length)[:, None]
    buckets = relative_position_buckets(distance, bidirectional, table.shape[-1], max_distance)
    return table.astype(jnp.float32)[:, buckets][None]
