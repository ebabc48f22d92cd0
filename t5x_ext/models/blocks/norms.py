"""Norms over the last axis, computed in float32 and handed on in the dtype of the input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_ext.models import parameters
from t5x_ext.models.blocks.parameter import param


class RMSNorm(nnx.Module):
    """Divides by the root mean square; no mean is subtracted. [..., D] -> [..., D]."""

    def __init__(self, dim: int, epsilon: float = 1e-6):
        self.scale = param((dim,), ("embed",), parameters.ones)
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(mean_square + self.epsilon)
        return (x32 * inverse * self.scale[...]).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Subtracts the mean, divides by the standard deviation. [..., D] -> [..., D]."""

    def __init__(self, dim: int, epsilon: float = 1e-5, bias: bool = True):
        self.scale = param((dim,), ("embed",), parameters.ones)
        self.bias = param((dim,), ("embed",), parameters.zeros) if bias else None
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]
        return (y if self.bias is None else y + self.bias[...]).astype(x.dtype)
