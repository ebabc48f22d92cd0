"""Reading on where a prefix ends that several rows share: its keys and values are there already.

Letters used in shapes: N prefixes, B rows, P prefix length, S tokens that follow, L positions that
are kept of a row, H heads, G key heads, C head_dim.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from t5x_ext.models.blocks.attend import Attend
from t5x_ext.models.blocks.pattern import Heads, split_heads
from t5x_ext.models.blocks.positions import PositionBias, rotate
from t5x_ext.models.blocks.xla_attention import MOST_BLOCKS, SHORTEST_BLOCK, dot_product_attention


@dataclasses.dataclass(frozen=True)
class Continuation:
    """Rows that follow a prefix each, the same in every layer of a stack.

    A row's positions are those of its prefix, and then its own without a gap:

        prefix   a b c .        (P = 4, length 3)
        row      x y            (S = 2)
        kept     a b c x y .    (L = 6)

    Attributes:
      which: int32 [B], the prefix of each row.
      lengths: int32 [B], its length.
      num_own: S.
      length: L.
      heads: heads of self-attention.
      bias: by distance, or None.
      angles: of the rows' positions [B, S, 1, C / 2], or None.
    """

    which: jax.Array
    lengths: jax.Array
    num_own: int
    length: int
    heads: Heads
    bias: PositionBias | None
    angles: tuple[jax.Array, jax.Array] | None

    def join(self, prefix: jax.Array, own: jax.Array) -> jax.Array:
        """Keys or values as a row keeps them: [N, P, G, C], [B, S, G, C] -> [B, L, G, C]."""
        prefix_length = prefix.shape[1]
        places = jnp.arange(self.length)
        of_own = jnp.clip(places - self.lengths[:, None], 0, self.num_own - 1)
        sources = jnp.where(places < self.lengths[:, None], places, prefix_length + of_own)
        both = jnp.concatenate([prefix[self.which], own], axis=1)
        return jnp.take_along_axis(both, sources[:, :, None, None], axis=1)

    def attend_to(self, keys: jax.Array, values: jax.Array) -> Attend:
        """Attention of the rows' own queries to joined keys and values, [B, L, G, C] each."""

        def attend(query: jax.Array, key: jax.Array, value: jax.Array, dropout_key: object):
            del key, value, dropout_key  # joined already
            heads = split_heads(query, self.heads.num_heads)
            heads = heads if self.angles is None else rotate(heads, self.angles)
            size = max(SHORTEST_BLOCK, -(-self.num_own // MOST_BLOCKS))
            blocks = [
                self._attend_block(heads[:, start : start + size], start, keys, values)
                for start in range(0, self.num_own, size)
            ]
            return jnp.concatenate(blocks, axis=1).reshape(query.shape)

        return attend

    def _attend_block(
        self, queries: jax.Array, start: int, keys: jax.Array, values: jax.Array
    ) -> jax.Array:
        """Of the queries from `start` on, [B, Q, H, C]; logits of all would be B * H * S * L."""
        places = self.lengths[:, None] + start + jnp.arange(queries.shape[1])  # [B, Q]
        distance = jnp.arange(self.length) - places[:, :, None]  # [B, Q, L]
        bias = None
        if self.bias is not None:
            bias = self.bias.traced_bias(jnp.clip(distance, -self.length, 0), self.length)
            bias = jnp.moveaxis(bias, 0, 1)
        mask = (distance <= 0)[:, None]
        return dot_product_attention(queries, keys, values, bias, mask, self.heads.scale)
