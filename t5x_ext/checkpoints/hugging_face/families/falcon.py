"""Falcon: query, key and value in one tensor, each group of heads as [queries; key; value].

The 7B kind is one group. The 40B kind (`new_decoder_architecture`) has as many as key heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t5x_ext.checkpoints.hugging_face.configs import positive, positive_int, require
from t5x_ext.checkpoints.hugging_face.families.copies import resolve_head
from t5x_ext.checkpoints.hugging_face.families.family import Family
from t5x_ext.checkpoints.hugging_face.families.rotary import read_rope
from t5x_ext.checkpoints.hugging_face.placements import Name, fused_qkv
from t5x_ext.checkpoints.sources import LazyTensor
from t5x_ext.errors import ConfigError
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.falcon import FalconConfig

_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "gelu": ("gelu_exact",),
    "gelu_new": ("gelu",),
    "gelu_pytorch_tanh": ("gelu",),
    "relu": ("relu",),
    "silu": ("silu",),
}

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alibi": (False, None),
    "bias": (False, None),
    "parallel_attn": (True, None),
    "apply_residual_connection_post_layernorm": (False, None),
    "hidden_dropout": (0, None),
    "attention_dropout": (0, None),
    "quantization_config": (None,),
}

_EMBEDDING, _HEAD = "transformer.word_embeddings.weight", "lm_head.weight"
_LAYER = "transformer.h.{}"
_NAMES = {
    "token_embedder/embedding": Name(_EMBEDDING),
    "decoder/layers/self_attention/out/kernel": Name(f"{_LAYER}.self_attention.dense.weight"),
    "decoder/layers/mlp/wi/kernel": Name(f"{_LAYER}.mlp.dense_h_to_4h.weight"),
    "decoder/layers/mlp/wo/kernel": Name(f"{_LAYER}.mlp.dense_4h_to_h.weight"),
    "decoder/decoder_norm/scale": Name("transformer.ln_f.weight"),
    "decoder/decoder_norm/bias": Name("transformer.ln_f.bias"),
    "decoder/logits_dense/kernel": Name(_HEAD),
}
_FREQUENCIES = ".rotary_emb.inv_freq"  # in older files; follows from config.json


class Falcon(Family):
    """See `Family`."""

    model_types = ("falcon",)
    config = FalconConfig
    fields = {
        "embed": "hidden_size",
        "joined_kv": "hidden_size",
        "kv": "hidden_size",
        "mlp": "ffn_hidden_size",
        "vocab": "vocab_size",
    }

    def read(
        self, raw: Mapping[str, Any], stored: Mapping[str, LazyTensor], path: str
    ) -> tuple[FalconConfig, dict[str, LazyTensor]]:
        require(raw, _NEUTRAL, path)
        activation = raw.get("activation", "gelu")
        if activation not in _ACTIVATIONS:
            raise ConfigError(
                f"{path}: activation is {activation!r}, which is not supported;"
                f" allowed: {', '.join(_ACTIVATIONS)}"
            )
        tied, tensors = resolve_head(
            raw, stored, path, head=_HEAD, embedding=_EMBEDDING, tied_by_default=True
        )
        width = positive_int(raw, "hidden_size", path)
        num_heads = positive_int(raw, "num_attention_heads", path)
        if width % num_heads:
            raise ConfigError(
                f"{path}: num_attention_heads is {num_heads}; allowed: a divisor of hidden_size,"
                f" {width}"
            )
        config = FalconConfig(
            vocab_size=positive_int(raw, "vocab_size", path),
            emb_dim=width,
            num_layers=positive_int(raw, "num_hidden_layers", path),
            num_heads=num_heads,
            num_kv_heads=_read_kv_heads(raw, num_heads, path),
            head_dim=width // num_heads,
            mlp_dim=positive_int(raw, "ffn_hidden_size", path, 4 * width),
            mlp_activations=_ACTIVATIONS[activation],
            max_length=positive_int(raw, "max_position_embeddings", path, 2048),
            norm_epsilon=positive(raw, "layer_norm_epsilon", path, 1e-5),
            logits_via_embedding=tied,
            shared_norm=_shares_norm(raw, path),
            **read_rope(raw, path, may_scale=False),
        )
        used = {name: t for name, t in tensors.items() if not name.endswith(_FREQUENCIES)}
        return config, used

    def names(self, cfg: ModelConfig) -> dict[str, Name]:
        assert isinstance(cfg, FalconConfig)
        fused = fused_qkv(cfg.num_heads, cfg.num_kv_heads, cfg.head_dim, cfg.num_kv_heads)
        names = _NAMES | {
            f"decoder/layers/self_attention/{projection}/kernel": Name(
                f"{_LAYER}.self_attention.query_key_value.weight", rows
            )
            for projection, rows in fused.items()
        }
        norms = {"self_attention": "input_layernorm"}
        if not cfg.shared_norm:
            norms = {"self_attention": "ln_attn", "mlp": "ln_mlp"}
        for ours, theirs in norms.items():
            prefix = f"decoder/layers/pre_{ours}_layer_norm"
            names[f"{prefix}/scale"] = Name(f"{_LAYER}.{theirs}.weight")
            names[f"{prefix}/bias"] = Name(f"{_LAYER}.{theirs}.bias")
        return names

    def write(self, cfg: ModelConfig, model_type: str | None) -> dict[str, Any]:
        assert isinstance(cfg, FalconConfig)
        by_activations = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
        if tuple(cfg.mlp_activations) not in by_activations:
            raise cfg.error("mlp_activations", ", ".join(map(str, by_activations)))
        if cfg.num_heads * cfg.head_dim != cfg.emb_dim:
            raise cfg.error("head_dim", f"emb_dim / num_heads, {cfg.emb_dim / cfg.num_heads}")
        multi_query = cfg.shared_norm and cfg.num_kv_heads == 1
        return {
            "architectures": ["FalconForCausalLM"],
            "model_type": "falcon",
            "vocab_size": cfg.vocab_size,
            "hidden_size": cfg.emb_dim,
            "ffn_hidden_size": cfg.mlp_dim,
            "num_hidden_layers": cfg.num_layers,
            "num_attention_heads": cfg.num_heads,
            "num_kv_heads": cfg.num_kv_heads,
            "multi_query": multi_query,
            "new_decoder_architecture": not multi_query,
            "num_ln_in_parallel_attn": None if multi_query else 1 if cfg.shared_norm else 2,
            "activation": by_activations[tuple(cfg.mlp_activations)],
            "max_position_embeddings": cfg.max_length,
            "layer_norm_epsilon": cfg.norm_epsilon,
            "rope_theta": cfg.rope_theta,
            "rope_scaling": None,
            "alibi": False,
            "bias": False,
            "parallel_attn": True,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "initializer_range": cfg.embedding_stddev,
            "tie_word_embeddings": cfg.logits_via_embedding,
            "use_cache": True,
        }


def _read_kv_heads(raw: Mapping[str, Any], num_heads: int, path: str) -> int:
    """Key heads; without the new architecture there is one, or as many as queries have."""
    if raw.get("new_decoder_architecture"):
        return positive_int(raw, "num_kv_heads", path, num_heads)
    if raw.get("multi_query", True):
        return 1
    if raw.get("num_kv_heads") not in (None, num_heads):
        raise ConfigError(
            f"{path}: num_kv_heads is {raw['num_kv_heads']!r}; allowed without"
            f" new_decoder_architecture: num_attention_heads, {num_heads}"
        )
    return num_heads


def _shares_norm(raw: Mapping[str, Any], path: str) -> bool:
    """Whether attention and feed-forward block have one norm."""
    new = bool(raw.get("new_decoder_architecture"))
    require(raw, {"num_ln_in_parallel_attn": (None, 1, 2) if new else (None, 1)}, path)
    return not new or raw.get("num_ln_in_parallel_attn") == 1
