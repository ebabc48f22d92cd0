"""Keys and values that decoding keeps: of prompts, and of the positions decoded so far.

Letters used in shapes: B prompts, K rows that share a prompt (beams or samples), L prompt length,
T longest output, G key heads, C head_dim.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class PromptCache(NamedTuple):
    """The prompts as the decoder attends to them; computed once and never changed.

    Of an encoder-decoder model these are the encoded inputs, as cross-attention sees them; of a
    decoder-only model, the prompt without its last token, which is the first to be decoded from.

    Keys and values lie head by head, so that attention reads them in one pass; with heads inside
    positions, a step on CPU took 15 times as long to attend.

    Attributes:
      keys: [B, G, C, L] per layer.
      values: [B, G, L, C] per layer.
      mask: bool [B, 1, 1, L], True at real positions.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    mask: jax.Array

    @property
    def lengths(self) -> jax.Array:
        """Real positions of each prompt, int32 [B]."""
        return jnp.sum(self.mask[:, 0, 0], axis=-1, dtype=jnp.int32)


class OutputCache(NamedTuple):
    """Keys and values of the positions decoded so far, filled from the left.

    The rows of all prompts share one axis: the loop then writes a position in place, where with
    two axes the compiler copied the whole cache four times a step on CPU.

    Attributes:
      keys: [B * K, G, T, C] per layer.
      values: [B * K, G, T, C] per layer.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]


def prompt_cache(
    keys: tuple[jax.Array, ...], values: tuple[jax.Array, ...], mask: jax.Array
) -> PromptCache:
    """From keys and values [B, L, G, C] of each layer, and bool [B, L]."""
    return PromptCache(
        keys=tuple(one.transpose(0, 2, 3, 1) for one in keys),
        values=tuple(one.transpose(0, 2, 1, 3) for one in values),
        mask=mask[:, None, None, :],
    )


def stack_layers(cache: PromptCache) -> tuple[jax.Array, jax.Array]:
    """Undoes `prompt_cache`: keys and values of all layers, [layers, B, L, G, C] each."""
    keys = jnp.stack([one.transpose(0, 3, 1, 2) for one in cache.keys])
    values = jnp.stack([one.transpose(0, 2, 1, 3) for one in cache.values])
    return keys, values


def grow(cache: PromptCache, length: int) -> PromptCache:
    """The same prompts padded to `length` positions."""
    missing = length - cache.mask.shape[-1]
    return PromptCache(
        keys=tuple(pad(keys, -1, missing) for keys in cache.keys),
        values=tuple(pad(values, -2, missing) for values in cache.values),
        mask=pad(cache.mask, -1, missing),
    )


def pad(array: jax.Array, axis: int, count: int) -> jax.Array:
    """Zeros after the last of an axis."""
    room = [(0, 0)] * array.ndim
    room[axis] = (0, count)
    return jnp.pad(array, room)


def write(cache: jax.Array, entry: jax.Array, index: jax.Array) -> jax.Array:
    """[B * K, G, T, C] with position `index` set to [B * K, G, 1, C]."""
    return jax.lax.dynamic_update_slice_in_dim(cache, entry, index, axis=2)


def attend(query: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array) -> jax.Array:
    """Attention head by head, float32 softmax.

    Args:
      query: [B, G, Q, C], scaled.
      keys: [B, G, S, C].
      values: [B, G, S, C].
      bias: float32, broadcastable to [B, G, Q, S].
    """
    logits = jnp.einsum("bhqc,bhsc->bhqs", query, keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits + bias, axis=-1).astype(values.dtype)
    return jnp.einsum("bhqs,bhsc->bhqc", weights, values)
