"""MPT: query, key and value in one tensor, [q; k; v]; no biases; the output tied to the embedding.

`learned_pos_emb` is true in the published files although ALiBi replaces those positions, and is not
read; a table of them among the tensors is refused as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t5x_ext.checkpoints.hugging_face.configs import positive, positive_int, require
from t5x_ext.checkpoints.hugging_face.families.copies import resolve_head
from t5x_ext.checkpoints.hugging_face.families.family import Family
from t5x_ext.checkpoints.hugging_face.placements import Name, fused_qkv
from t5x_ext.checkpoints.sources import LazyTensor
from t5x_ext.errors import ConfigError
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.mpt import MptConfig

_ACTIVATIONS = ("gelu_exact",)

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "no_bias": (True,),
    "logit_scale": (None,),
    "embedding_fraction": (1, None),
    "norm_type": ("low_precision_layernorm", "layernorm"),
    "resid_pdrop": (0, None),
    "emb_pdrop": (0, None),
    "ffn_config": (None, {"ffn_type": "mptmlp"}),
    "quantization_config": (None,),
}
_NEUTRAL_ATTENTION: dict[str, tuple[Any, ...]] = {
    "attn_type": ("multihead_attention",),
    "alibi": (True,),
    "rope": (False, None),
    "qk_ln": (False, None),
    "qk_gn": (False, None),
    "prefix_lm": (False, None),
    "attn_uses_sequence_id": (False, None),
    "sliding_window_size": (-1, None),
    "attn_pdrop": (0, None),
    "kv_n_heads": (None,),
}

_EMBEDDING, _HEAD = "transformer.wte.weight", "lm_head.weight"
_BLOCK = "transformer.blocks.{}"
_NAMES = {
    "token_embedder/embedding": Name(_EMBEDDING),
    "decoder/layers/pre_self_attention_layer_norm/scale": Name(f"{_BLOCK}.norm_1.weight"),
    "decoder/layers/self_attention/out/kernel": Name(f"{_BLOCK}.attn.out_proj.weight"),
    "decoder/layers/pre_mlp_layer_norm/scale": Name(f"{_BLOCK}.norm_2.weight"),
    "decoder/layers/mlp/wi/kernel": Name(f"{_BLOCK}.ffn.up_proj.weight"),
    "decoder/layers/mlp/wo/kernel": Name(f"{_BLOCK}.ffn.down_proj.weight"),
    "decoder/decoder_norm/scale": Name("transformer.norm_f.weight"),
    "decoder/logits_dense/kernel": Name(_HEAD),
}


class Mpt(Family):
    """See `Family`."""

    model_types = ("mpt",)
    config = MptConfig
    fields = {
        "embed": "d_model",
        "joined_kv": "d_model",
        "kv": "d_model",
        "mlp": "expansion_ratio * d_model",
        "vocab": "vocab_size",
    }

    def read(
        self, raw: Mapping[str, Any], stored: Mapping[str, LazyTensor], path: str
    ) -> tuple[MptConfig, dict[str, LazyTensor]]:
        require(raw, _NEUTRAL, path)
        attention = raw.get("attn_config") or {}
        if not isinstance(attention, dict):
            raise ConfigError(f"{path}: attn_config is {attention!r}; allowed: an object")
        within = f"{path}: attn_config"
        require(attention, _NEUTRAL_ATTENTION, within)
        tied, tensors = resolve_head(
            raw, stored, path, head=_HEAD, embedding=_EMBEDDING, tied_by_default=True
        )
        width = positive_int(raw, "d_model", path)
        num_heads = positive_int(raw, "n_heads", path)
        if width % num_heads:
            raise ConfigError(
                f"{path}: n_heads is {num_heads}; allowed: a divisor of d_model, {width}"
            )
        require(attention, {"softmax_scale": (None, (width // num_heads) ** -0.5)}, within)
        clip = attention.get("clip_qkv")
        config = MptConfig(
            vocab_size=positive_int(raw, "vocab_size", path),
            emb_dim=width,
            num_layers=positive_int(raw, "n_layers", path),
            num_heads=num_heads,
            num_kv_heads=num_heads,
            head_dim=width // num_heads,
            mlp_dim=width * positive_int(raw, "expansion_ratio", path, 4),
            mlp_activations=_ACTIVATIONS,
            max_length=positive_int(raw, "max_seq_len", path, 2048),
            norm_epsilon=positive(raw, "layer_norm_epsilon", path, 1e-5),
            logits_via_embedding=tied,
            clip_qkv=None if clip is None else positive(attention, "clip_qkv", within),
            alibi_bias_max=positive(attention, "alibi_bias_max", within, 8.0),
        )
        return config, tensors

    def names(self, cfg: ModelConfig) -> dict[str, Name]:
        assert isinstance(cfg, MptConfig)
        fused = fused_qkv(cfg.num_heads, cfg.num_kv_heads, cfg.head_dim, groups=1)
        return _NAMES | {
            f"decoder/layers/self_attention/{projection}/kernel": Name(
                f"{_BLOCK}.attn.Wqkv.weight", rows
            )
            for projection, rows in fused.items()
        }

    def write(self, cfg: ModelConfig, model_type: str | None) -> dict[str, Any]:
        assert isinstance(cfg, MptConfig)
        if tuple(cfg.mlp_activations) != _ACTIVATIONS:
            raise cfg.error("mlp_activations", f"{_ACTIVATIONS}, as transformers has it")
        if cfg.num_kv_heads != cfg.num_heads or cfg.num_heads * cfg.head_dim != cfg.emb_dim:
            raise cfg.error("num_kv_heads", "num_heads, and heads that add up to emb_dim")
        if cfg.mlp_dim != 4 * cfg.emb_dim:  # transformers does not read expansion_ratio
            allowed = f"4 times emb_dim, {4 * cfg.emb_dim}, as transformers has it in every MPT"
            raise cfg.error("mlp_dim", allowed)
        if cfg.alibi_bias_max != int(cfg.alibi_bias_max):
            raise cfg.error("alibi_bias_max", "a whole number, as transformers has it")
        return {
            "architectures": ["MptForCausalLM"],
            "model_type": "mpt",
            "vocab_size": cfg.vocab_size,
            "d_model": cfg.emb_dim,
            "n_layers": cfg.num_layers,
            "n_heads": cfg.num_heads,
            "expansion_ratio": 4,
            "max_seq_len": cfg.max_length,
            "layer_norm_epsilon": cfg.norm_epsilon,
            "attn_config": {
                "attn_type": "multihead_attention",
                "alibi": True,
                "alibi_bias_max": int(cfg.alibi_bias_max),
                "clip_qkv": cfg.clip_qkv,
                "prefix_lm": False,
                "qk_ln": False,
                "softmax_scale": None,
            },
            "learned_pos_emb": False,
            "logit_scale": None,
            "no_bias": True,
            "norm_type": "low_precision_layernorm",
            "initializer_range": cfg.embedding_stddev,
            "tie_word_embeddings": cfg.logits_via_embedding,
            "use_cache": True,
        }
