"""The shape and numerics of a T5 model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from t5x_ext.models.config import CacheShape, ModelConfig


@dataclasses.dataclass(frozen=True)
class T5Config(ModelConfig):
    """Shape and numerics of a T5 model; field names and defaults are T5X's.

    Attributes:
      vocab_size: rows of the embedding (may exceed the vocabulary, e.g. 32128 for 32100).
      dtype: compute dtype, 'float32' or 'bfloat16' (parameters, norms and softmax stay float32).
      emb_dim: width D of the residual stream.
      num_heads: attention heads H.
      num_encoder_layers: depth of the encoder.
      num_decoder_layers: depth of the decoder.
      head_dim: width C of a head; H * C need not equal D.
      mlp_dim: width of the feed-forward block.
      mlp_activations: one name, or several that are multiplied (gated): ('gelu', 'linear') is 1.1.
      dropout_rate: used in training only.
      logits_via_embedding: True ties the output to the embedding and scales by D ** -0.5 (1.0).
      remat_policy: 'none' keeps all activations, 'minimal' recomputes all but matrix products and
        attention, 'balanced' keeps little but what surrounds attention, 'full' keeps
        layer boundaries only.
      attention: 'xla', 'flash' (a TPU's or GPU's kernel), or 'auto', which takes one where it can.
      scan_layers: False writes the layers out in the compiled program: a faster step on CPUs,
        longer to compile. Parameters and results are the same.
      relative_attention_buckets: entries of a position table for each head.
      relative_attention_max_distance: from this distance on, all share one entry.
      position_table_per_layer: True gives every layer its own position table (T5X's
        scalable_t5, umT5); False shares one in the encoder and one in the decoder.
    """

    family: ClassVar[str] = "t5"
    has_encoder: ClassVar[bool] = True
    hugging_face_modules: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            f"{ours}/{projection}": f"{theirs}/{projection[0]}"
            for ours, theirs in (
                ("attention", "SelfAttention"),
                ("self_attention", "SelfAttention"),
                ("encoder_decoder_attention", "EncDecAttention"),
            )
            for projection in ("query", "key", "value", "out")
        }
        | {f"mlp/{name}": f"DenseReluDense/{name}" for name in ("wi", "wi_0", "wi_1", "wo")}
    )
    max_length = None  # a position table goes by distances, which have no limit

    vocab_size: int
    dtype: Any = "float32"
    emb_dim: int = 512
    num_heads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    head_dim: int = 64
    mlp_dim: int = 2048
    mlp_activations: Sequence[str] = ("relu",)
    dropout_rate: float = 0.1
    logits_via_embedding: bool = False
    remat_policy: str = "none"
    attention: str = "auto"
    scan_layers: bool = True
    relative_attention_buckets: int = dataclasses.field(default=32, metadata={"later": True})
    relative_attention_max_distance: int = dataclasses.field(default=128, metadata={"later": True})
    position_table_per_layer: bool = dataclasses.field(default=False, metadata={"later": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_activations("mlp_activations")
        self.check_sizes("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim")
        self.check_sizes("num_encoder_layers", "num_decoder_layers")
        # Half of a table's buckets are for one distance each, the others for ranges that grow up to
        # the largest distance; an encoder has such a table for either direction.
        self.check_sizes("relative_attention_buckets", low=4)
        nearest_range = self.relative_attention_buckets // 2
        self.check_sizes("relative_attention_max_distance", low=nearest_range + 1)

    def build(self) -> Any:
        from t5x_ext.models.t5 import T5

        return T5(self)

    @property
    def cache_shape(self) -> CacheShape:
        return CacheShape(self.num_decoder_layers, self.num_heads, self.head_dim, self.dtype)

    def forward_flops(self, rows: int, input_length: int, target_length: int) -> int:
        joined = self.num_heads * self.head_dim
        projection = self.emb_dim * joined
        mlp = (len(self.mlp_activations) + 1) * self.emb_dim * self.mlp_dim
        inputs, targets = rows * input_length, rows * target_length

        def attention(queries: int, keys: int) -> int:
            return 2 * rows * queries * keys * joined  # logits, and weights times values

        encoder_layer = inputs * (4 * projection + mlp) + attention(input_length, input_length)
        decoder_layer = (
            targets * (4 * projection + mlp)
            + attention(target_length, target_length)
            + (2 * targets + 2 * inputs) * projection  # cross-attention's keys and values too
            + attention(target_length, input_length)
        )
        logits = targets * self.emb_dim * self.vocab_size
        layers = self.num_encoder_layers * encoder_layer + self.num_decoder_layers * decoder_layer
        return 2 * (layers + logits)
