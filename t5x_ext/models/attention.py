"""Attention of a T5 stack: one rule, and the paths that compute it.

The rule: logits = query . key (no scaling, T5 folds it into the query's initialisation) + relative
position bias, masked where the segments differ or, in the decoder, where the key lies ahead;
softmax in float32. `layers.dot_product_attention` states it in a few lines of XLA.
`flash_attention` computes the same on TPUs without ever writing logits to memory.

Letters used in shapes: B batch, Q query length, K key length, H heads, C head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from t5x_ext.models import flash_attention, layers
from t5x_ext.partitioning import active_partitioner

RELPOS_BUCKETS = 32
RELPOS_MAX_DISTANCE = 128
ATTENTION_PATHS = ("auto", "xla", "flash")

# (query [B, Q, H*C], key [B, K, H*C], value [B, K, H*C], dropout key or None) -> [B, Q, H*C]
Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]


class Pattern(NamedTuple):
    """Who attends to whom, the same in every layer of a stack.

    Attributes:
      query_segments: int32 [B, Q]; 0 is padding.
      key_segments: int32 [B, K]; 0 is padding, which nothing attends to.
      causal: True hides keys that lie ahead of the query.
      position_table: float32 [H, buckets] of relative position biases, or None.
      bidirectional: whether the table tells keys ahead from keys behind.
    """

    query_segments: jax.Array
    key_segments: jax.Array
    causal: bool = False
    position_table: jax.Array | None = None
    bidirectional: bool = True


def make_attend(
    pattern: Pattern, num_heads: int, head_dim: int, dropout_rate: float, path: str = "auto"
) -> Attend:
    """Prepares what all layers of a stack share, and returns the function that each calls.

    Args:
      pattern: masks and biases.
      num_heads: H.
      head_dim: C.
      dropout_rate: share of attention weights dropped when a key is given.
      path: 'xla', 'flash', or 'auto': the kernel on a TPU mesh where the shapes suit it.
    """
    inner = (
        _flash(pattern, num_heads, head_dim)
        if _takes_flash(pattern, num_heads, head_dim, path)
        else _reference(pattern, num_heads)
    )

    def attend(query: jax.Array, key: jax.Array, value: jax.Array, dropout_key: jax.Array | None):
        return inner(query, key, drop_keys(value, num_heads, dropout_rate, dropout_key))

    return attend


def drop_keys(
    value: jax.Array, num_heads: int, rate: float, dropout_key: jax.Array | None
) -> jax.Array:
    """Dropout of attention weights, applied to the values. [B, K, H*C] -> same.

    T5X drops the same keys for every query of a head: weights [B, H, Q, K] times a mask
    [B, H, 1, K]. That mask can as well multiply the values, which are smaller.
    """
    if dropout_key is None or rate == 0.0:
        return value
    split = layers.split_heads(value, num_heads)
    return layers.dropout(split, rate, dropout_key, broadcast_axis=-1).reshape(value.shape)


def segment_mask(pattern: Pattern) -> jax.Array:
    """True where a query may look at a key: bool [B, 1, Q, K]."""
    same = pattern.query_segments[:, :, None] == pattern.key_segments[:, None, :]
    mask = same & (pattern.key_segments > 0)[:, None, :]
    if pattern.causal:
        mask &= jnp.tril(jnp.ones(mask.shape[1:], bool))
    return mask[:, None]


def _reference(pattern: Pattern, num_heads: int) -> Callable[..., jax.Array]:
    mask = segment_mask(pattern)
    bias = None
    if pattern.position_table is not None:
        lengths = pattern.query_segments.shape[1], pattern.key_segments.shape[1]
        bias = layers.relative_position_bias(
            pattern.position_table, *lengths, pattern.bidirectional, RELPOS_MAX_DISTANCE
        )

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        q, k, v = (layers.split_heads(x, num_heads) for x in (query, key, value))
        return layers.dot_product_attention(q, k, v, bias, mask).reshape(query.shape)

    return attend


def _takes_flash(pattern: Pattern, num_heads: int, head_dim: int, path: str) -> bool:
    if path == "xla":
        return False
    partitioner = active_partitioner()
    parts = 1 if partitioner is None else partitioner.mesh.shape["model"]
    lengths = pattern.query_segments.shape[1], pattern.key_segments.shape[1]
    suits = num_heads % parts == 0 and flash_attention.suits(*lengths, num_heads // parts, head_dim)
    if path == "flash":
        return suits
    return suits and partitioner is not None and partitioner.platform == "tpu"


def _flash(pattern: Pattern, num_heads: int, head_dim: int) -> Callable[..., jax.Array]:
    """The kernel on this device's rows and heads; it knows nothing of meshes."""
    query_length, key_length = pattern.query_segments.shape[1], pattern.key_segments.shape[1]
    by_distance = None
    if pattern.position_table is not None:
        by_distance = bias_by_distance(
            pattern.position_table, query_length, key_length, pattern.bidirectional
        )
    partitioner = active_partitioner()
    rows, heads = PartitionSpec(), PartitionSpec()
    mesh = None
    if partitioner is not None:
        mesh = partitioner.mesh
        rows = partitioner.spec(("batch", "length", "joined_kv"))
        heads = partitioner.spec(("heads", None))
    layout = flash_attention.Layout(head_dim, pattern.causal, mesh, rows, heads)

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        segments = pattern.query_segments, pattern.key_segments
        return flash_attention.flash_attention(layout, query, key, value, by_distance, *segments)

    return attend


def bias_by_distance(
    table: jax.Array, query_length: int, key_length: int, bidirectional: bool
) -> jax.Array:
    """The same biases once per distance: entry j - i + Q - 1 is for query i and key j.

    Returns:
      float32 [H, Q + K]; the last entry is never used.
    """
    distance = np.arange(query_length + key_length) - (query_length - 1)
    buckets = layers.relative_position_buckets(
        distance, bidirectional, table.shape[-1], RELPOS_MAX_DISTANCE
    )
    return table.astype(jnp.float32)[:, buckets]
