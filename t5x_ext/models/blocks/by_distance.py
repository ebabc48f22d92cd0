"""Attention by our own TPU kernel, which has T5's bias by distance: when, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from t5x_ext.models.blocks import by_distance_kernel
from t5x_ext.models.blocks.pattern import Heads, Pattern, split_heads
from t5x_ext.models.blocks.per_device import model_shards, uneven
from t5x_ext.models.blocks.positions import PositionBias
from t5x_ext.partitioning import active_partitioner


def obstacle(pattern: Pattern, heads: Heads, dtype: Any) -> str | None:
    """Why the kernel cannot compute this, or None."""
    del dtype  # it takes all that models compute in
    if heads.kv != heads.num_heads:
        return str(heads)
    if pattern.prefix is not None:
        return "a prompt that sees itself whole"
    parted = uneven(heads)
    if parted is not None:
        return parted
    lengths = pattern.query_segments.shape[1], pattern.key_segments.shape[1]
    if not by_distance_kernel.suits(*lengths) or _head_dim(heads) is None:
        shape = f"{lengths[0]} x {lengths[1]} positions, {heads}"
        return f"{shape} ({by_distance_kernel.SUITABLE})"
    return None


def _head_dim(heads: Heads) -> int | None:
    return by_distance_kernel.padded_head_dim(heads.num_heads // model_shards(), heads.head_dim)


def build(pattern: Pattern, heads: Heads) -> Callable[..., jax.Array]:
    """The kernel on this device's rows and heads; it knows nothing of meshes."""
    query_length, key_length = pattern.query_segments.shape[1], pattern.key_segments.shape[1]
    by_distance = None
    if pattern.bias is not None:
        by_distance = bias_by_distance(pattern.bias, query_length, key_length)
    partitioner = active_partitioner()
    row_spec, head_spec = PartitionSpec(), PartitionSpec()
    mesh = None
    if partitioner is not None:
        mesh = partitioner.mesh
        row_spec = partitioner.spec(("batch", "length", "joined_kv"))
        head_spec = partitioner.spec(("heads", None))
    head_dim = _head_dim(heads)
    assert head_dim is not None  # `obstacle` was asked
    layout = by_distance_kernel.Layout(head_dim, pattern.causal, mesh, row_spec, head_spec)

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        if heads.scale != 1.0:
            query = query * heads.scale  # the kernel does not scale
        padded = (_resize(x, heads.num_heads, head_dim) for x in (query, key, value))
        segments = pattern.query_segments, pattern.key_segments
        out = by_distance_kernel.flash_attention(layout, *padded, by_distance, *segments)
        return checkpoint_name(_resize(out, heads.num_heads, heads.head_dim), "heads")

    return attend


def _resize(x: jax.Array, num_heads: int, head_dim: int) -> jax.Array:
    """Heads of [B, L, H*C] made longer, with zeros at the end, or shorter."""
    more = head_dim - x.shape[-1] // num_heads
    if more == 0:
        return x
    rows = split_heads(x, num_heads)
    rows = jnp.pad(rows, ((0, 0),) * 3 + ((0, more),)) if more > 0 else rows[..., :head_dim]
    return rows.reshape(*x.shape[:-1], -1)


def bias_by_distance(bias: PositionBias, query_length: int, key_length: int) -> jax.Array:
    """The bias once per distance: entry j - i + Q - 1 is for query i and key j.

    Returns:
      float32 [H, Q + K]; the last entry is never used.
    """
    return bias.static_bias(np.arange(query_length + key_length) - (query_length - 1))
