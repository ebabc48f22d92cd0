"""T5 1.0, 1.1, LM-adapted, Flan, Tk-Instruct, mT5, ByT5 and umT5.

How the output is computed is the one thing config.json does not say plainly. transformers 4 wrote
`tie_word_embeddings`: true scales the decoder's output by d_model ** -0.5 and multiplies with the
embedding (1.0), false neither scales nor ties (1.1 and later). transformers 5 always writes true,
and says whether to scale in `scale_decoder_outputs`; a separate head is used if it is among the
tensors. What is written here is read alike by both, but for umt5: version 5 takes every one for
scaled, whatever its files say, and scales the output of Google's, which are not. We go by the
files, as version 4 does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t5x_ext.checkpoints.hugging_face.configs import positive_int
from t5x_ext.checkpoints.hugging_face.families.copies import equal, keep_first
from t5x_ext.checkpoints.hugging_face.families.family import Family
from t5x_ext.checkpoints.hugging_face.placements import Name
from t5x_ext.checkpoints.sources import LazyTensor
from t5x_ext.errors import ConfigError
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.t5_config import T5Config

_PER_LAYER = "umt5"  # the one type with a position table in every layer
_ARCHITECTURES = {
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
    _PER_LAYER: "UMT5ForConditionalGeneration",
}

# feed_forward_proj -> mlp_activations. In transformers 'gelu' alone is the exact one, which no
# released T5 uses, but 'gated-gelu' is the tanh approximation, as everywhere in T5X.
_ACTIVATIONS = {
    "relu": ("relu",),
    "gelu_new": ("gelu",),
    "silu": ("silu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-relu": ("relu", "linear"),
    "gated-silu": ("silu", "linear"),
}
_SYNONYMS = {"gated-gelu_new": "gated-gelu", "swish": "silu", "gated-swish": "gated-silu"}
# What transformers derives from feed_forward_proj, and also writes.
_DENSE_ACTIVATIONS = {"gated-gelu": "gelu_new"}

# T5Config field -> config.json field.
_SIZES = {
    "vocab_size": "vocab_size",
    "emb_dim": "d_model",
    "num_heads": "num_heads",
    "num_encoder_layers": "num_layers",
    "num_decoder_layers": "num_decoder_layers",
    "head_dim": "d_kv",
    "mlp_dim": "d_ff",
    "relative_attention_buckets": "relative_attention_num_buckets",
    "relative_attention_max_distance": "relative_attention_max_distance",
}
# The same, where older files may say nothing.
_DEFAULTS = {
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
}
# Fixed in our network.
_CONSTANTS = {"layer_norm_epsilon": 1e-6}

# The embedding, under any of its names; files may hold it several times.
_EMBEDDING = "shared.weight"
_EMBEDDING_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_HEAD = "lm_head.weight"
# In the released T5 1.0 files, but in no forward pass: cross-attention has no position bias.
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

_TABLE = "layer.0.SelfAttention.relative_attention_bias.weight"
_WHOLE = {
    "token_embedder/embedding": _EMBEDDING,
    "encoder/relpos_bias/rel_embedding": f"encoder.block.0.{_TABLE}",
    "decoder/relpos_bias/rel_embedding": f"decoder.block.0.{_TABLE}",
    "encoder/layers/relpos_bias/rel_embedding": f"encoder.block.{{}}.{_TABLE}",
    "decoder/layers/relpos_bias/rel_embedding": f"decoder.block.{{}}.{_TABLE}",
    "encoder/encoder_norm/scale": "encoder.final_layer_norm.weight",
    "decoder/decoder_norm/scale": "decoder.final_layer_norm.weight",
    "decoder/logits_dense/kernel": _HEAD,
}
_NORMS = {
    "encoder/layers/pre_attention_layer_norm": "layer.0.layer_norm",
    "encoder/layers/pre_mlp_layer_norm": "layer.1.layer_norm",
    "decoder/layers/pre_self_attention_layer_norm": "layer.0.layer_norm",
    "decoder/layers/pre_cross_attention_layer_norm": "layer.1.layer_norm",
    "decoder/layers/pre_mlp_layer_norm": "layer.2.layer_norm",
}
_ATTENTION = {
    "encoder/layers/attention": "layer.0.SelfAttention",
    "decoder/layers/self_attention": "layer.0.SelfAttention",
    "decoder/layers/encoder_decoder_attention": "layer.1.EncDecAttention",
}
_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "o"}
_MLP = {
    "encoder/layers/mlp": "layer.1.DenseReluDense",
    "decoder/layers/mlp": "layer.2.DenseReluDense",
}


def _in_layers() -> dict[str, str]:
    inner = {f"{ours}/scale": (ours, theirs) for ours, theirs in _NORMS.items()}
    for ours, theirs in _ATTENTION.items():
        for projection, short in _PROJECTIONS.items():
            inner[f"{ours}/{projection}/kernel"] = (ours, f"{theirs}.{short}")
    for ours, theirs in _MLP.items():
        for projection in ("wi", "wi_0", "wi_1", "wo"):
            inner[f"{ours}/{projection}/kernel"] = (ours, f"{theirs}.{projection}")
    return {
        name: f"{ours.split('/')[0]}.block.{{}}.{theirs}.weight"
        for name, (ours, theirs) in inner.items()
    }


_NAMES = {ours: Name(theirs) for ours, theirs in (_WHOLE | _in_layers()).items()}


class T5(Family):
    """See `Family`."""

    model_types = tuple(_ARCHITECTURES)
    config = T5Config
    fields = {
        "embed": "d_model",
        "heads": "num_heads",
        "joined_kv": "num_heads * d_kv",
        "mlp": "d_ff",
        "relpos_buckets": "relative_attention_num_buckets",
        "vocab": "vocab_size",
    }

    def read(
        self, raw: Mapping[str, Any], stored: Mapping[str, LazyTensor], path: str
    ) -> tuple[T5Config, dict[str, LazyTensor]]:
        tied = _is_tied(raw, stored, path)
        aliases = _EMBEDDING_ALIASES + ((_HEAD,) if tied else ())
        tensors = {name: tensor for name, tensor in stored.items() if name != _UNUSED}
        return _read_config(raw, path, tied), keep_first(tensors, (_EMBEDDING, *aliases), path)

    def names(self, cfg: ModelConfig) -> dict[str, Name]:
        return _NAMES

    def write(self, cfg: ModelConfig, model_type: str | None) -> dict[str, Any]:
        """As `Family.write`.

        A tied model is never written as 'mt5', because transformers 5 does not scale the output of
        one.
        """
        assert isinstance(cfg, T5Config)
        by_activations = {activations: name for name, activations in _ACTIVATIONS.items()}
        projection = by_activations.get(tuple(cfg.mlp_activations))
        if projection is None:
            raise ConfigError(
                f"T5Config.mlp_activations: {cfg.mlp_activations} has no name in transformers;"
                f" allowed: {', '.join(map(str, by_activations))}"
            )
        tied = cfg.logits_via_embedding
        shared = "mt5" if model_type == "mt5" and not tied else "t5"
        kind = _PER_LAYER if cfg.position_table_per_layer else shared
        return {
            "architectures": [_ARCHITECTURES[kind]],
            "model_type": kind,
            **{theirs: getattr(cfg, ours) for ours, theirs in _SIZES.items()},
            **_CONSTANTS,
            "feed_forward_proj": projection,
            "dense_act_fn": _dense_activation(projection),
            "is_gated_act": projection.startswith("gated-"),
            "dropout_rate": cfg.dropout_rate,
            "initializer_factor": 1.0,
            "tie_word_embeddings": tied,
            "scale_decoder_outputs": tied,
            "is_encoder_decoder": True,
            "use_cache": True,
        }

    def special_tokens(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Every T5's, whatever its vocabulary."""
        return {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


def _is_tied(raw: Mapping[str, Any], stored: Mapping[str, LazyTensor], path: str) -> bool:
    """Decides by the tensors whether the output is tied, and holds config.json to it."""
    head, embedding = stored.get(_HEAD), stored.get(_EMBEDDING)
    if raw["model_type"] == "mt5":
        # transformers 5 writes tie_word_embeddings: true for these too, and never scales.
        if head is None:
            raise ConfigError(f"{path}: an mt5 checkpoint without {_HEAD}")
        return False
    scaled = bool(raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings", True)))
    stated = {
        field: raw[field]
        for field in ("tie_word_embeddings", "scale_decoder_outputs")
        if field in raw
    } or "no tie_word_embeddings"
    if head is None and not scaled:
        raise ConfigError(
            f"{path}: {stated} means an output that is not scaled, but there is no {_HEAD};"
            " allowed without one: a scaled output, tied to the embedding (T5 1.0)"
        )
    if scaled and head and embedding and not equal(head, embedding):
        raise ConfigError(
            f"{path}: {stated} means an output tied to the embedding, but {_HEAD} differs"
            f" from {_EMBEDDING}; tie_word_embeddings: false would use it"
        )
    return scaled


def _read_config(raw: Mapping[str, Any], path: str, tied: bool) -> T5Config:
    for field, value in _CONSTANTS.items():
        if raw.get(field, value) != value:
            raise ConfigError(f"{path}: {field} is {raw[field]!r}; allowed: {value}, as in T5")
    # Older files say nothing of the decoder's depth: it is the encoder's.
    raw = {
        **_DEFAULTS,
        **raw,
        "num_decoder_layers": raw.get("num_decoder_layers") or raw.get("num_layers"),
    }
    sizes: dict[str, Any] = {
        ours: positive_int(raw, theirs, path) for ours, theirs in _SIZES.items()
    }
    dropout = raw.get("dropout_rate", 0.1)
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ConfigError(f"{path}: dropout_rate is {dropout!r}; allowed: a number in [0, 1)")
    return T5Config(
        **sizes,
        mlp_activations=_read_activations(raw, path),
        dropout_rate=float(dropout),
        logits_via_embedding=tied,
        position_table_per_layer=raw["model_type"] == _PER_LAYER,
    )


def _dense_activation(projection: str) -> str:
    return _DENSE_ACTIVATIONS.get(projection, projection.removeprefix("gated-"))


def _read_activations(raw: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """The activations of the feed-forward block; the fields that name them must agree."""
    default = "relu" if raw["model_type"] == "t5" else "gated-gelu"
    stated = raw.get("feed_forward_proj", default)
    projection = _SYNONYMS.get(stated, stated)
    if projection not in _ACTIVATIONS:
        allowed = ", ".join([*_ACTIVATIONS, *_SYNONYMS])
        raise ConfigError(f"{path}: feed_forward_proj is {stated!r}; allowed: {allowed}")
    derived = {
        "dense_act_fn": _dense_activation(projection),
        "is_gated_act": projection.startswith("gated-"),
    }
    for field, value in derived.items():
        found = raw.get(field, value)
        if _SYNONYMS.get(found, found) != value:
            raise ConfigError(
                f"{path}: {field} is {found!r}, but feed_forward_proj {stated!r} means {value!r}"
            )
    return _ACTIVATIONS[projection]
