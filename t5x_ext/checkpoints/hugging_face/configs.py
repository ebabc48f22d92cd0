"""config.json of transformers' T5 and mT5, and our T5Config.

How the output is computed is the one thing config.json does not say plainly. transformers 4 wrote
`tie_word_embeddings`: true scales the decoder's output by d_model ** -0.5 and multiplies with the
embedding (1.0), false neither scales nor ties (1.1 and later). transformers 5 always writes true,
and says whether to scale in `scale_decoder_outputs`; a head of its own is used if it is among the
tensors. What is written here is read alike by both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from t5x_ext.errors import ConfigError
from t5x_ext.models.t5_config import T5Config

CONFIG_FILE = "config.json"

MODEL_TYPES = ("t5", "mt5")
ARCHITECTURES = {"t5": "T5ForConditionalGeneration", "mt5": "MT5ForConditionalGeneration"}
_UNSUPPORTED_TYPES = {
    "umt5": "it has a relative position table in every layer, T5 has one per stack",
    "longt5": "its encoder attends locally",
    "switch_transformers": "its feed-forward blocks are mixtures of experts",
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


def read_config(directory: epath.Path) -> dict[str, Any]:
    """The JSON of a checkpoint's config.json, of a model type we know.

    Raises:
        ConfigError: If it is missing, malformed or of another architecture.
    """
    path = directory / CONFIG_FILE
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{directory}: has no {CONFIG_FILE}") from None
    except ValueError as error:  # also of bytes that are not UTF-8
        raise ConfigError(f"{path}: is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: is not a JSON object")
    model_type: Any = raw.get("model_type")
    if model_type not in MODEL_TYPES:
        why = _UNSUPPORTED_TYPES.get(model_type)
        raise ConfigError(
            f"{path}: model_type {model_type!r} is not supported"
            + (f" ({why})" if why else "")
            + f"; allowed: {', '.join(MODEL_TYPES)}"
        )
    return raw


def scales_output(raw: Mapping[str, Any]) -> bool:
    """Whether config.json says that the decoder's output is scaled by d_model ** -0.5."""
    return bool(raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings", True)))


def to_t5_config(raw: Mapping[str, Any], path: str, logits_via_embedding: bool) -> T5Config:
    """Our config for a config.json.

    Args:
        raw: From `read_config`.
        path: Of the file, for messages.
        logits_via_embedding: Decided by whoever sees the tensors.

    Raises:
        ConfigError: If a field is missing, out of range, or fixed otherwise in our network.
    """
    for field, value in _CONSTANTS.items():
        if raw.get(field, value) != value:
            raise ConfigError(f"{path}: {field} is {raw[field]!r}; allowed: {value}, as in T5")
    # Older files say nothing of the decoder's depth: it is the encoder's.
    raw = {
        **_DEFAULTS,
        **raw,
        "num_decoder_layers": raw.get("num_decoder_layers") or raw.get("num_layers"),
    }
    sizes: dict[str, Any] = {ours: _positive(raw, theirs, path) for ours, theirs in _SIZES.items()}
    dropout = raw.get("dropout_rate", 0.1)
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ConfigError(f"{path}: dropout_rate is {dropout!r}; allowed: a number in [0, 1)")
    return T5Config(
        **sizes,
        mlp_activations=_read_activations(raw, path),
        dropout_rate=float(dropout),
        logits_via_embedding=logits_via_embedding,
    )


def from_t5_config(cfg: T5Config, model_type: str, dtype: str) -> dict[str, Any]:
    """config.json for our config, read alike by transformers 4 and 5.

    Args:
        cfg: The model's shape.
        model_type: One of `MODEL_TYPES`; a tied model is always written as 't5', because
            transformers 5 never scales the output of an 'mt5'.
        dtype: Name of the dtype of most of the weights.

    Raises:
        ConfigError: If transformers has no name for the feed-forward block.
    """
    by_activations = {activations: name for name, activations in _ACTIVATIONS.items()}
    projection = by_activations.get(tuple(cfg.mlp_activations))
    if projection is None:
        raise ConfigError(
            f"T5Config.mlp_activations: {cfg.mlp_activations} has no name in transformers;"
            f" allowed: {', '.join(map(str, by_activations))}"
        )
    tied = cfg.logits_via_embedding
    model_type = "t5" if tied else model_type
    return {
        "architectures": [ARCHITECTURES[model_type]],
        "model_type": model_type,
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
        **SPECIAL_TOKENS,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


# Every T5's, whatever its vocabulary.
SPECIAL_TOKENS = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


def _positive(raw: Mapping[str, Any], field: str, path: str) -> int:
    value = raw.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{path}: {field} is {value!r}; allowed: an integer > 0")
    return value


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
