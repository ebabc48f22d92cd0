"""Falcon: attention and feed-forward block side by side, few key heads, rotary positions.

7B kind: one norm for both, one key head. 40B kind (`new_decoder_architecture`): a norm for each,
and grouped key heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from t5x_ext.models.decoder_only_config import DecoderOnlyConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class FalconConfig(DecoderOnlyConfig):
    """Shape of a Falcon; see `DecoderOnlyConfig`.

    Attributes:
      shared_norm: one norm for attention and feed-forward block (7B), or one for each (40B).
      rope_theta: base of the rotary frequencies.
    """

    family: ClassVar[str] = "falcon"
    hugging_face_modules: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "self_attention/query": "self_attention/query_key_value",
            "self_attention/key": "self_attention/query_key_value",
            "self_attention/value": "self_attention/query_key_value",
            "self_attention/out": "self_attention/dense",
            "mlp/wi": "mlp/dense_h_to_4h",
            "mlp/wo": "mlp/dense_4h_to_h",
        }
    )

    mlp_activations: Sequence[str] = ("gelu_exact",)
    max_length: int = 2048
    logits_via_embedding: bool = True
    shared_norm: bool = True
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_reals(1.0, "rope_theta")

    def build(self) -> Any:
        from t5x_ext.models.blocks.norms import LayerNorm
        from t5x_ext.models.blocks.pattern import Heads
        from t5x_ext.models.blocks.positions import Rotary
        from t5x_ext.models.decoder_only_network import DecoderOnly, LayerShape

        heads = Heads(self.num_heads, self.head_dim, self.num_kv_heads, self.head_dim**-0.5)
        return DecoderOnly(
            self,
            LayerShape(
                make_norm=lambda: LayerNorm(self.emb_dim, self.norm_epsilon),
                heads=heads,
                mlp_dim=self.mlp_dim,
                mlp_activations=self.mlp_activations,
                parallel=True,
                shared_norm=self.shared_norm,
                rotary=Rotary(self.head_dim, self.rope_theta),
            ),
        )
