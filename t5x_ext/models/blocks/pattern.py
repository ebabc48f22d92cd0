"""What every path of attention is given: the heads' shape, and who attends to whom.

Letters used in shapes: B batch, Q query length, K key length, H heads, G key heads (G divides H:
H / G query heads share one), C head_dim.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_ext.models.blocks.positions import PositionBias

# Finite, so that a row with nothing to attend to gives a uniform softmax instead of NaN.
MASKED = -1e10


@dataclasses.dataclass(frozen=True)
class Heads:
    """The heads of an attention block.

    Attributes:
      num_heads: H.
      head_dim: C.
      num_kv_heads: G; None means H.
      scale: factor of query . key. T5 folds it into the query's initial values and has 1.
    """

    num_heads: int
    head_dim: int
    num_kv_heads: int | None = None
    scale: float = 1.0

    @property
    def kv(self) -> int:
        """G."""
        return self.num_kv_heads or self.num_heads

    def __str__(self) -> str:
        heads = f"{self.num_heads} heads of {self.head_dim}"
        if self.kv == self.num_heads:
            return heads
        return f"{heads} that share {self.kv} key head{'s' if self.kv > 1 else ''}"


class Pattern(NamedTuple):
    """Who attends to whom, the same in every layer of a stack.

    Attributes:
      query_segments: int32 [B, Q]; 0 is padding.
      key_segments: int32 [B, K]; 0 is padding, which nothing attends to.
      causal: True hides keys that lie ahead of the query.
      prefix: bool [B, Q], or None. Within a causal pattern, positions marked here see each other
        whatever their order (T5X's `decoder_causal_attention`).
      bias: added by distance, or None. Packed segments are contiguous, so a distance within a row
        is also the distance within the segment.
      angles: of `positions.Rotary`, which turn queries and keys, or None.
    """

    query_segments: jax.Array
    key_segments: jax.Array
    causal: bool = False
    prefix: jax.Array | None = None
    bias: PositionBias | None = None
    angles: tuple[jax.Array, jax.Array] | None = None


def beyond_causal(pattern: Pattern) -> str | None:
    """What a pattern has beyond segments and order, which some kernels do not take; or None."""
    if pattern.bias is not None:
        return "a bias by distance"
    if not pattern.causal or pattern.prefix is not None:
        return "rows that are not causal"
    return None


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """[B, Q, H*C] -> [B, Q, H, C]."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def segment_mask(pattern: Pattern) -> jax.Array:
    """True where a query may look at a key: bool [B, 1, Q, K]."""
    same = pattern.query_segments[:, :, None] == pattern.key_segments[:, None, :]
    mask = same & (pattern.key_segments > 0)[:, None, :]
    if pattern.causal:
        behind = jnp.tril(jnp.ones(mask.shape[1:], bool))
        if pattern.prefix is not None:
            behind = behind | (pattern.prefix[:, :, None] & pattern.prefix[:, None, :])
        mask &= behind
    return mask[:, None]
