"""How attention learns where tokens are: a table by distance, slopes by distance, or rotation.

Two kinds of scheme. A *bias* is a number for each head and distance (key position - query
position), added to attention logits: T5's table and ALiBi. A *rotation* turns queries and keys by
angles that grow with their position, so that their product depends on the distance: RoPE.

Letters used in shapes: B batch, L length, H heads, C head_dim.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t5x_ext.models import parameters
from t5x_ext.models.blocks.parameter import param


class PositionBias(Protocol):
    """A bias of attention logits that depends on the distance alone."""

    def static_bias(self, distance: np.ndarray) -> jax.Array:
        """Of distances known when the program is traced: int [...] -> float32 [H, ...]."""

    def traced_bias(self, distance: jax.Array, farthest: int) -> jax.Array:
        """Of distances known when the program runs: int32 [...] in -farthest..0 -> [H, ...]."""


class RelativeBias(nnx.Module):
    """T5's learned number for each head and bucket of distances."""

    def __init__(self, num_heads: int, num_buckets: int, max_distance: int, bidirectional: bool):
        shape, axes = (num_heads, num_buckets), ("heads", "relpos_buckets")
        self.rel_embedding = param(shape, axes, parameters.fan_avg_uniform())
        self.max_distance = max_distance
        self.bidirectional = bidirectional

    def static_bias(self, distance: np.ndarray) -> jax.Array:
        table = self.rel_embedding[...].astype(jnp.float32)
        return table[:, self._buckets(distance)]

    def traced_bias(self, distance: jax.Array, farthest: int) -> jax.Array:
        buckets = self._buckets(-np.arange(farthest + 1))
        table = self.rel_embedding[...].astype(jnp.float32)
        return table[:, jnp.asarray(buckets)[-distance]]

    def _buckets(self, distance: np.ndarray) -> np.ndarray:
        num_buckets = self.rel_embedding[...].shape[-1]
        return relative_position_buckets(
            distance, self.bidirectional, num_buckets, self.max_distance
        )


def relative_position_buckets(
    distance: np.ndarray, bidirectional: bool, num_buckets: int, max_distance: int
) -> np.ndarray:
    """Bucket of a distance (key position - query position): exact when near, logarithmic when far.

    Source: T5 (Raffel et al. 2020, section 2.1); same rounding as T5X and Hugging Face.

        -distance (causal)  0  1  2 ... 15  16..18  19..20 ...  >= 113
        bucket of 32        0  1  2 ... 15  16      17     ...  31

    Returns:
      int32, shaped as `distance`.
    """
    offset = np.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        offset = np.where(distance > 0, num_buckets, 0)
        size = np.abs(distance)
    else:
        size = np.maximum(-distance, 0)
    num_exact = num_buckets // 2
    # float32 throughout: float64 would round a few far distances into another bucket than T5X.
    log_ratio = np.log(size.astype(np.float32) / num_exact + np.finfo(np.float32).eps)
    log_ratio = log_ratio / np.float32(np.log(max_distance / num_exact))
    far = num_exact + (log_ratio * (num_buckets - num_exact)).astype(np.int32)
    bucket = np.where(size < num_exact, size, np.minimum(far, num_buckets - 1))
    return (bucket + offset).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class ALiBi:
    """A fixed penalty for each step away, steeper for some heads than for others.

    Source: Press et al. 2022. The slopes are 2 ** (-max_bias * i / n), i = 1..n, for n heads; where
    n is not a power of two, those of the next one, every second first (1, 3, ..., 0, 2, ...). Keys
    ahead, which a bidirectional prompt has, get the penalty of keys as far back, as in MPT's own
    code with `prefix_lm` (llm-foundry, `build_alibi_bias(full=True)`).

    Attributes:
      num_heads: H.
      max_bias: the steepest slope is 2 ** -(max_bias / n), the flattest 2 ** -max_bias.
    """

    num_heads: int
    max_bias: float = 8.0

    @property
    def slopes(self) -> np.ndarray:
        """float32 [H]."""
        power = 2 ** math.ceil(math.log2(self.num_heads))
        slopes = 2.0 ** (-self.max_bias * np.arange(1, power + 1) / power)
        if power != self.num_heads:
            slopes = np.concatenate([slopes[1::2], slopes[::2]])[: self.num_heads]
        return slopes.astype(np.float32)

    def static_bias(self, distance: np.ndarray) -> jax.Array:
        return jnp.asarray(np.multiply.outer(self.slopes, (-np.abs(distance)).astype(np.float32)))

    def traced_bias(self, distance: jax.Array, farthest: int) -> jax.Array:
        del farthest
        slopes = self.slopes.reshape(-1, *(1,) * distance.ndim)
        return jnp.asarray(slopes) * distance.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """LLaMA 3.1's stretch of slow rotations, for contexts beyond `original_length`.

    Wavelengths up to original_length / high_freq_factor stay, those from original_length /
    low_freq_factor on are stretched by `factor`, those between are blended.
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192

    def __call__(self, frequencies: np.ndarray) -> np.ndarray:
        """Radians per position, [C / 2] -> same."""
        turns = self.original_length * frequencies / (2 * math.pi)
        blend = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        blend = np.clip(blend, 0.0, 1.0)
        return frequencies * ((1 - blend) / self.factor + blend)


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary position embedding: entry i and entry i + C / 2 of a head turn together.

    Source: Su et al. 2021, in the half-split layout of Hugging Face's checkpoints.

    Attributes:
      head_dim: C.
      theta: pair i turns by theta ** (-2 i / C) radians for each position.
      scaling: changes these rates, or None.
    """

    head_dim: int
    theta: float = 10_000.0
    scaling: Llama3Scaling | None = None

    def angles(self, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Cosine and sine at int32 [B, L]: float32 [B, L, 1, C / 2], for `rotate`."""
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float32) / self.head_dim
        frequencies = 1.0 / np.float32(self.theta) ** exponents
        if self.scaling is not None:
            frequencies = self.scaling(frequencies)
        turned = positions[..., None, None].astype(jnp.float32) * frequencies.astype(np.float32)
        return jnp.cos(turned), jnp.sin(turned)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns heads by the angles of their positions. [B, L, H, C] -> same."""
    cosine, sine = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
