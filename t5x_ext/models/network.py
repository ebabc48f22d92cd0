"""T5 1.0 / 1.1 as pure functions over a nested dictionary of parameters.

The parameter names are T5X's (`encoder/layers/attention/query/kernel`), with the layers of each
stack held together on a leading `layers` axis that `lax.scan` walks: compile time does not grow
with depth, and rematerialisation is one policy around one function.

Plain functions rather than Flax NNX modules: scan over stacked layers, abstract initialisation,
`vmap` over a stack of models and swapping a kernel for an adapted one are then ordinary pytree
operations, and one `ParamSpec` tree states shapes, axes and initial values once.

Letters used in shapes: B batch, L input length, T target length, D emb_dim, H heads, C head_dim,
V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_ext.errors import ConfigError
from t5x_ext.models import layers, params
from t5x_ext.models.params import Params, ParamSpec
from t5x_ext.partitioning import constrain

RELPOS_BUCKETS = 32
RELPOS_MAX_DISTANCE = 128
COMPUTE_DTYPES = ("float32", "bfloat16")
REMAT_POLICIES = ("none", "minimal", "full")

# Dropout sites of a layer; each folds its number into the layer's key.
_SITE_ATTENTION, _SITE_AFTER_ATTENTION, _SITE_CROSS, _SITE_AFTER_CROSS, _SITE_MLP, _SITE_OUT = (
    range(6)
)
# Dropout sites outside the layers.
_SITE_INPUT, _SITE_LAYERS, _SITE_FINAL = range(3)


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Shape and numerics of a T5 model; field names and defaults are T5X's.

    Attributes:
      vocab_size: rows of the embedding (may exceed the vocabulary, e.g. 32128 for 32100).
      dtype: compute dtype, 'float32' or 'bfloat16' (parameters, norms and softmax stay float32).
      emb_dim: width D of the residual stream.
      num_heads: attention heads H.
      num_encoder_layers: depth of the encoder.
      num_decoder_layers: depth of the decoder.
      head_dim: width C of a head; H * C need not equal D.
      mlp_dim: width of the feed-forward block.
      mlp_activations: one name, or several that are multiplied (gated): ('gelu', 'linear') is 1.1.
      dropout_rate: used in training only.
      logits_via_embedding: True ties the output to the embedding and scales by D ** -0.5 (1.0).
      remat_policy: 'none' keeps all activations, 'minimal' recomputes all but matrix products,
        'full' keeps layer boundaries only.
    """

    vocab_size: int
    dtype: Any = "float32"
    emb_dim: int = 512
    num_heads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    head_dim: int = 64
    mlp_dim: int = 2048
    mlp_activations: Sequence[str] = ("relu",)
    dropout_rate: float = 0.1
    logits_via_embedding: bool = False
    remat_policy: str = "none"

    def __post_init__(self) -> None:
        name = jnp.dtype(self.dtype).name
        if name not in COMPUTE_DTYPES:
            raise ConfigError(
                f"T5Config.dtype: {name} is not supported, T5 overflows it; "
                f"allowed: {', '.join(COMPUTE_DTYPES)}"
            )
        object.__setattr__(self, "dtype", name)
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        for activation in self.mlp_activations:
            if activation not in layers.ACTIVATIONS:
                allowed = ", ".join(layers.ACTIVATIONS)
                raise ConfigError(
                    f"T5Config.mlp_activations: unknown {activation!r}; allowed: {allowed}"
                )
        if self.remat_policy not in REMAT_POLICIES:
            raise ConfigError(
                f"T5Config.remat_policy: {self.remat_policy!r}; "
                f"allowed: {', '.join(REMAT_POLICIES)}"
            )
        if not 0.0 <= self.dropout_rate < 1.0:
            raise ConfigError(f"T5Config.dropout_rate: {self.dropout_rate}; allowed: [0, 1)")


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The network as gin binds it: `network.Transformer.config = @network.T5Config()`."""

    config: T5Config


def param_specs(cfg: T5Config) -> Params:
    """Declares every parameter of the model. Initial values follow T5X's network.py."""
    joined = cfg.num_heads * cfg.head_dim

    def kernel(shape: tuple[int, int], axes: tuple[str, str], init: params.Initializer) -> Params:
        return {"kernel": ParamSpec(shape, axes, init)}

    def norm() -> Params:
        return {"scale": ParamSpec((cfg.emb_dim,), ("embed",), params.ones)}

    def attention() -> Params:
        # Attention logits are not scaled: the query's initial values carry 1/sqrt(head_dim).
        projection = ((cfg.emb_dim, joined), ("embed", "joined_kv"))
        return {
            "query": kernel(*projection, params.fan_in(1.0 / cfg.head_dim)),
            "key": kernel(*projection, params.fan_in()),
            "value": kernel(*projection, params.fan_in()),
            "out": kernel((joined, cfg.emb_dim), ("joined_kv", "embed"), params.fan_in()),
        }

    def mlp() -> Params:
        init = params.fan_in(truncated=True)
        count = len(cfg.mlp_activations)
        names = ["wi"] if count == 1 else [f"wi_{i}" for i in range(count)]
        block = {n: kernel((cfg.emb_dim, cfg.mlp_dim), ("embed", "mlp"), init) for n in names}
        return block | {"wo": kernel((cfg.mlp_dim, cfg.emb_dim), ("mlp", "embed"), init)}

    def relpos() -> Params:
        shape = (cfg.num_heads, RELPOS_BUCKETS)
        spec = ParamSpec(shape, ("heads", "relpos_buckets"), params.fan_avg_uniform())
        return {"rel_embedding": spec}

    encoder_layer = {
        "pre_attention_layer_norm": norm(),
        "attention": attention(),
        "pre_mlp_layer_norm": norm(),
        "mlp": mlp(),
    }
    decoder_layer = {
        "pre_self_attention_layer_norm": norm(),
        "self_attention": attention(),
        "pre_cross_attention_layer_norm": norm(),
        "encoder_decoder_attention": attention(),
        "pre_mlp_layer_norm": norm(),
        "mlp": mlp(),
    }
    embedding = ParamSpec((cfg.vocab_size, cfg.emb_dim), ("vocab", "embed"), params.normal(1.0))
    decoder = {
        "relpos_bias": relpos(),
        "layers": params.stack_specs(decoder_layer, cfg.num_decoder_layers),
        "decoder_norm": norm(),
    }
    if not cfg.logits_via_embedding:
        shape = (cfg.emb_dim, cfg.vocab_size)
        decoder["logits_dense"] = kernel(shape, ("embed", "vocab"), params.fan_in())
    return {
        "token_embedder": {"embedding": embedding},
        "encoder": {
            "relpos_bias": relpos(),
            "layers": params.stack_specs(encoder_layer, cfg.num_encoder_layers),
            "encoder_norm": norm(),
        },
        "decoder": decoder,
    }


def embed(cfg: T5Config, model_params: Params, tokens: jax.Array) -> jax.Array:
    """Token ids [B, L] -> [B, L, D] in the compute dtype."""
    table = model_params["token_embedder"]["embedding"].astype(cfg.dtype)
    return constrain(table[tokens], ("batch", "length", "embed"))


def segment_mask(query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
    """True where both positions are real and of one segment: bool [B, 1, Q, K]."""
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return (same & (key_segments > 0)[:, None, :])[:, None]


def _attend(
    cfg: T5Config,
    attention: Params,
    query_input: jax.Array,
    key_input: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array,
    key: jax.Array | None,
) -> jax.Array:
    """Projects, attends and projects back. [B, Q, D], [B, K, D] -> [B, Q, D]."""
    query = layers.split_heads(layers.dense(attention["query"], query_input), cfg.num_heads)
    keys = layers.split_heads(layers.dense(attention["key"], key_input), cfg.num_heads)
    values = layers.split_heads(layers.dense(attention["value"], key_input), cfg.num_heads)
    heads = layers.dot_product_attention(query, keys, values, bias, mask, cfg.dropout_rate, key)
    return layers.dense(attention["out"], heads.reshape(*query_input.shape[:-1], -1))


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
    length = tokens.shape[1]
    mask = segment_mask(segment_ids, segment_ids)
    table = encoder["relpos_bias"]["rel_embedding"]
    bias = layers.relative_position_bias(table, length, length, True, RELPOS_MAX_DISTANCE)

    def layer(x: jax.Array, layer_params: Params, key: jax.Array | None) -> jax.Array:
        x = _attention_block(cfg, layer_params, _ENCODER_SELF, x, None, bias, mask, key)
        return _mlp_block(cfg, layer_params, x, key)

    x = _drop(cfg, embed(cfg, model_params, tokens), dropout_key, _SITE_INPUT)
    x = _scan_layers(cfg, layer, encoder["layers"], x, dropout_key)
    x = layers.rms_norm(encoder["encoder_norm"]["scale"], x)
    return _drop(cfg, x, dropout_key, _SITE_FINAL)


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
    length = input_tokens.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
    self_mask = segment_mask(segment_ids, segment_ids) & causal
    cross_mask = segment_mask(segment_ids, encoder_segment_ids)
    table = decoder["relpos_bias"]["rel_embedding"]
    bias = layers.relative_position_bias(table, length, length, False, RELPOS_MAX_DISTANCE)

    def layer(x: jax.Array, layer_params: Params, key: jax.Array | None) -> jax.Array:
        x = _attention_block(cfg, layer_params, _DECODER_SELF, x, None, bias, self_mask, key)
        x = _attention_block(cfg, layer_params, _DECODER_CROSS, x, encoded, None, cross_mask, key)
        return _mlp_block(cfg, layer_params, x, key)

    x = _drop(cfg, embed(cfg, model_params, input_tokens), dropout_key, _SITE_INPUT)
    x = _scan_layers(cfg, layer, decoder["layers"], x, dropout_key)
    x = layers.rms_norm(decoder["decoder_norm"]["scale"], x)
    return _drop(cfg, x, dropout_key, _SITE_FINAL)


def logits(cfg: T5Config, model_params: Params, hidden: jax.Array) -> jax.Array:
    """Scores of every vocabulary row: [B, T, D] -> float32 [B, T, V]."""
    if cfg.logits_via_embedding:
        table = model_params["token_embedder"]["embedding"].astype(hidden.dtype)
        scores = jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)
        return scores * cfg.emb_dim**-0.5
    kernel = model_params["decoder"]["logits_dense"]["kernel"].astype(hidden.dtype)
    return jnp.einsum("...d,dv->...v", hidden, kernel, preferred_element_type=jnp.float32)


def forward(
    cfg: T5Config,
    model_params: Params,
    batch: dict[str, jax.Array],
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Logits of a converted batch, packed or not.

    Args:
      cfg: model shape.
      model_params: parameters in the tree of `param_specs`.
      batch: T5X's features; without `*_segment_ids`, every non-zero token is segment 1.
      dropout_key: None switches dropout off.

    Returns:
      float32 [B, T, V].
    """
    inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    input_segments = batch.get("encoder_segment_ids", (inputs > 0).astype(jnp.int32))
    target_segments = batch.get("decoder_segment_ids", (targets > 0).astype(jnp.int32))
    encoder_key = layers.fold_key(dropout_key, 0)
    decoder_key = layers.fold_key(dropout_key, 1)
    encoded = encode(cfg, model_params, inputs, input_segments, encoder_key)
    hidden = decode(
        cfg,
        model_params,
        encoded,
        input_segments,
        batch["decoder_input_tokens"],
        target_segments,
        decoder_key,
    )
    return logits(cfg, model_params, hidden)


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


def _attention_block(
    cfg: T5Config,
    layer_params: Params,
    block: _Block,
    x: jax.Array,
    memory: jax.Array | None,
    bias: jax.Array | None,
    mask: jax.Array,
    key: jax.Array | None,
) -> jax.Array:
    """Norm, attention over `memory` (None: over `x` itself) and residual. [B, Q, D] -> same."""
    y = layers.rms_norm(layer_params[block.norm]["scale"], x)
    memory = y if memory is None else memory
    attention_key = layers.fold_key(key, block.weights_site)
    y = _attend(cfg, layer_params[block.attention], y, memory, bias, mask, attention_key)
    return x + _drop(cfg, y, key, block.output_site)


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
    stacked: Params,
    x: jax.Array,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Applies `layer` once per slice of the stacked parameters."""
    num_layers = jax.tree.leaves(stacked)[0].shape[0]
    layers_key = layers.fold_key(dropout_key, _SITE_LAYERS)
    keys = None if layers_key is None else jax.random.split(layers_key, num_layers)

    def body(carry: jax.Array, xs: tuple[Params, jax.Array | None]) -> tuple[jax.Array, None]:
        return layer(carry, *xs), None

    if cfg.remat_policy == "minimal":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        body = jax.checkpoint(body, policy=policy, prevent_cse=False)
    elif cfg.remat_policy == "full":
        body = jax.checkpoint(body, prevent_cse=False)
    x, _ = jax.lax.scan(body, x, (stacked, keys))
    return x
