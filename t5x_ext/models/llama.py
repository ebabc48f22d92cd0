"""LLaMA 1, 2 and 3 and what shares their layout (SmolLM2, Mistral without a sliding window).

RMS norm, rotary positions, grouped key heads, a gated feed-forward block, no biases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from t5x_ext.models.decoder_only_config import DecoderOnlyConfig

if TYPE_CHECKING:
    from t5x_ext.models.blocks.positions import Llama3Scaling


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig(DecoderOnlyConfig):
    """Shape of a LLaMA; see `DecoderOnlyConfig`.

    Attributes:
      rope_theta: base of the rotary frequencies.
      rope_scaling_factor: LLaMA 3.1's stretch of slow frequencies (`rope_type` 'llama3'); 1 is
        none. The other three belong to it.
    """

    family: ClassVar[str] = "llama"
    hugging_face_modules: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "self_attention/query": "self_attn/q_proj",
            "self_attention/key": "self_attn/k_proj",
            "self_attention/value": "self_attn/v_proj",
            "self_attention/out": "self_attn/o_proj",
            "mlp/wi_0": "mlp/gate_proj",
            "mlp/wi_1": "mlp/up_proj",
            "mlp/wo": "mlp/down_proj",
        }
    )

    mlp_activations: Sequence[str] = ("silu", "linear")
    max_length: int = 2048
    rope_theta: float = 10_000.0
    rope_scaling_factor: float = 1.0
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_original_length: int = 8192

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_reals(1.0, "rope_theta", "rope_scaling_factor")
        self.check_reals(0.0, "rope_low_freq_factor", "rope_high_freq_factor")
        self.check_sizes("rope_original_length")
        if self.rope_high_freq_factor <= self.rope_low_freq_factor:
            raise self.error("rope_high_freq_factor", "more than rope_low_freq_factor")

    def build(self) -> Any:
        from t5x_ext.models.blocks.norms import RMSNorm
        from t5x_ext.models.blocks.pattern import Heads
        from t5x_ext.models.blocks.positions import Rotary
        from t5x_ext.models.decoder_only_network import DecoderOnly, LayerShape

        heads = Heads(self.num_heads, self.head_dim, self.num_kv_heads, self.head_dim**-0.5)
        return DecoderOnly(
            self,
            LayerShape(
                make_norm=lambda: RMSNorm(self.emb_dim, self.norm_epsilon),
                heads=heads,
                mlp_dim=self.mlp_dim,
                mlp_activations=self.mlp_activations,
                rotary=Rotary(self.head_dim, self.rope_theta, self._scaling()),
            ),
        )

    def _scaling(self) -> Llama3Scaling | None:
        from t5x_ext.models.blocks.positions import Llama3Scaling

        if self.rope_scaling_factor == 1.0:
            return None
        return Llama3Scaling(
            self.rope_scaling_factor,
            self.rope_low_freq_factor,
            self.rope_high_freq_factor,
            self.rope_original_length,
        )
