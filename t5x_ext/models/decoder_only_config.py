"""What decoder-only families are configured by."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from t5x_ext.models.config import CacheShape, ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderOnlyConfig(ModelConfig):
    """Shape and numerics that decoder-only families share; see `ModelConfig` too.

    Attributes:
      num_layers: depth.
      num_heads: query heads H.
      num_kv_heads: key heads G; H / G query heads share one.
      head_dim: width C of a head.
      mlp_dim: width of the feed-forward block.
      mlp_activations: see `T5Config`.
      max_length: positions the model was made for; longer rows are refused.
      norm_epsilon: added under the square root of norms.
      logits_via_embedding: whether the output projection is the embedding.
      embedding_stddev: spread of the embedding's initial values.
    """

    has_encoder: ClassVar[bool] = False

    vocab_size: int
    emb_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    mlp_activations: Sequence[str]
    max_length: int
    dtype: Any = "float32"
    dropout_rate: float = 0.0
    remat_policy: str = "none"
    attention: str = "auto"
    scan_layers: bool = True
    norm_epsilon: float = 1e-5
    logits_via_embedding: bool = False
    embedding_stddev: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_activations("mlp_activations")
        self.check_sizes("vocab_size", "emb_dim", "num_layers", "num_heads", "num_kv_heads")
        self.check_sizes("head_dim", "mlp_dim", "max_length")
        self.check_reals(0.0, "norm_epsilon", "embedding_stddev")
        if self.num_heads % self.num_kv_heads:
            raise self.error("num_kv_heads", f"a divisor of num_heads, {self.num_heads}")

    @property
    def cache_shape(self) -> CacheShape:
        return CacheShape(self.num_layers, self.num_kv_heads, self.head_dim, self.dtype)

    def forward_flops(self, rows: int, input_length: int, target_length: int) -> int:
        length = input_length + target_length
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        mlp = (len(self.mlp_activations) + 1) * self.emb_dim * self.mlp_dim
        a_token = self.emb_dim * (2 * queries + 2 * keys) + mlp
        attention = 2 * rows * length * length * queries  # logits, and weights times values
        layers = self.num_layers * (rows * length * a_token + attention)
        return 2 * (layers + rows * length * self.emb_dim * self.vocab_size)
