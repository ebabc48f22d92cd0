"""Products with a kernel, and embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from t5x_ext.models import nf4, parameters
from t5x_ext.models.blocks.parameter import param
from t5x_ext.models.parameters import Initializer
from t5x_ext.partitioning import constrain, gather


class Linear(nnx.Module):
    """x @ kernel in the dtype of `x`, without a bias. [..., in] -> [..., out].

    Attributes:
      kernel: [in, out]; an array, or quantised (`nf4.NF4`).
      lora: an adapter to add, see `blocks.lora.attach`; None for none.
    """

    lora: Callable[[jax.Array, jax.Array | None], jax.Array] | None = None

    def __init__(self, shape: tuple[int, int], axes: tuple[str, str], init: Initializer):
        self.kernel = param(shape, axes, init, is_kernel=True)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Multiplies; `key` is of the adapter's dropout, None switches it off."""
        # All rows in one axis: the kernel's gradient then contracts one axis, which XLA on CPUs
        # computes without a transposed copy of both operands (28% of an encoder's step).
        kernel = self.kernel.get_value()
        if isinstance(kernel, nf4.NF4):
            y = nf4.product(x, kernel)
        else:
            rows = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
            y = rows.reshape(*x.shape[:-1], -1)
        return y if self.lora is None else y + self.lora(x, key)


class Embedding(nnx.Module):
    """A row of numbers for each token id; the same table may serve as the output projection."""

    def __init__(self, vocab_size: int, dim: int, dtype: Any, init: Initializer | None = None):
        init = init or parameters.normal(1.0)
        self.embedding = param((vocab_size, dim), ("vocab", "embed"), init)
        self.dtype = dtype

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Token ids [B, L] -> [B, L, D] in the compute dtype."""
        # Cast where it is used: the gradients of its several uses then add up in float32.
        table = self.embedding[...].astype(self.dtype)
        rows = gather(table, ("vocab", "embed"), is_looked_up=True)[tokens]
        return constrain(rows, ("batch", "length", "embed"))

    def transposed(self) -> jax.Array:
        """The table as an output projection, [D, V] in the compute dtype."""
        return gather(self.embedding[...].astype(self.dtype), ("vocab", "embed")).T
