"""T5 1.0 / 1.1 as pure functions over a nested dictionary of parameters.

The parameter names are T5X's (`encoder/layers/attention/query/kernel`), with the layers of each
stack held together on a leading `layers` axis that `lax.scan` walks: compile time does not grow
with depth (unless the walk is written out: T5Config.scan_layers), and rematerialisation is one
policy around one function.

Plain functions rather than Flax NNX modules: scan over stacked layers, abstract initialisation,
`vmap` over a stack of models and swapping a kernel for an adapted one are then ordinary pytree
operations, and one `ParamSpec` tree states shapes, axes and initial values once.

Letters used in shapes: B batch, L input length, T target length, D emb_dim, H heads, C head_dim,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from t5x_ext.models import layers, params
from t5x_ext.models.attention import (
    RELPOS_BUCKETS,
    RELPOS_MAX_DISTANCE,
    Attend,
    Pattern,
    make_attend,
)
from t5x_ext.models.params import Params, ParamSpec
from t5x_ext.models.t5_config import SAVED_BY_REMAT_POLICY, T5Config, Transformer
from t5x_ext.partitioning import constrain, gather

__all__ = [
    "RELPOS_BUCKETS",
    "RELPOS_MAX_DISTANCE",
    "T5Config",
    "Transformer",
    "cast_kernels",
    "decode",
    "encode",
    "forward",
    "hidden_states",
    "logits",
    "output_table",
    "param_specs",
]

# Dropout sites of a layer; each folds its number into the layer's key.
_SITE_ATTENTION, _SITE_AFTER_ATTENTION, _SITE_CROSS, _SITE_AFTER_CROSS, _SITE_MLP, _SITE_OUT = (
    range(6)
)
# Dropout sites outside the layers.
_SITE_INPUT, _SITE_LAYERS, _SITE_FINAL = range(3)


def _kernel(shape: tuple[int, int], axes: tuple[str, str], init: params.Initializer) -> Params:
    return {"kernel": ParamSpec(shape, axes, init)}


def _norm(cfg: T5Config) -> Params:
    return {"scale": ParamSpec((cfg.emb_dim,), ("embed",), params.ones)}


def _attention(cfg: T5Config) -> Params:
    joined = cfg.num_heads * cfg.head_dim
    projection = ((cfg.emb_dim, joined), ("embed", "joined_kv"))
    # Attention logits are not scaled: the query's initial values carry 1/sqrt(head_dim).
    return {
        "query": _kernel(*projection, params.fan_in(1.0 / cfg.head_dim)),
        "key": _kernel(*projection, params.fan_in()),
        "value": _kernel(*projection, params.fan_in()),
        "out": _kernel((joined, cfg.emb_dim), ("joined_kv", "embed"), params.fan_in()),
    }


def _mlp(cfg: T5Config) -> Params:
    init = params.fan_in(truncated=True)
    count = len(cfg.mlp_activations)
    names = ["wi"] if count == 1 else [f"wi_{i}" for i in range(count)]
    block = {n: _kernel((cfg.emb_dim, cfg.mlp_dim), ("embed", "mlp"), init) for n in names}
    return block | {"wo": _kernel((cfg.mlp_dim, cfg.emb_dim), ("mlp", "embed"), init)}


def _encoder_layer(cfg: T5Config) -> Params:
    return {
        "pre_attention_layer_norm": _norm(cfg),
        "attention": _attention(cfg),
        "pre_mlp_layer_norm": _norm(cfg),
        "mlp": _mlp(cfg),
    }


def _decoder_layer(cfg: T5Config) -> Params:
    return {
        "pre_self_attention_layer_norm": _norm(cfg),
        "self_attention": _attention(cfg),
        "pre_cross_attention_layer_norm": _norm(cfg),
        "encoder_decoder_attention": _attention(cfg),
        "pre_mlp_layer_norm": _norm(cfg),
        "mlp": _mlp(cfg),
    }


def param_specs(cfg: T5Config) -> Params:
    """Declares every parameter of the model. Initial values follow T5X's network.py."""

    def relpos() -> Params:
        shape = (cfg.num_heads, RELPOS_BUCKETS)
        spec = ParamSpec(shape, ("heads", "relpos_buckets"), params.fan_avg_uniform())
        return {"rel_embedding": spec}

    embedding = ParamSpec((cfg.vocab_size, cfg.emb_dim), ("vocab", "embed"), params.normal(1.0))
    decoder = {
        "relpos_bias": relpos(),
        "layers": params.stack_specs(_decoder_layer(cfg), cfg.num_decoder_layers),
        "decoder_norm": _norm(cfg),
    }
    if not cfg.logits_via_embedding:
        shape = (cfg.emb_dim, cfg.vocab_size)
        decoder["logits_dense"] = _kernel(shape, ("embed", "vocab"), params.fan_in())
    return {
        "token_embedder": {"embedding": embedding},
        "encoder": {
            "relpos_bias": relpos(),
            "layers": params.stack_specs(_encoder_layer(cfg), cfg.num_encoder_layers),
            "encoder_norm": _norm(cfg),
        },
        "decoder": decoder,
    }


def cast_kernels(cfg: T5Config, model_params: Params) -> Params:
    """Kernels in the compute dtype; norms, biases and the embedding, used several times, as is."""

    def cast(path: tuple, param: jax.Array) -> jax.Array:
        return param.astype(cfg.dtype) if path[-1].key == "kernel" else param

    return jax.tree_util.tree_map_with_path(cast, model_params)


def embed(cfg: T5Config, model_params: Params, tokens: jax.Array) -> jax.Array:
    """Token ids [B, L] -> [B, L, D] in the compute dtype."""
    table = model_params["token_embedder"]["embedding"].astype(cfg.dtype)
    rows = gather(table, ("vocab", "embed"), is_looked_up=True)[tokens]
    return constrain(rows, ("batch", "length", "embed"))


def encode(
    cfg: T5Config,
    model_params: Params,
    tokens: jax.Array,
    segment_ids: jax.Array,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Runs the encoder.

    Args:
      cfg: model shape.
      model_params: parameters in the tree of `param_specs`.
      tokens: int32 [B, L].
      segment_ids: int32 [B, L]; 0 is padding, packed examples count from 1.
      dropout_key: None switches dropout off.

    Returns:
      [B, L, D] in the compute dtype.
    """
    encoder = model_params["encoder"]
    table = encoder["relpos_bias"]["rel_embedding"]
    attend = _make_attend(cfg, Pattern(segment_ids, segment_ids, position_table=table))

    def layer(x: jax.Array, layer_params: Params, key: jax.Array | None) -> jax.Array:
        x = _attention_block(cfg, layer_params, _ENCODER_SELF, x, None, attend, key)
        return _mlp_block(cfg, layer_params, x, key)

    x = _drop(cfg, embed(cfg, model_params, tokens), dropout_key, _SITE_INPUT)
    x = _scan_layers(cfg, layer, "encoder", encoder["layers"], x, dropout_key)
    x = layers.rms_norm(encoder["encoder_norm"]["scale"], x)
    # The one place where T5X draws a mask for every position.
    final_key = layers.fold_key(dropout_key, _SITE_FINAL)
    return layers.dropout(x, cfg.dropout_rate, final_key, broadcast_axis=None)


def decode(
    cfg: T5Config,
    model_params: Params,
    encoded: jax.Array,
    encoder_segment_ids: jax.Array,
    input_tokens: jax.Array,
    segment_ids: jax.Array,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Runs the decoder over whole sequences (teacher forcing).

    Args:
      cfg: model shape.
      model_params: parameters in the tree of `param_specs`.
      encoded: [B, L, D] from `encode`.
      encoder_segment_ids: int32 [B, L].
      input_tokens: int32 [B, T], the targets shifted right.
      segment_ids: int32 [B, T] of the targets; 0 is padding.
      dropout_key: None switches dropout off.

    Returns:
      [B, T, D] in the compute dtype, normed: the input of `logits`.
    """
    decoder = model_params["decoder"]
    table = decoder["relpos_bias"]["rel_embedding"]
    attend_self = _make_attend(cfg, Pattern(segment_ids, segment_ids, True, table, False))
    attend_cross = _make_attend(cfg, Pattern(segment_ids, encoder_segment_ids))

    def layer(x: jax.Array, layer_params: Params, key: jax.Array | None) -> jax.Array:
        x = _attention_block(cfg, layer_params, _DECODER_SELF, x, None, attend_self, key)
        x = _attention_block(cfg, layer_params, _DECODER_CROSS, x, encoded, attend_cross, key)
        return _mlp_block(cfg, layer_params, x, key)

    x = _drop(cfg, embed(cfg, model_params, input_tokens), dropout_key, _SITE_INPUT)
    x = _scan_layers(cfg, layer, "decoder", decoder["layers"], x, dropout_key)
    x = layers.rms_norm(decoder["decoder_norm"]["scale"], x)
    return _drop(cfg, x, dropout_key, _SITE_FINAL)


def output_table(cfg: T5Config, model_params: Params) -> tuple[jax.Array, float]:
    """The output projection [D, V] in the compute dtype, and the factor of its products."""
    if cfg.logits_via_embedding:
        table = model_params["token_embedder"]["embedding"].astype(cfg.dtype)
        return gather(table, ("vocab", "embed")).T, cfg.emb_dim**-0.5
    kernel = model_params["decoder"]["logits_dense"]["kernel"].astype(cfg.dtype)
    return gather(kernel, ("embed", "vocab")), 1.0


def logits(cfg: T5Config, model_params: Params, hidden: jax.Array) -> jax.Array:
    """Scores of every vocabulary row: [B, T, D] -> float32 [B, T, V]."""
    table, factor = output_table(cfg, model_params)
    scores = jnp.einsum("...d,dv->...v", hidden, table, preferred_element_type=jnp.float32)
    return scores if factor == 1.0 else scores * factor


def hidden_states(
    cfg: T5Config,
    model_params: Params,
    batch: dict[str, jax.Array],
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """The decoder's last activations for a converted batch, packed or not.

    Args:
      cfg: model shape.
      model_params: parameters in the tree of `param_specs`.
      batch: T5X's features; without `*_segment_ids`, every non-zero token is segment 1.
      dropout_key: None switches dropout off.

    Returns:
      [B, T, D] in the compute dtype: the input of `logits`.
    """
    inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    input_segments = batch.get("encoder_segment_ids", (inputs > 0).astype(jnp.int32))
    target_segments = batch.get("decoder_segment_ids", (targets > 0).astype(jnp.int32))
    encoder_key = layers.fold_key(dropout_key, 0)
    decoder_key = layers.fold_key(dropout_key, 1)
    encoded = encode(cfg, model_params, inputs, input_segments, encoder_key)
    return decode(
        cfg,
        model_params,
        encoded,
        input_segments,
        batch["decoder_input_tokens"],
        target_segments,
        decoder_key,
    )


def forward(
    cfg: T5Config,
    model_params: Params,
    batch: dict[str, jax.Array],
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Logits of a converted batch, float32 [B, T, V]; arguments as of `hidden_states`."""
    return logits(cfg, model_params, hidden_states(cfg, model_params, batch, dropout_key))


class _Block(NamedTuple):
    """Where an attention block finds its parameters, and its dropout sites."""

    norm: str
    attention: str
    weights_site: int
    output_site: int


_ENCODER_SELF = _Block(
    "pre_attention_layer_norm", "attention", _SITE_ATTENTION, _SITE_AFTER_ATTENTION
)
_DECODER_SELF = _Block(
    "pre_self_attention_layer_norm", "self_attention", _SITE_ATTENTION, _SITE_AFTER_ATTENTION
)
_DECODER_CROSS = _Block(
    "pre_cross_attention_layer_norm", "encoder_decoder_attention", _SITE_CROSS, _SITE_AFTER_CROSS
)


def _make_attend(cfg: T5Config, pattern: Pattern) -> Attend:
    return make_attend(pattern, cfg.num_heads, cfg.head_dim, cfg.dropout_rate, cfg.attention)


def _attention_block(
    cfg: T5Config,
    layer_params: Params,
    block: _Block,
    x: jax.Array,
    memory: jax.Array | None,
    attend: Attend,
    key: jax.Array | None,
) -> jax.Array:
    """Norm, attention over `memory` (None: over `x` itself) and residual. [B, Q, D] -> same."""
    attention = layer_params[block.attention]
    y = layers.rms_norm(layer_params[block.norm]["scale"], x)
    # Keys and values of the encoder's output are as long as the inputs, in every decoder layer.
    keys_name = "projection" if memory is None else "memory_projection"
    memory = y if memory is None else memory
    query = checkpoint_name(layers.dense(attention["query"], y), "projection")
    keys = checkpoint_name(layers.dense(attention["key"], memory), keys_name)
    values = checkpoint_name(layers.dense(attention["value"], memory), keys_name)
    heads = attend(query, keys, values, layers.fold_key(key, block.weights_site))
    y = layers.dense(attention["out"], checkpoint_name(heads, "heads"))
    return checkpoint_name(x + _drop(cfg, y, key, block.output_site), "residual")


def _drop(cfg: T5Config, x: jax.Array, key: jax.Array | None, site: int) -> jax.Array:
    return layers.dropout(x, cfg.dropout_rate, layers.fold_key(key, site), broadcast_axis=-2)


def _mlp_block(cfg: T5Config, layer_params: Params, x: jax.Array, key: jax.Array | None):
    y = layers.rms_norm(layer_params["pre_mlp_layer_norm"]["scale"], x)
    mlp_key = layers.fold_key(key, _SITE_MLP)
    y = layers.mlp(layer_params["mlp"], y, cfg.mlp_activations, cfg.dropout_rate, mlp_key)
    return constrain(x + _drop(cfg, y, key, _SITE_OUT), ("batch", "length", "embed"))


def _scan_layers(
    cfg: T5Config,
    layer: Callable[[jax.Array, Params, jax.Array | None], jax.Array],
    stack: Literal["encoder", "decoder"],
    stacked: Params,
    x: jax.Array,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Applies `layer` once per slice of a stack's parameters."""
    specs = _encoder_layer(cfg) if stack == "encoder" else _decoder_layer(cfg)
    num_layers = jax.tree.leaves(stacked)[0].shape[0]
    layers_key = layers.fold_key(dropout_key, _SITE_LAYERS)
    keys = None if layers_key is None else jax.random.split(layers_key, num_layers)

    def ready(spec: ParamSpec, param: jax.Array) -> jax.Array:
        # Kernels travel in the compute dtype; a norm's scale multiplies in float32.
        return gather(param.astype(cfg.dtype) if param.ndim == 2 else param, spec.axes)

    def body(carry: jax.Array, xs: tuple[Params, jax.Array | None]) -> tuple[jax.Array, None]:
        layer_params, key = xs
        return layer(carry, params.map_specs(ready, specs, layer_params), key), None

    saved = SAVED_BY_REMAT_POLICY[cfg.remat_policy]
    if saved is not None:
        names = saved.encoder if stack == "encoder" else saved.decoder
        policy = jax.checkpoint_policies.save_only_these_names(*names)
        # A loop keeps the compiler from merging what is computed again with the first time.
        body = jax.checkpoint(body, policy=policy, prevent_cse=not cfg.scan_layers)
    x, _ = jax.lax.scan(body, x, (stacked, keys), unroll=not cfg.scan_layers)
    return x
