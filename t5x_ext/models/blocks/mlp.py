"""Feed-forward blocks: plain, or gated where several activations are multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from t5x_ext.models.blocks.dropout import dropout
from t5x_ext.models.blocks.linear import Linear
from t5x_ext.models.parameters import Initializer

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "linear": lambda x: x,
}


class MLP(nnx.Module):
    """wo(product of activations of wi, or of wi_0, wi_1, ...). [B, Q, D] -> [B, Q, D]."""

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        activations: Sequence[str],
        init: Initializer,
        dropout_rate: float = 0.0,
    ):
        self.activations = tuple(activations)
        self.dropout_rate = dropout_rate
        for name in self._branches:
            setattr(self, name, Linear((dim, hidden_dim), ("embed", "mlp"), init))
        self.wo = Linear((hidden_dim, dim), ("mlp", "embed"), init)

    @property
    def _branches(self) -> list[str]:
        count = len(self.activations)
        return ["wi"] if count == 1 else [f"wi_{index}" for index in range(count)]

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        hidden: Any = None
        for name, activation in zip(self._branches, self.activations, strict=True):
            branch = ACTIVATIONS[activation](checkpoint_name(getattr(self, name)(x, key), name))
            hidden = branch if hidden is None else hidden * branch
        # One mask for all positions of a row, [B, 1, F].
        return self.wo(dropout(hidden, self.dropout_rate, key, broadcast_axis=-2), key)
