"""Attention: one rule, and the paths that compute it.

The rule: logits = scale * (query . key) + bias by distance, masked where the segments differ or,
in a causal pattern, where the key lies ahead; softmax in float32. `xla_attention` states it in a
few lines of XLA, for every platform. Those in `KERNELS` compute the same without ever writing
logits to memory, each for one platform and for some patterns.

What a path names "heads" (`checkpoint_name`) is all that its backward pass can use of its forward
pass: its output and, where the kernel tells them, the sums of the softmax.

Letters used in shapes: B batch, Q query length, K key length, H heads, G key heads (G divides H:
H / G query heads share one), C head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_ext.errors import ConfigError
from t5x_ext.models.blocks import by_distance, cudnn, kernel_check, splash, xla_attention
from t5x_ext.models.blocks.dropout import dropout
from t5x_ext.models.blocks.pattern import Heads, Pattern, split_heads
from t5x_ext.models.blocks.positions import rotate
from t5x_ext.partitioning import active_partitioner
from t5x_ext.terminal import note

# (query [B, Q, H*C], key [B, K, G*C], value [B, K, G*C], dropout key or None) -> [B, Q, H*C]
Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]


class AttentionKernel(NamedTuple):
    """A kernel.

    Attributes:
      name: what users know it by.
      platform: of the devices it is written for.
      obstacle: why it cannot compute a pattern with these heads in a dtype, or None.
      build: prepares what layers share, and returns what each calls with query, key and value.
    """

    name: str
    platform: str
    obstacle: Callable[[Pattern, Heads, Any], str | None]
    build: Callable[[Pattern, Heads], Callable[..., jax.Array]]


# Of those for a platform, the first that can is taken.
KERNELS = (
    AttentionKernel("the kernel by distance", "tpu", by_distance.obstacle, by_distance.build),
    AttentionKernel("splash attention", "tpu", splash.obstacle, splash.build),
    AttentionKernel("cuDNN's attention", "gpu", cudnn.obstacle, cudnn.build),
)
_told: set[tuple[Heads, str]] = set()  # heads and paths that a line has been said about


def make_attend(
    pattern: Pattern,
    heads: Heads,
    dropout_rate: float = 0.0,
    path: str = "auto",
    dtype: Any = jnp.float32,
) -> Attend:
    """Prepares what all layers of a stack share, and returns the function that each calls.

    Args:
      pattern: masks, biases and rotations.
      heads: shape of the heads.
      dropout_rate: share of attention weights dropped when a key is given.
      path: 'xla', 'flash', or 'auto': a kernel on TPUs and GPUs where one suits the pattern, and
        where it agrees with the reference on the device at hand; see `kernel_check`.
      dtype: of query, key and value.

    Raises:
      ConfigError: 'flash' is asked for, and no kernel takes this.
    """
    kernel = _choose(pattern, heads, path, dtype)
    inner = (xla_attention if kernel is None else kernel).build(pattern, heads)

    def attend(query: jax.Array, key: jax.Array, value: jax.Array, dropout_key: jax.Array | None):
        if pattern.angles is not None:
            query = _rotate_heads(query, heads.num_heads, pattern.angles)
            key = _rotate_heads(key, heads.kv, pattern.angles)
        return inner(query, key, drop_keys(value, heads.kv, dropout_rate, dropout_key))

    return attend


def _rotate_heads(x: jax.Array, num_heads: int, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    return rotate(split_heads(x, num_heads), angles).reshape(x.shape)


def drop_keys(
    value: jax.Array, num_heads: int, rate: float, dropout_key: jax.Array | None
) -> jax.Array:
    """Dropout of attention weights, applied to the values. [B, K, G*C] -> same.

    T5X drops the same keys for every query of a head: weights [B, H, Q, K] times a mask
    [B, H, 1, K]. That mask can as well multiply the values, which are smaller.
    """
    if dropout_key is None or rate == 0.0:
        return value
    split = split_heads(value, num_heads)
    return dropout(split, rate, dropout_key, broadcast_axis=-1).reshape(value.shape)


def _choose(pattern: Pattern, heads: Heads, path: str, dtype: Any) -> AttentionKernel | None:
    """The kernel to use; None for XLA."""
    partitioner = active_partitioner()
    platform = "cpu" if partitioner is None else partitioner.platform
    if path == "xla" or (path == "auto" and platform == "cpu"):
        return None
    # Tests ask for 'flash' on CPUs, where the steps of TPU kernels run as ordinary XLA.
    candidates = [one for one in KERNELS if one.platform == ("gpu" if platform == "gpu" else "tpu")]
    # A plan compiles for devices that are not here: nothing can be tried on them.
    is_here = jax.default_backend() == platform
    reasons = []
    for kernel in candidates:
        obstacle = kernel.obstacle(pattern, heads, dtype)
        if obstacle is not None:
            reasons.append(f"{kernel.name} does not take {obstacle}")
        elif path == "flash":
            return kernel
        elif not is_here:
            _tell(heads, kernel.name, "not tried, as the devices are not here")
            return kernel
        else:
            outcome = kernel_check.compare(kernel.build, heads, pattern.bias is not None, dtype)
            if outcome.agrees:
                _tell(heads, kernel.name, outcome.text)
                return kernel
            reasons.append(f"{kernel.name} {outcome.text}")
    if path == "flash":
        raise ConfigError(
            f"attention 'flash': {'; '.join(reasons)}; allowed: 'auto', which computes these rows "
            "in XLA, or 'xla'"
        )
    _tell(heads, "plain XLA", "; ".join(reasons))
    return None


def _tell(heads: Heads, path: str, why: str) -> None:
    """Says once which path heads take, and why the first rows that came do."""
    if (heads, path) not in _told:
        _told.add((heads, path))
        note(f"attention: {path} for {heads} ({why})")
