"""One decoder position at a time, with cached keys and values.

Letters used in shapes: B prompts, K rows that share a prompt (beams or samples), L input length,
T longest output, D emb_dim, H heads, C head_dim, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext.models import layers, network
from t5x_ext.models.network import T5Config
from t5x_ext.models.params import Params


class DecoderWeights(NamedTuple):
    """The decoder's parameters in the compute dtype, as every position reads them.

    Attributes:
      layer_params: one nested dictionary per layer (slicing the stack inside the decoding loop
        would copy every weight at every position).
      position_table: float32 [H, buckets], relative position bias of the self-attention.
      top: parameters of the final norm, the embedding and the output.
    """

    layer_params: tuple[Params, ...]
    position_table: jax.Array
    top: Params


class Memory(NamedTuple):
    """The prompts as the decoder attends to them; computed once and never changed.

    Keys and values lie head by head, so that attention reads them in one pass; with heads inside
    positions, a step on CPU took 15 times as long to attend.

    Attributes:
      keys: [B, H, C, L] per layer.
      values: [B, H, L, C] per layer.
      mask: bool [B, 1, 1, L], True at real positions.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    mask: jax.Array


class SelfCache(NamedTuple):
    """Keys and values of the positions decoded so far, filled from the left.

    The rows of all prompts share one axis: the loop then writes a position in place, where with
    two axes the compiler copied the whole cache four times a step on CPU.

    Attributes:
      keys: [B * K, H, T, C] per layer.
      values: [B * K, H, T, C] per layer.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]


def prepare_weights(cfg: T5Config, model_params: Params) -> DecoderWeights:
    """Takes the decoder's layers out of their stack, in the compute dtype."""
    decoder = model_params["decoder"]

    def ready(path: tuple, param: jax.Array) -> jax.Array:
        # Kernels and the embedding compute in cfg.dtype; a norm's scale multiplies in float32.
        return param if getattr(path[-1], "key", "") == "scale" else param.astype(cfg.dtype)

    def slice_layer(index: int) -> Params:
        return jax.tree_util.tree_map_with_path(lambda p, x: ready(p, x[index]), decoder["layers"])

    top = {"token_embedder": model_params["token_embedder"]}
    top["decoder"] = {k: v for k, v in decoder.items() if k in ("decoder_norm", "logits_dense")}
    return DecoderWeights(
        layer_params=tuple(slice_layer(i) for i in range(cfg.num_decoder_layers)),
        position_table=decoder["relpos_bias"]["rel_embedding"].astype(jnp.float32),
        top=jax.tree_util.tree_map_with_path(ready, top),
    )


def make_memory(
    cfg: T5Config, weights: DecoderWeights, encoded: jax.Array, segment_ids: jax.Array
) -> Memory:
    """Projects encoded prompts to the cross-attention's keys and values.

    Args:
      cfg: model shape.
      weights: from `prepare_weights`.
      encoded: [B, L, D] from `network.encode`.
      segment_ids: int32 [B, L]; 0 is padding.
    """
    cross = [one["encoder_decoder_attention"] for one in weights.layer_params]

    def project(name: str, axes: tuple[int, ...]) -> tuple[jax.Array, ...]:
        heads = (
            layers.split_heads(layers.dense(attention[name], encoded), cfg.num_heads)
            for attention in cross
        )
        return tuple(one.transpose(axes) for one in heads)  # from [B, L, H, C]

    mask = (segment_ids > 0)[:, None, None, :]
    return Memory(project("key", (0, 2, 3, 1)), project("value", (0, 2, 1, 3)), mask)


def empty_cache(cfg: T5Config, batch_size: int, num_rows: int, length: int) -> SelfCache:
    """A cache of no positions with room for `length`; `num_rows` is K."""
    shape = (batch_size * num_rows, cfg.num_heads, length, cfg.head_dim)
    empty = (jnp.zeros(shape, cfg.dtype),) * cfg.num_decoder_layers
    return SelfCache(empty, empty)


def step(
    cfg: T5Config,
    weights: DecoderWeights,
    memory: Memory,
    cache: SelfCache,
    tokens: jax.Array,
    index: jax.Array,
) -> tuple[jax.Array, SelfCache]:
    """Scores the token after position `index`.

    Args:
      cfg: model shape.
      weights: from `prepare_weights`.
      memory: from `make_memory`.
      cache: positions before `index` are filled.
      tokens: int32 [B, K], the decoder input at `index` (0 at the start).
      index: int32 scalar, one position for all rows.

    Returns:
      float32 logits [B, K, V] and the cache with position `index` filled.
    """
    bias = _bias_of_position(weights.position_table, cache.keys[0].shape[2], index)
    cross_bias = jnp.where(memory.mask, 0.0, layers.MASKED)
    x = network.embed(cfg, weights.top, tokens)  # [B, K, D]
    keys, values = [], []
    for number, one in enumerate(weights.layer_params):
        y = layers.rms_norm(one["pre_self_attention_layer_norm"]["scale"], x)
        attention = one["self_attention"]
        query, key, value = (
            layers.dense(attention[name], y).reshape(-1, cfg.num_heads, 1, cfg.head_dim)
            for name in ("query", "key", "value")
        )  # [B * K, H, 1, C]
        keys.append(jax.lax.dynamic_update_slice_in_dim(cache.keys[number], key, index, axis=2))
        values.append(
            jax.lax.dynamic_update_slice_in_dim(cache.values[number], value, index, axis=2)
        )
        heads = _attend(query, keys[-1], values[-1], bias)
        x = x + layers.dense(attention["out"], heads.reshape(*tokens.shape, -1))

        y = layers.rms_norm(one["pre_cross_attention_layer_norm"]["scale"], x)
        attention = one["encoder_decoder_attention"]
        query = layers.split_heads(layers.dense(attention["query"], y), cfg.num_heads)
        # The rows of a prompt are queries of one attention, so its keys are read once for all.
        cross_keys = memory.keys[number].swapaxes(-1, -2)
        heads = _attend(query.swapaxes(1, 2), cross_keys, memory.values[number], cross_bias)
        heads = heads.swapaxes(1, 2)  # [B, K, H, C]
        x = x + layers.dense(attention["out"], heads.reshape(*tokens.shape, -1))

        y = layers.rms_norm(one["pre_mlp_layer_norm"]["scale"], x)
        x = x + layers.mlp(one["mlp"], y, cfg.mlp_activations, 0.0, None)
    x = layers.rms_norm(weights.top["decoder"]["decoder_norm"]["scale"], x)
    return network.logits(cfg, weights.top, x), SelfCache(tuple(keys), tuple(values))


def _bias_of_position(table: jax.Array, length: int, index: jax.Array) -> jax.Array:
    """Bias of a query at `index` on `length` keys, later ones masked: float32 [H, 1, length]."""
    buckets = layers.relative_position_buckets(
        -np.arange(length), False, table.shape[-1], network.RELPOS_MAX_DISTANCE
    )
    distance = index - jnp.arange(length)
    bias = table[:, jnp.asarray(buckets)[jnp.maximum(distance, 0)]]
    return jnp.where(distance >= 0, bias, layers.MASKED)[:, None]


def _attend(query: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array) -> jax.Array:
    """Attention head by head. [B, H, Q, C], [B, H, S, C], [B, H, S, C] -> [B, H, Q, C]."""
    logits = jnp.einsum("bhqc,bhsc->bhqs", query, keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits + bias, axis=-1).astype(values.dtype)
    return jnp.einsum("bhqs,bhsc->bhqc", weights, values)
