"""Random operands of attention, packed in segments."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext.models.blocks.pattern import Heads
from t5x_ext.models.blocks.positions import RelativeBias

HEADS, HEAD_DIM, BUCKETS = 4, 64, 32
SHAPE = Heads(HEADS, HEAD_DIM)


def bias_of(table: jax.Array, bidirectional: bool = True) -> RelativeBias:
    bias = RelativeBias(*table.shape, 128, bidirectional)
    bias.rel_embedding.set_value(table)
    return bias


def packed_segments(rng: np.random.Generator, batch: int, length: int) -> jax.Array:
    """Three segments a row and some padding at the end."""
    rows = []
    for _ in range(batch):
        cuts = np.sort(rng.choice(np.arange(1, length), 3, replace=False))
        row = np.searchsorted(cuts, np.arange(length), side="right") + 1
        rows.append(np.where(row == 4, 0, row))
    return jnp.asarray(np.stack(rows), jnp.int32)


def operands(query_length: int, key_length: int, batch: int = 2, heads: int = HEADS):
    rng = np.random.default_rng(0)
    width = heads * HEAD_DIM
    query, key, value, grad = (
        jnp.asarray(rng.normal(size=(batch, length, width)) / 8, jnp.float32)
        for length in (query_length, key_length, key_length, query_length)
    )
    table = jnp.asarray(rng.normal(size=(heads, BUCKETS)), jnp.float32)
    segments = packed_segments(rng, batch, query_length), packed_segments(rng, batch, key_length)
    return query * 8, key * 8, value, grad, table, segments
