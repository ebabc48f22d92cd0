"""Attention by JAX's splash kernel for TPUs: grouped heads, and rows of any length.

The kernel skips blocks of keys that lie ahead, holds one block of logits at a time, and keeps the
logarithm of each row's sum for its backward pass. It has no bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from t5x_ext.models.blocks.pattern import Heads, Pattern, beyond_causal, split_heads
from t5x_ext.models.blocks.per_device import is_on_tpu, per_device, uneven

# Positions in a block, the longest that divides a row. n blocks in a row compute (n + 1) / (2 n) of
# all logits, and each pair of blocks is a program: JAX's default of 128 starts 16 times as many for
# little less to compute. Chosen without a measurement.
BLOCKS = (512, 256, 128)
_HEAD_DIM = 64  # heads that fill half of a TPU's 128 lanes, or multiples of them


def obstacle(pattern: Pattern, heads: Heads, dtype: Any) -> str | None:
    """Why the kernel cannot compute this, or None."""
    del dtype
    beyond = beyond_causal(pattern)
    if beyond is not None:
        return beyond
    length = pattern.query_segments.shape[1]
    if length % BLOCKS[-1]:
        return f"{length} positions (it takes multiples of {BLOCKS[-1]})"
    if heads.head_dim % _HEAD_DIM:
        return f"heads of {heads.head_dim} (it takes multiples of {_HEAD_DIM})"
    return uneven(heads)


def build(pattern: Pattern, heads: Heads) -> Callable[..., jax.Array]:
    """(query [B, L, H*C], key [B, L, G*C], value [B, L, G*C]) -> [B, L, H*C]."""
    mapped = per_device(_splash(heads, not is_on_tpu()), heads)

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return mapped(query, key, value, pattern.query_segments, pattern.key_segments)

    return attend


def _all_blocks(size: int) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes

    return BlockSizes(
        block_q=size,
        block_kv=size,
        block_kv_compute=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        block_kv_dkv_compute=size,
        block_q_dq=size,
        block_kv_dq=size,
    )


def _splash(heads: Heads, interpret: bool) -> Callable[..., jax.Array]:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    def by_head(x: jax.Array) -> jax.Array:
        """[B, L, H*C] -> [B, H, L, C], of this device's heads."""
        return split_heads(x, x.shape[-1] // heads.head_dim).swapaxes(1, 2)

    def kernel(query, key, value, query_segments, key_segments) -> jax.Array:
        q, k, v = by_head(query * heads.scale), by_head(key), by_head(value)
        length = query.shape[1]
        block = next(size for size in BLOCKS if length % size == 0)
        of_one_row = splash.make_splash_mha(
            splash.MultiHeadMask([splash.CausalMask((length, length))] * q.shape[1]),
            block_sizes=_all_blocks(block),
            head_shards=1,
            q_seq_shards=1,
            # The backward pass needs the heads and their sums as the kernel wrote them. With the
            # name of other paths' heads, every remat policy keeps both, or computes both again.
            residual_checkpoint_name="heads",
            interpret=interpret,
        )
        # Padding is a segment of its own, and what it sees is of no consequence.
        segments = splash.SegmentIds(query_segments, key_segments)
        return jax.vmap(of_one_row)(q, k, v, segments).swapaxes(1, 2).reshape(query.shape)

    return kernel
