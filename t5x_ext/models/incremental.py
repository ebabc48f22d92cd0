"""One decoder position at a time, with cached keys and values.

Letters used in shapes: B batch, L input length, T longest output, D emb_dim, H heads, C head_dim,
V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_ext.models import layers, network
from t5x_ext.models.network import T5Config
from t5x_ext.models.params import Params


class DecoderWeights(NamedTuple):
    """What every position needs, prepared once per batch in the compute dtype.

    Attributes:
      layer_params: one nested dictionary per layer (slicing the stack inside the decoding loop
        would copy every weight at every position).
      bias: float32 [1, H, T, T], relative position bias of the self-attention.
      cross_mask: bool [B, 1, 1, L], True at real input positions.
      top: parameters of the final norm, the embedding and the output.
    """

    layer_params: tuple[Params, ...]
    bias: jax.Array
    cross_mask: jax.Array
    top: Params


class LayerCache(NamedTuple):
    """Keys and values of one layer.

    Attributes:
      self_key: [B, T, H, C], filled from the left.
      self_value: [B, T, H, C].
      cross_key: [B, L, H, C], never changes.
      cross_value: [B, L, H, C].
    """

    self_key: jax.Array
    self_value: jax.Array
    cross_key: jax.Array
    cross_value: jax.Array


Cache = tuple[LayerCache, ...]


def start(
    cfg: T5Config,
    model_params: Params,
    encoded: jax.Array,
    encoder_segment_ids: jax.Array,
    max_length: int,
) -> tuple[DecoderWeights, Cache]:
    """Prepares weights and an empty cache for outputs of up to `max_length` tokens.

    Args:
      cfg: model shape.
      model_params: parameters in the tree of `network.param_specs`.
      encoded: [B, L, D] from `network.encode`.
      encoder_segment_ids: int32 [B, L]; 0 is padding.
      max_length: T.
    """
    decoder = model_params["decoder"]

    def slice_layer(index: int) -> Params:
        def cut(path: tuple, stacked: jax.Array) -> jax.Array:
            is_kernel = getattr(path[-1], "key", "") == "kernel"
            return stacked[index].astype(cfg.dtype) if is_kernel else stacked[index]

        return jax.tree_util.tree_map_with_path(cut, decoder["layers"])

    layer_params = tuple(slice_layer(i) for i in range(cfg.num_decoder_layers))
    table = decoder["relpos_bias"]["rel_embedding"]
    bias = layers.relative_position_bias(
        table, max_length, max_length, False, network.RELPOS_MAX_DISTANCE
    )
    top = {"token_embedder": model_params["token_embedder"]}
    top["decoder"] = {k: v for k, v in decoder.items() if k in ("decoder_norm", "logits_dense")}

    def layer_cache(one: Params) -> LayerCache:
        cross = one["encoder_decoder_attention"]
        empty = jnp.zeros((encoded.shape[0], max_length, cfg.num_heads, cfg.head_dim), cfg.dtype)
        return LayerCache(
            self_key=empty,
            self_value=empty,
            cross_key=layers.split_heads(layers.dense(cross["key"], encoded), cfg.num_heads),
            cross_value=layers.split_heads(layers.dense(cross["value"], encoded), cfg.num_heads),
        )

    cross_mask = (encoder_segment_ids > 0)[:, None, None, :]
    weights = DecoderWeights(layer_params, bias, cross_mask, top)
    return weights, tuple(layer_cache(one) for one in layer_params)


def step(
    cfg: T5Config, weights: DecoderWeights, cache: Cache, tokens: jax.Array, index: jax.Array
) -> tuple[jax.Array, Cache]:
    """Scores the token after position `index`.

    Args:
      cfg: model shape.
      weights: from `start`.
      cache: positions before `index` are filled.
      tokens: int32 [B], the decoder input at `index` (0 at the start).
      index: int32 scalar, one position for all rows.

    Returns:
      float32 logits [B, V] and the cache with position `index` filled.
    """
    max_length = weights.bias.shape[-1]
    bias = jax.lax.dynamic_slice_in_dim(weights.bias, index, 1, axis=2)  # [1, H, 1, T]
    self_mask = (jnp.arange(max_length) <= index)[None, None, None, :]
    x = network.embed(cfg, weights.top, tokens[:, None])  # [B, 1, D]
    new_cache = []
    for one, cached in zip(weights.layer_params, cache, strict=True):
        y = layers.rms_norm(one["pre_self_attention_layer_norm"]["scale"], x)
        attention = one["self_attention"]
        query, key, value = (
            layers.split_heads(layers.dense(attention[name], y), cfg.num_heads)
            for name in ("query", "key", "value")
        )
        cached = cached._replace(
            self_key=jax.lax.dynamic_update_slice_in_dim(cached.self_key, key, index, axis=1),
            self_value=jax.lax.dynamic_update_slice_in_dim(cached.self_value, value, index, axis=1),
        )
        heads = layers.dot_product_attention(
            query, cached.self_key, cached.self_value, bias, self_mask
        )
        x = x + layers.dense(attention["out"], heads.reshape(*y.shape[:-1], -1))
        y = layers.rms_norm(one["pre_cross_attention_layer_norm"]["scale"], x)
        cross = one["encoder_decoder_attention"]
        query = layers.split_heads(layers.dense(cross["query"], y), cfg.num_heads)
        heads = layers.dot_product_attention(
            query, cached.cross_key, cached.cross_value, None, weights.cross_mask
        )
        x = x + layers.dense(cross["out"], heads.reshape(*y.shape[:-1], -1))
        y = layers.rms_norm(one["pre_mlp_layer_norm"]["scale"], x)
        x = x + layers.mlp(one["mlp"], y, cfg.mlp_activations, 0.0, None)
        new_cache.append(cached)
    x = layers.rms_norm(weights.top["decoder"]["decoder_norm"]["scale"], x)
    return network.logits(cfg, weights.top, x)[:, 0], tuple(new_cache)
