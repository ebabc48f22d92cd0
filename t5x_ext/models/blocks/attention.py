"""Projections around attention: for whole rows, and for one position at a time.

Letters used in shapes: B batch (or prompts), Q query length, K rows that share a prompt, L prompt
length, D emb_dim, H heads, G key heads, C head_dim, T longest output.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from t5x_ext.models import parameters
from t5x_ext.models.blocks import cache as caches
from t5x_ext.models.blocks.attend import Attend
from t5x_ext.models.blocks.linear import Linear
from t5x_ext.models.blocks.pattern import MASKED, Heads, split_heads
from t5x_ext.models.blocks.positions import PositionBias, rotate
from t5x_ext.models.parameters import Initializer


class Attention(nnx.Module):
    """Query, key, value and output projections.

    Args:
      dim: D.
      heads: H, G, C and the scale of logits.
      query_init: initial values of the query's kernel.
      init: initial values of the other kernels.
      clip: queries, keys and values are limited to [-clip, clip] (MPT's `clip_qkv`); None for not.
    """

    def __init__(
        self,
        dim: int,
        heads: Heads,
        query_init: Initializer | None = None,
        init: Initializer | None = None,
        clip: float | None = None,
    ):
        init = init or parameters.fan_in()
        queries, keys = heads.num_heads * heads.head_dim, heads.kv * heads.head_dim
        # A single key head cannot be split over the mesh's `model` axis.
        kv_axis = "joined_kv" if heads.kv > 1 else "kv"
        self.query = Linear((dim, queries), ("embed", "joined_kv"), query_init or init)
        self.key = Linear((dim, keys), ("embed", kv_axis), init)
        self.value = Linear((dim, keys), ("embed", kv_axis), init)
        self.out = Linear((queries, dim), ("joined_kv", "embed"), init)
        self.heads = heads
        self.clip = clip

    def __call__(
        self,
        x: jax.Array,
        attend: Attend,
        key: jax.Array | None = None,
        memory: jax.Array | None = None,
    ) -> jax.Array:
        """Attends to `memory` (None: to `x` itself). [B, Q, D] -> [B, Q, D]."""
        # Keys and values of the encoder's output are as long as the inputs, in every decoder layer.
        keys_name = "projection" if memory is None else "memory_projection"
        memory = x if memory is None else memory
        query = checkpoint_name(self._limit(self.query(x, key)), "projection")
        keys = checkpoint_name(self._limit(self.key(memory, key)), keys_name)
        values = checkpoint_name(self._limit(self.value(memory, key)), keys_name)
        return self.out(attend(query, keys, values, key), key)

    def project_memory(
        self, memory: jax.Array, angles: tuple[jax.Array, jax.Array] | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Keys, turned by `angles`, and values of a prompt: [B, L, D] -> [B, L, G, C] each."""
        keys = split_heads(self._limit(self.key(memory)), self.heads.kv)
        values = split_heads(self._limit(self.value(memory)), self.heads.kv)
        return (keys if angles is None else rotate(keys, angles)), values

    def step_memory(self, x: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array):
        """Attends to a prompt alone (cross-attention).

        Args:
          x: [B, K, D].
          keys: [B, G, C, L].
          values: [B, G, L, C].
          bias: float32 [B, 1, 1, L].

        Returns:
          [B, K, D].
        """
        query = self._scale(self._limit(self.query(x)))
        # The rows of a prompt are queries of one attention, so its keys are read once for all.
        grouped = query.reshape(*x.shape[:2], self.heads.kv, -1, self.heads.head_dim)
        heads = caches.attend(_fold(grouped), keys.swapaxes(-1, -2), values, bias)
        return self.out(_unfold(heads, x.shape[1]).reshape(*x.shape[:2], -1))

    def step(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        index: jax.Array,
        bias: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Attends to the positions decoded so far, of which this is one.

        Args:
          x: [B, K, D].
          keys: [B * K, G, T, C].
          values: [B * K, G, T, C].
          index: int32 scalar, this position.
          bias: float32 [H, 1, T], later positions masked.

        Returns:
          [B, K, D], and keys and values with position `index` filled.
        """
        query, key, value = self._project_one(x, None)
        keys, values = caches.write(keys, key, index), caches.write(values, value, index)
        shares = self.heads.num_heads // self.heads.kv
        bias = bias.reshape(self.heads.kv, shares, -1)
        heads = caches.attend(query, keys, values, bias)
        return self.out(heads.reshape(*x.shape[:2], -1)), keys, values

    def step_with_prompt(
        self,
        x: jax.Array,
        prompt: tuple[jax.Array, jax.Array, jax.Array],
        keys: jax.Array,
        values: jax.Array,
        index: jax.Array,
        position_bias: PositionBias | None,
        angles: tuple[jax.Array, jax.Array] | None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Attends to the prompt and to what was decoded after it, in one softmax.

        Args:
          x: [B, K, D].
          prompt: keys [B, G, C, L], values [B, G, L, C] and mask [B, 1, 1, L] of the prompt.
          keys: [B * K, G, T, C].
          values: [B * K, G, T, C].
          index: int32 scalar, this position, counted from the prompt's last token.
          position_bias: by distance, or None.
          angles: that turn this position, [B, 1, 1, C / 2] each, or None.

        Returns:
          [B, K, D], and keys and values with position `index` filled.
        """
        prompt_keys, prompt_values, mask = prompt
        query, key, value = self._project_one(x, angles)
        keys, values = caches.write(keys, key, index), caches.write(values, value, index)
        batch, num_rows = x.shape[:2]
        kv, shares = self.heads.kv, self.heads.num_heads // self.heads.kv
        by_prompt = _fold(query.reshape(batch, num_rows, kv, shares, -1))

        # One product for all queries of a key head: with more axes, XLA's CPU compiler turned the
        # keys, and a step over 1,024 positions took four times as long.
        far = jnp.einsum(
            "bgqc,bgcl->bgql", by_prompt, prompt_keys, preferred_element_type=jnp.float32
        )
        far = _unfold(far, num_rows)
        near = jnp.einsum("ngrc,ngtc->ngrt", query, keys, preferred_element_type=jnp.float32)
        near = near.reshape(batch, num_rows, kv, shares, -1)
        far_bias, near_bias = self._biases(mask, keys.shape[2], index, position_bias)
        logits = jnp.concatenate([far + far_bias, near + near_bias], axis=-1)
        weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
        of_prompt, of_output = jnp.split(weights, [mask.shape[-1]], axis=-1)
        heads = _unfold(jnp.einsum("bgql,bglc->bgqc", _fold(of_prompt), prompt_values), num_rows)
        own = jnp.einsum("ngrt,ngtc->ngrc", of_output.reshape(*query.shape[:3], -1), values)
        heads = heads + own.reshape(heads.shape)
        return self.out(heads.reshape(batch, num_rows, -1)), keys, values

    def _biases(
        self,
        mask: jax.Array,
        length: int,
        index: jax.Array,
        position_bias: PositionBias | None,
    ) -> tuple[jax.Array, jax.Array]:
        """Of the prompt [B, 1, G or 1, H / G or 1, L] and of the output [1, 1, ., ., T]."""
        near_distance = jnp.arange(length) - index
        far_mask, near_mask = mask[:, None], (near_distance <= 0)
        if position_bias is None:
            return jnp.where(far_mask, 0.0, MASKED), jnp.where(near_mask, 0.0, MASKED)
        prompt_length = mask.shape[-1]
        lengths = jnp.sum(mask[:, 0, 0], axis=-1, dtype=jnp.int32)
        far_distance = jnp.arange(prompt_length)[None] - lengths[:, None] - index  # [B, L]
        farthest = prompt_length + length
        kv = self.heads.kv
        far = position_bias.traced_bias(jnp.clip(far_distance, -farthest, 0), farthest)
        far = jnp.moveaxis(far, 0, 1).reshape(mask.shape[0], 1, kv, -1, prompt_length)
        near = position_bias.traced_bias(jnp.minimum(near_distance, 0), farthest)
        near = near.reshape(1, 1, kv, -1, length)
        return jnp.where(far_mask, far, MASKED), jnp.where(near_mask, near, MASKED)

    def _project_one(self, x: jax.Array, angles: tuple[jax.Array, jax.Array] | None):
        """[B, K, D] -> query [B * K, G, H / G, C], scaled; key and value [B * K, G, 1, C]."""
        query, key, value = (
            split_heads(self._limit(project(x)), num_heads)
            for project, num_heads in (
                (self.query, self.heads.num_heads),
                (self.key, self.heads.kv),
                (self.value, self.heads.kv),
            )
        )
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        query = self._scale(query)
        shares = self.heads.num_heads // self.heads.kv
        query = query.reshape(-1, self.heads.kv, shares, self.heads.head_dim)
        key, value = (
            one.reshape(-1, self.heads.kv, 1, self.heads.head_dim) for one in (key, value)
        )
        return query, key, value

    def _scale(self, query: jax.Array) -> jax.Array:
        return query if self.heads.scale == 1.0 else query * self.heads.scale

    def _limit(self, x: jax.Array) -> jax.Array:
        return x if self.clip is None else jnp.clip(x, -self.clip, self.clip)


def _fold(x: jax.Array) -> jax.Array:
    """The queries of a key head next to each other: [B, K, G, H / G, N] -> [B, G, K * H / G, N]."""
    batch, _, kv, _, last = x.shape
    return x.swapaxes(1, 2).reshape(batch, kv, -1, last)


def _unfold(x: jax.Array, num_rows: int) -> jax.Array:
    """Undoes `_fold`: [B, G, K * H / G, N] -> [B, K, G, H / G, N]."""
    batch, kv, _, last = x.shape
    return x.reshape(batch, kv, num_rows, -1, last).swapaxes(1, 2)
