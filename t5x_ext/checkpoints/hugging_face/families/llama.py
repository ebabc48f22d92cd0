"""LLaMA 1, 2, 3 and what shares their layout: SmolLM2, Mistral without a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t5x_ext.checkpoints.hugging_face.configs import positive, positive_int, require
from t5x_ext.checkpoints.hugging_face.families.copies import resolve_head
from t5x_ext.checkpoints.hugging_face.families.family import Family
from t5x_ext.checkpoints.hugging_face.families.rotary import read_rope, write_rope
from t5x_ext.checkpoints.hugging_face.placements import Name
from t5x_ext.checkpoints.sources import LazyTensor
from t5x_ext.errors import ConfigError
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.llama import LlamaConfig

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
_KV_HEADS = {"llama": None, "mistral": 8}  # where config.json says nothing; None: all heads

_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "silu": ("silu", "linear"),
    "gelu_pytorch_tanh": ("gelu", "linear"),
    "gelu": ("gelu_exact", "linear"),
    "relu": ("relu", "linear"),
}
_SYNONYMS = {"swish": "silu", "gelu_new": "gelu_pytorch_tanh"}

# What relatives of LLaMA have, and these values mean that a model has not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "attention_dropout": (0, None),
    "attention_multiplier": (None,),
    "embedding_multiplier": (1, None),
    "residual_multiplier": (1, None),
    "logits_scaling": (1, None),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "use_qk_norm": (False, None),
    "qk_norm": (False, None),
    "rope_interleaved": (False, None),
    "no_rope_layers": (None, []),
    "num_local_experts": (None, 0, 1),
    "num_experts": (None, 0, 1),
    "n_routed_experts": (None, 0),
    "num_experts_per_tok": (None, 0, 1),
    "attention_chunk_size": (None,),
    "quantization_config": (None,),
}

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_LAYER = "model.layers.{}"
_NAMES = {
    "token_embedder/embedding": Name(_EMBEDDING),
    "decoder/layers/pre_self_attention_layer_norm/scale": Name(f"{_LAYER}.input_layernorm.weight"),
    "decoder/layers/self_attention/query/kernel": Name(f"{_LAYER}.self_attn.q_proj.weight"),
    "decoder/layers/self_attention/key/kernel": Name(f"{_LAYER}.self_attn.k_proj.weight"),
    "decoder/layers/self_attention/value/kernel": Name(f"{_LAYER}.self_attn.v_proj.weight"),
    "decoder/layers/self_attention/out/kernel": Name(f"{_LAYER}.self_attn.o_proj.weight"),
    "decoder/layers/pre_mlp_layer_norm/scale": Name(f"{_LAYER}.post_attention_layernorm.weight"),
    "decoder/layers/mlp/wi_0/kernel": Name(f"{_LAYER}.mlp.gate_proj.weight"),
    "decoder/layers/mlp/wi_1/kernel": Name(f"{_LAYER}.mlp.up_proj.weight"),
    "decoder/layers/mlp/wo/kernel": Name(f"{_LAYER}.mlp.down_proj.weight"),
    "decoder/decoder_norm/scale": Name("model.norm.weight"),
    "decoder/logits_dense/kernel": Name(_HEAD),
}
_FREQUENCIES = ".rotary_emb.inv_freq"  # in older files; follows from config.json


class Llama(Family):
    """See `Family`."""

    model_types = tuple(_ARCHITECTURES)
    config = LlamaConfig
    fields = {
        "embed": "hidden_size",
        "joined_kv": "heads * head_dim",
        "kv": "num_key_value_heads * head_dim",
        "mlp": "intermediate_size",
        "vocab": "vocab_size",
    }

    def read(
        self, raw: Mapping[str, Any], stored: Mapping[str, LazyTensor], path: str
    ) -> tuple[LlamaConfig, dict[str, LazyTensor]]:
        require(raw, _NEUTRAL, path)
        max_length = positive_int(raw, "max_position_embeddings", path, 2048)
        _refuse_window(raw, max_length, path)
        tied, tensors = resolve_head(
            raw, stored, path, head=_HEAD, embedding=_EMBEDDING, tied_by_default=False
        )
        width = positive_int(raw, "hidden_size", path)
        num_heads = positive_int(raw, "num_attention_heads", path)
        if raw.get("head_dim") is None and width % num_heads:
            raise ConfigError(
                f"{path}: num_attention_heads is {num_heads}; allowed without head_dim: a divisor"
                f" of hidden_size, {width}"
            )
        kv_heads = _KV_HEADS[raw["model_type"]] or num_heads
        config = LlamaConfig(
            vocab_size=positive_int(raw, "vocab_size", path),
            emb_dim=width,
            num_layers=positive_int(raw, "num_hidden_layers", path),
            num_heads=num_heads,
            num_kv_heads=positive_int(raw, "num_key_value_heads", path, kv_heads),
            head_dim=positive_int(raw, "head_dim", path, width // num_heads),
            mlp_dim=positive_int(raw, "intermediate_size", path),
            mlp_activations=_read_activations(raw, path),
            max_length=max_length,
            norm_epsilon=positive(raw, "rms_norm_eps", path, 1e-6),
            logits_via_embedding=tied,
            **read_rope(raw, path, may_scale=True),
        )
        used = {name: t for name, t in tensors.items() if not name.endswith(_FREQUENCIES)}
        return config, used

    def names(self, cfg: ModelConfig) -> dict[str, Name]:
        return _NAMES

    def write(self, cfg: ModelConfig, model_type: str | None) -> dict[str, Any]:
        assert isinstance(cfg, LlamaConfig)
        by_activations = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
        if tuple(cfg.mlp_activations) not in by_activations:
            raise cfg.error("mlp_activations", ", ".join(map(str, by_activations)))
        kind = model_type or "llama"
        own = {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
        return {
            "architectures": [_ARCHITECTURES[kind]],
            "model_type": kind,
            "vocab_size": cfg.vocab_size,
            "hidden_size": cfg.emb_dim,
            "intermediate_size": cfg.mlp_dim,
            "num_hidden_layers": cfg.num_layers,
            "num_attention_heads": cfg.num_heads,
            "num_key_value_heads": cfg.num_kv_heads,
            "head_dim": cfg.head_dim,
            "hidden_act": by_activations[tuple(cfg.mlp_activations)],
            "max_position_embeddings": cfg.max_length,
            "rms_norm_eps": cfg.norm_epsilon,
            **write_rope(cfg),
            **(own if kind == "llama" else {"sliding_window": None}),
            "attention_dropout": 0.0,
            "initializer_range": cfg.embedding_stddev,
            "tie_word_embeddings": cfg.logits_via_embedding,
            "use_cache": True,
        }


def _read_activations(raw: Mapping[str, Any], path: str) -> tuple[str, ...]:
    stated = raw.get("hidden_act", "silu")
    name = _SYNONYMS.get(stated, stated)
    if name not in _ACTIVATIONS:
        allowed = ", ".join([*_ACTIVATIONS, *_SYNONYMS])
        raise ConfigError(
            f"{path}: hidden_act is {stated!r}, which is not supported; allowed: {allowed}"
        )
    return _ACTIVATIONS[name]


def _refuse_window(raw: Mapping[str, Any], max_length: int, path: str) -> None:
    """A window as long as the longest row never cuts anything off."""
    default = 4096 if raw["model_type"] == "mistral" else None
    window = raw.get("sliding_window", default)
    unused = raw.get("use_sliding_window") is False
    if window is not None and not unused and not (isinstance(window, int) and window >= max_length):
        stated = "is" if "sliding_window" in raw else "is not stated and therefore"
        raise ConfigError(
            f"{path}: sliding_window {stated} {window!r}, which is not supported; allowed: null, or"
            f" at least max_position_embeddings, {max_length}"
        )
    for kind in raw.get("layer_types") or ():
        if kind != "full_attention" and not (window and window >= max_length):
            raise ConfigError(
                f"{path}: layer_types has {kind!r}, which is not supported; allowed: full_attention"
            )
