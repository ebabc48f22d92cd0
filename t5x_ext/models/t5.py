"""T5 1.0 / 1.1, mT5, ByT5 and umT5: an encoder and a decoder, composed of `blocks`.

The parameter names are T5X's (`encoder/layers/attention/query/kernel`), with the layers of each
stack held together on a leading `layers` axis. Initial values follow T5X's network.py.

Letters used in shapes: B batch, L input length, T target length, D emb_dim, K rows that share a
prompt, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from t5x_ext.models import parameters
from t5x_ext.models.blocks.attend import Attend, make_attend
from t5x_ext.models.blocks.attention import Attention
from t5x_ext.models.blocks.cache import OutputCache, PromptCache, prompt_cache
from t5x_ext.models.blocks.dropout import dropout, fold_key
from t5x_ext.models.blocks.linear import Embedding, Linear
from t5x_ext.models.blocks.mlp import MLP
from t5x_ext.models.blocks.norms import RMSNorm
from t5x_ext.models.blocks.parameter import stacked
from t5x_ext.models.blocks.pattern import MASKED, Heads, Pattern
from t5x_ext.models.blocks.positions import RelativeBias
from t5x_ext.models.blocks.stack import scan_layers
from t5x_ext.partitioning import constrain, gather

if TYPE_CHECKING:
    from t5x_ext.models.t5_config import T5Config

_AROUND_ATTENTION = ("projection", "heads", "residual")
_MLP_BRANCHES = ("wi", "wi_0", "wi_1")


class Saved(NamedTuple):
    """What the backward pass finds in memory, by the names given in `blocks`.

    It computes the rest again. Products of matrices cost D multiplications for each number saved,
    all of them; the decoder's rows are shorter, so that it may save more.
    """

    encoder: tuple[str, ...]
    decoder: tuple[str, ...]


SAVED_BY_REMAT_POLICY = {
    "none": None,
    "minimal": Saved(
        encoder=(*_AROUND_ATTENTION, *_MLP_BRANCHES),
        decoder=(*_AROUND_ATTENTION, "memory_projection", *_MLP_BRANCHES),
    ),
    "balanced": Saved(encoder=_AROUND_ATTENTION, decoder=(*_AROUND_ATTENTION, "wi_1")),
    "full": Saved(encoder=(), decoder=()),
}

# Where dropout is applied in a layer; each folds its number into the layer's key.
_WEIGHTS, _AFTER_ATTENTION, _CROSS_WEIGHTS, _AFTER_CROSS, _MLP, _AFTER_MLP = range(6)
# And outside the layers.
_INPUT, _LAYERS, _FINAL = range(3)


def _heads(cfg: T5Config) -> Heads:
    return Heads(cfg.num_heads, cfg.head_dim)


def _attention(cfg: T5Config) -> Attention:
    # Attention logits are not scaled: the query's initial values carry 1/sqrt(head_dim).
    return Attention(cfg.emb_dim, _heads(cfg), query_init=parameters.fan_in(1.0 / cfg.head_dim))


def _mlp(cfg: T5Config) -> MLP:
    init = parameters.fan_in(truncated=True)
    return MLP(cfg.emb_dim, cfg.mlp_dim, cfg.mlp_activations, init, cfg.dropout_rate)


def _position_table(cfg: T5Config, bidirectional: bool) -> RelativeBias:
    buckets, distance = cfg.relative_attention_buckets, cfg.relative_attention_max_distance
    return RelativeBias(cfg.num_heads, buckets, distance, bidirectional)


class _Dropout:
    """The network's dropout rate, applied with one mask for all positions of a row."""

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, x: jax.Array, key: jax.Array | None, site: int) -> jax.Array:
        return dropout(x, self.rate, fold_key(key, site), broadcast_axis=-2)


class EncoderLayer(nnx.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, cfg: T5Config):
        if cfg.position_table_per_layer:
            self.relpos_bias = _position_table(cfg, bidirectional=True)
        self.pre_attention_layer_norm = RMSNorm(cfg.emb_dim)
        self.attention = _attention(cfg)
        self.pre_mlp_layer_norm = RMSNorm(cfg.emb_dim)
        self.mlp = _mlp(cfg)
        self.rate = cfg.dropout_rate

    def __call__(self, x: jax.Array, attend: Attend, key: jax.Array | None) -> jax.Array:
        drop = _Dropout(self.rate)
        y = self.attention(self.pre_attention_layer_norm(x), attend, fold_key(key, _WEIGHTS))
        x = checkpoint_name(x + drop(y, key, _AFTER_ATTENTION), "residual")
        y = self.mlp(self.pre_mlp_layer_norm(x), fold_key(key, _MLP))
        return constrain(x + drop(y, key, _AFTER_MLP), ("batch", "length", "embed"))


class Encoder(nnx.Module):
    """Prompts -> what the decoder attends to."""

    def __init__(self, cfg: T5Config):
        if not cfg.position_table_per_layer:
            self.relpos_bias = _position_table(cfg, bidirectional=True)
        self.layers = stacked(EncoderLayer(cfg), cfg.num_encoder_layers)
        self.encoder_norm = RMSNorm(cfg.emb_dim)
        self.cfg = cfg

    def __call__(
        self, embedded: jax.Array, segment_ids: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        """[B, L, D], int32 [B, L] (0 is padding) -> [B, L, D]."""
        cfg = self.cfg
        pattern = Pattern(segment_ids, segment_ids)
        shared = _shared_attend(self, pattern)

        def layer(one: EncoderLayer, x: jax.Array, layer_key: jax.Array | None) -> jax.Array:
            return one(x, shared or _own_attend(cfg, one, pattern), layer_key)

        x = _Dropout(cfg.dropout_rate)(embedded, key, _INPUT)
        x = _scan(cfg, "encoder", self.layers, layer, x, key)
        # The one place where T5X draws a mask for every position.
        return dropout(
            self.encoder_norm(x), cfg.dropout_rate, fold_key(key, _FINAL), broadcast_axis=None
        )


class DecoderLayer(nnx.Module):
    """x += self_attention(norm(x)); x += cross_attention(norm(x), memory); x += mlp(norm(x))."""

    def __init__(self, cfg: T5Config):
        if cfg.position_table_per_layer:
            self.relpos_bias = _position_table(cfg, bidirectional=False)
        self.pre_self_attention_layer_norm = RMSNorm(cfg.emb_dim)
        self.self_attention = _attention(cfg)
        self.pre_cross_attention_layer_norm = RMSNorm(cfg.emb_dim)
        self.encoder_decoder_attention = _attention(cfg)
        self.pre_mlp_layer_norm = RMSNorm(cfg.emb_dim)
        self.mlp = _mlp(cfg)
        self.rate = cfg.dropout_rate

    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array,
        attend: Attend,
        attend_cross: Attend,
        key: jax.Array | None,
    ) -> jax.Array:
        drop = _Dropout(self.rate)
        y = self.pre_self_attention_layer_norm(x)
        y = self.self_attention(y, attend, fold_key(key, _WEIGHTS))
        x = checkpoint_name(x + drop(y, key, _AFTER_ATTENTION), "residual")
        y = self.pre_cross_attention_layer_norm(x)
        cross = self.encoder_decoder_attention
        y = cross(y, attend_cross, fold_key(key, _CROSS_WEIGHTS), memory)
        x = checkpoint_name(x + drop(y, key, _AFTER_CROSS), "residual")
        y = self.mlp(self.pre_mlp_layer_norm(x), fold_key(key, _MLP))
        return constrain(x + drop(y, key, _AFTER_MLP), ("batch", "length", "embed"))

    def step(
        self,
        x: jax.Array,
        prompt: tuple[jax.Array, jax.Array, jax.Array],
        keys: jax.Array,
        values: jax.Array,
        index: jax.Array,
        bias: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One position, [B, K, D]; see `Attention.step` and `step_memory`."""
        y = self.pre_self_attention_layer_norm(x)
        y, keys, values = self.self_attention.step(y, keys, values, index, bias)
        x = x + y
        y = self.pre_cross_attention_layer_norm(x)
        x = x + self.encoder_decoder_attention.step_memory(y, *prompt)
        return x + self.mlp(self.pre_mlp_layer_norm(x)), keys, values


class Decoder(nnx.Module):
    """Targets, and what they attend to, -> the input of the output projection."""

    def __init__(self, cfg: T5Config):
        if not cfg.position_table_per_layer:
            self.relpos_bias = _position_table(cfg, bidirectional=False)
        self.layers = stacked(DecoderLayer(cfg), cfg.num_decoder_layers)
        self.decoder_norm = RMSNorm(cfg.emb_dim)
        if not cfg.logits_via_embedding:
            shape = (cfg.emb_dim, cfg.vocab_size)
            self.logits_dense = Linear(shape, ("embed", "vocab"), parameters.fan_in())
        self.cfg = cfg

    def __call__(
        self,
        embedded: jax.Array,
        segment_ids: jax.Array,
        encoded: jax.Array,
        encoder_segment_ids: jax.Array,
        key: jax.Array | None,
    ) -> jax.Array:
        """Whole targets (teacher forcing): [B, T, D] and [B, L, D] -> [B, T, D], normed."""
        cfg = self.cfg
        pattern = Pattern(segment_ids, segment_ids, causal=True)
        shared = _shared_attend(self, pattern)
        attend_cross = _make_attend(cfg, Pattern(segment_ids, encoder_segment_ids))

        def layer(one: DecoderLayer, x: jax.Array, layer_key: jax.Array | None) -> jax.Array:
            attend = shared or _own_attend(cfg, one, pattern)
            return one(x, encoded, attend, attend_cross, layer_key)

        drop = _Dropout(cfg.dropout_rate)
        x = drop(embedded, key, _INPUT)
        x = _scan(cfg, "decoder", self.layers, layer, x, key)
        return drop(self.decoder_norm(x), key, _FINAL)

    def bias_at(self, layer: DecoderLayer, length: int, index: jax.Array) -> jax.Array:
        """Bias of position `index` on `length` positions, later ones masked: [H, 1, length]."""
        table = layer.relpos_bias if self.cfg.position_table_per_layer else self.relpos_bias
        distance = jnp.arange(length) - index
        bias = table.traced_bias(jnp.minimum(distance, 0), length)
        return jnp.where(distance <= 0, bias, MASKED)[:, None]


class T5(nnx.Module):
    """The network; see `models.network` for what is asked of one."""

    def __init__(self, cfg: T5Config):
        self.token_embedder = Embedding(cfg.vocab_size, cfg.emb_dim, cfg.dtype)
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg)
        self.cfg = cfg

    def hidden_states(
        self, batch: dict[str, jax.Array], dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """The decoder's last activations for a converted batch, packed or not: [B, T, D]."""
        input_segments = batch["encoder_segment_ids"]
        key = fold_key(dropout_key, 0)
        encoded = self.encode(batch["encoder_input_tokens"], input_segments, key)
        embedded = self.token_embedder(batch["decoder_input_tokens"])
        key = fold_key(dropout_key, 1)
        segments = batch["decoder_segment_ids"]
        return self.decoder(embedded, segments, encoded, input_segments, key)

    def encode(
        self, tokens: jax.Array, segment_ids: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """int32 [B, L] both; segment 0 is padding -> [B, L, D] in the compute dtype."""
        return self.encoder(self.token_embedder(tokens), segment_ids, key)

    def output(self) -> tuple[jax.Array, float]:
        """The output projection [D, V] in the compute dtype, and the factor of its products."""
        if self.cfg.logits_via_embedding:
            return self.token_embedder.transposed(), self.cfg.emb_dim**-0.5
        kernel = self.decoder.logits_dense.kernel[...].astype(self.cfg.dtype)
        return gather(kernel, ("embed", "vocab")), 1.0

    def start(self, layers: list[DecoderLayer], prompts: jax.Array, mask: jax.Array) -> PromptCache:
        """Encodes prompts, int32 [B, L] with bool [B, L], for `step`."""
        segment_ids = mask.astype(jnp.int32)
        encoded = self.encode(prompts, segment_ids)
        pairs = [one.encoder_decoder_attention.project_memory(encoded) for one in layers]
        return prompt_cache(tuple(k for k, _ in pairs), tuple(v for _, v in pairs), mask)

    def step(
        self,
        layers: list[DecoderLayer],
        prompt: PromptCache,
        cache: OutputCache,
        tokens: jax.Array,
        index: jax.Array,
    ) -> tuple[jax.Array, OutputCache]:
        """Scores what comes after position `index`: int32 [B, K] -> [B, K, D] to project."""
        cross_bias = jnp.where(prompt.mask, 0.0, MASKED)
        x = self.token_embedder(tokens)
        length = cache.keys[0].shape[2]
        keys, values = [], []
        for number, layer in enumerate(layers):
            if number == 0 or self.cfg.position_table_per_layer:
                bias = self.decoder.bias_at(layer, length, index)
            memory = prompt.keys[number], prompt.values[number], cross_bias
            own = cache.keys[number], cache.values[number]
            x, key, value = layer.step(x, memory, *own, index, bias)
            keys.append(key)
            values.append(value)
        return self.decoder.decoder_norm(x), OutputCache(tuple(keys), tuple(values))


def _make_attend(cfg: T5Config, pattern: Pattern) -> Attend:
    return make_attend(pattern, _heads(cfg), cfg.dropout_rate, cfg.attention, cfg.dtype)


def _shared_attend(stack: Encoder | Decoder, pattern: Pattern) -> Attend | None:
    """The attention that all layers share; None if each has its own position table."""
    if stack.cfg.position_table_per_layer:
        return None
    return _make_attend(stack.cfg, pattern._replace(bias=stack.relpos_bias))


def _own_attend(cfg: T5Config, layer: EncoderLayer | DecoderLayer, pattern: Pattern) -> Attend:
    return _make_attend(cfg, pattern._replace(bias=layer.relpos_bias))


def _scan(cfg: T5Config, stack: str, layers: Any, apply: Any, x: jax.Array, key: Any) -> jax.Array:
    saved = SAVED_BY_REMAT_POLICY[cfg.remat_policy]
    x, _ = scan_layers(
        layers,
        apply,
        x,
        fold_key(key, _LAYERS),
        dtype=cfg.dtype,
        saved=None if saved is None else getattr(saved, stack),
        scan=cfg.scan_layers,
    )
    return x
