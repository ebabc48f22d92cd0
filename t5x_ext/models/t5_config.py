"""The shape and numerics of a T5 model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from t5x_ext.errors import ConfigError
from t5x_ext.models import layers
from t5x_ext.models.attention import ATTENTION_PATHS

COMPUTE_DTYPES = ("float32", "bfloat16")
_AROUND_ATTENTION = ("projection", "heads", "residual")
_MLP_BRANCHES = ("wi", "wi_0", "wi_1")


class Saved(NamedTuple):
    """What the backward pass finds in memory, by the names given in `network` and `layers`.

    It computes the rest again. Products of matrices cost D multiplications for each number saved,
    all of them; the decoder's rows are shorter, so that it may save more.
    """

    encoder: tuple[str, ...]
    decoder: tuple[str, ...]


SAVED_BY_REMAT_POLICY = {
    "none": None,
    "minimal": Saved(
        encoder=(*_AROUND_ATTENTION, *_MLP_BRANCHES),
        decoder=(*_AROUND_ATTENTION, "memory_projection", *_MLP_BRANCHES),
    ),
    "balanced": Saved(encoder=_AROUND_ATTENTION, decoder=(*_AROUND_ATTENTION, "wi_1")),
    "full": Saved(encoder=(), decoder=()),
}


@dataclasses.dataclass(frozen=True)
class T5Config:
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
      attention: 'xla', 'flash' (a TPU kernel), or 'auto', which takes the kernel where it can.
      scan_layers: False writes the layers out in the compiled program: a faster step on CPUs,
        longer to compile. Parameters and results are the same.
    """

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

    def __post_init__(self) -> None:
        name = jnp.dtype(self.dtype).name
        if name not in COMPUTE_DTYPES:
            raise ConfigError(
                f"T5Config.dtype: {name} is not supported, T5 overflows it; "
                f"allowed: {', '.join(COMPUTE_DTYPES)}"
            )
        object.__setattr__(self, "dtype", name)
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        for activation in self.mlp_activations:
            if activation not in layers.ACTIVATIONS:
                allowed = ", ".join(layers.ACTIVATIONS)
                raise ConfigError(
                    f"T5Config.mlp_activations: unknown {activation!r}; allowed: {allowed}"
                )
        for field, choices in (
            ("remat_policy", tuple(SAVED_BY_REMAT_POLICY)),
            ("attention", ATTENTION_PATHS),
        ):
            if getattr(self, field) not in choices:
                raise ConfigError(
                    f"T5Config.{field}: {getattr(self, field)!r}; allowed: {', '.join(choices)}"
                )
        if not 0.0 <= self.dropout_rate < 1.0:
            raise ConfigError(f"T5Config.dropout_rate: {self.dropout_rate}; allowed: [0, 1)")


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The network as gin binds it: `network.Transformer.config = @network.T5Config()`."""

    config: T5Config
