"""MPT: layer norm without bias, ALiBi, a plain feed-forward block of exact GELU, tied output."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from t5x_ext import bounds
from t5x_ext.models.decoder_only_config import DecoderOnlyConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class MptConfig(DecoderOnlyConfig):
    """Shape of an MPT; see `DecoderOnlyConfig`.

    Attributes:
      clip_qkv: queries, keys and values are limited to [-clip_qkv, clip_qkv]; None for not.
      alibi_bias_max: see `ALiBi.max_bias`.
    """

    family: ClassVar[str] = "mpt"
    hugging_face_modules: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "self_attention/query": "attn/Wqkv",
            "self_attention/key": "attn/Wqkv",
            "self_attention/value": "attn/Wqkv",
            "self_attention/out": "attn/out_proj",
            "mlp/wi": "ffn/up_proj",
            "mlp/wo": "ffn/down_proj",
        }
    )

    mlp_activations: Sequence[str] = ("gelu_exact",)
    max_length: int = 2048
    logits_via_embedding: bool = True
    clip_qkv: float | None = None
    alibi_bias_max: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_reals(0.0, "alibi_bias_max")
        if self.clip_qkv is not None:
            bounds.check_positive("MptConfig.clip_qkv", self.clip_qkv)

    def build(self) -> Any:
        from t5x_ext.models.blocks.norms import LayerNorm
        from t5x_ext.models.blocks.pattern import Heads
        from t5x_ext.models.blocks.positions import ALiBi
        from t5x_ext.models.decoder_only_network import DecoderOnly, LayerShape

        heads = Heads(self.num_heads, self.head_dim, self.num_kv_heads, self.head_dim**-0.5)
        return DecoderOnly(
            self,
            LayerShape(
                make_norm=lambda: LayerNorm(self.emb_dim, self.norm_epsilon, bias=False),
                heads=heads,
                mlp_dim=self.mlp_dim,
                mlp_activations=self.mlp_activations,
                clip=self.clip_qkv,
                bias=ALiBi(self.num_heads, self.alibi_bias_max),
            ),
        )
