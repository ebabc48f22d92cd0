"""Attention by our own TPU kernel, which has T5's bias by distance: when, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from t5x_ext.models.blocks import by_distance_kernel
from t5x_ext.models.blocks.pattern import Heads, Pattern
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
    own_heads = heads.num_heads // model_shards()
    if not by_distance_kernel.suits(*lengths, own_heads, heads.head_dim):
        shape = f"{lengths[0]} x {lengths[1]} positions, {own_heads} heads of {heads.head_dim}"
        return f"{shape} ({by_distance_kernel.SUITABLE})"
    return None


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
    layout = by_distance_kernel.Layout(heads.head_dim, pattern.causal, mesh, row_spec, head_spec)

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        if heads.scale != 1.0:
            query = query * heads.scale  # the kernel does not scale
        segments = pattern.query_segments, pattern.key_segments
        out = by_distance_kernel.flash_attention(layout, query, key, value, by_distance, *segments)
        return checkpoint_name(out, "heads")

    return attend


def bias_by_distance(bias: PositionBias, query_length: int, key_length: int) -> jax.Array:
    """The bias once per distance: entry j - i + Q - 1 is for query i and key j.

    Returns:
      float32 [H, Q + K]; the last entry is never used.
    """
    return bias.by_distance(np.arange(query_length + key_length) - (query_length - 1))
