"""Attention in XLA: the rule that all paths follow, and the path that is always there.

Letters used in shapes: B batch, Q query length, K key length, H heads, G key heads, C head_dim.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from t5x_ext.models.blocks.pattern import MASKED, Heads, Pattern, segment_mask, split_heads

# Queries that a causal row computes at a time: shorter blocks gain little on a CPU, and every block
# is compiled.
SHORTEST_BLOCK, MOST_BLOCKS = 128, 8


def dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    scale: float = 1.0,
) -> jax.Array:
    """The rule in XLA.

    Args:
      query: [B, Q, H, C].
      key: [B, K, G, C].
      value: [B, K, G, C].
      bias: float32 [1, H, Q, K], added to the logits, or [B, H, Q, K] where nothing is derived;
        None for none.
      mask: bool, broadcastable to [B, H, Q, K]; False positions are not attended to.
      scale: factor of query . key.

    Returns:
      [B, Q, H, C] in the dtype of `value`.
    """
    shares = query.shape[2] // key.shape[2]
    if shares > 1:
        # The query heads that share a key head become queries of one attention.
        return _grouped(query, key, value, bias, mask, scale)
    logits = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32)
    weights = _softmax(logits, bias, mask, scale).astype(value.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, value)


def _grouped(query, key, value, bias, mask, scale) -> jax.Array:
    # One product a key head, for the queries of all heads that share it: with an axis for these it
    # took 1.5 times as long forward, and twice as long backward, on a CPU.
    batch, length, num_heads, head_dim = query.shape
    kv = key.shape[2]
    queries = query.reshape(batch, length, kv, -1, head_dim)
    queries = queries.transpose(0, 2, 3, 1, 4).reshape(batch, kv, -1, head_dim)
    keys, values = key.transpose(0, 2, 3, 1), value.transpose(0, 2, 1, 3)
    logits = jnp.einsum("bgqc,bgck->bgqk", queries, keys, preferred_element_type=jnp.float32)
    by_head = logits.reshape(batch, num_heads, length, -1)
    weights = _softmax(by_head, bias, mask, scale).astype(value.dtype).reshape(logits.shape)
    heads = jnp.einsum("bgqk,bgkc->bgqc", weights, values)
    heads = heads.reshape(batch, kv, -1, length, head_dim).transpose(0, 3, 1, 2, 4)
    return heads.reshape(batch, length, num_heads, head_dim)


def _softmax(
    logits: jax.Array, bias: jax.Array | None, mask: jax.Array | None, scale: float
) -> jax.Array:
    """Weights over keys, float32 [B, H, Q, K]."""
    if scale != 1.0:
        logits = logits * scale
    if bias is not None:
        logits = add_bias(logits, bias)
    if mask is not None:
        logits = jnp.where(mask, logits, MASKED)
    return jax.nn.softmax(logits, axis=-1)


@jax.custom_vjp
def add_bias(logits: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias that all rows share: [B, H, Q, K] + [1, H, Q, K], float32 both.

    The sum of rows' own biases, [B, H, Q, K], has no derivative here.
    """
    return logits + bias


def _add_bias_forward(logits: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return add_bias(logits, bias), None


def _add_bias_backward(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    # A product with ones, where autodiff has a sum: XLA's CPU compiler merges the sums of all
    # layers into one loop, which goes through them number by number with long strides.
    ones = jnp.ones(gradient.shape[0], gradient.dtype)
    return gradient, jnp.einsum("b,bhqk->hqk", ones, gradient, precision="highest")[None]


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def build(pattern: Pattern, heads: Heads) -> Callable[..., jax.Array]:
    """Attention in XLA: (query [B, Q, H*C], key [B, K, G*C], value [B, K, G*C]) -> [B, Q, H*C]."""
    mask = segment_mask(pattern)
    bias = None
    if pattern.bias is not None:
        query_length, key_length = pattern.query_segments.shape[1], pattern.key_segments.shape[1]
        distance = np.arange(key_length)[None, :] - np.arange(query_length)[:, None]
        bias = pattern.bias.static_bias(distance)[None]
    is_triangle = pattern.causal and pattern.prefix is None
    attend_split = _by_query_block if is_triangle else dot_product_attention

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        q = split_heads(query, heads.num_heads)
        k, v = split_heads(key, heads.kv), split_heads(value, heads.kv)
        out = attend_split(q, k, v, bias, mask, heads.scale)
        return checkpoint_name(out.reshape(query.shape), "heads")

    return attend


def _by_query_block(query, key, value, bias, mask, scale) -> jax.Array:
    """`dot_product_attention` of a causal row with itself: the same values for fewer products.

    A block of queries is multiplied with the keys up to its own last one, so that n blocks compute
    and hold (n + 1) / (2 n) of the logits. Only positions of padding come out otherwise: theirs is
    the mean of the keys they are given.
    """
    length = query.shape[1]
    size = max(SHORTEST_BLOCK, -(-length // MOST_BLOCKS))
    blocks = []
    for start in range(0, length, size):
        end = min(start + size, length)
        block_bias = None if bias is None else bias[:, :, start:end, :end]
        block_mask = mask[:, :, start:end, :end]
        keys, values = key[:, :end], value[:, :end]
        blocks.append(
            dot_product_attention(query[:, start:end], keys, values, block_bias, block_mask, scale)
        )
    return jnp.concatenate(blocks, axis=1)
