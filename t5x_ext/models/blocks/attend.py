"""Attention: one rule, and the paths that compute it.

The rule: logits = scale * (query . key) + bias by distance, masked where the segments differ or,
in a causal pattern, where the key lies ahead; softmax in float32. `dot_product_attention` states it
in a few lines of XLA. `by_distance_kernel` computes the same on TPUs without ever writing logits to
memory.

Letters used in shapes: B batch, Q query length, K key length, H heads, G key heads (G divides H:
H / G query heads share one), C head_dim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from t5x_ext.errors import ConfigError
from t5x_ext.models.blocks import by_distance_kernel, kernel_check
from t5x_ext.models.blocks.dropout import dropout
from t5x_ext.models.blocks.positions import PositionBias, rotate
from t5x_ext.partitioning import active_partitioner

# Finite, so that a row with nothing to attend to gives a uniform softmax instead of NaN.
MASKED = -1e10

# Queries that a causal row computes at a time in XLA: shorter blocks gain little on a CPU, and
# every block is compiled.
SHORTEST_BLOCK, MOST_BLOCKS = 128, 8

# (query [B, Q, H*C], key [B, K, G*C], value [B, K, G*C], dropout key or None) -> [B, Q, H*C]
Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]


@dataclasses.dataclass(frozen=True)
class Heads:
    """The heads of an attention block.

    Attributes:
      num_heads: H.
      head_dim: C.
      num_kv_heads: G; None means H.
      scale: factor of query . key. T5 folds it into the query's initial values and has 1.
    """

    num_heads: int
    head_dim: int
    num_kv_heads: int | None = None
    scale: float = 1.0

    @property
    def kv(self) -> int:
        """G."""
        return self.num_kv_heads or self.num_heads


class Pattern(NamedTuple):
    """Who attends to whom, the same in every layer of a stack.

    Attributes:
      query_segments: int32 [B, Q]; 0 is padding.
      key_segments: int32 [B, K]; 0 is padding, which nothing attends to.
      causal: True hides keys that lie ahead of the query.
      prefix: bool [B, Q], or None. Within a causal pattern, positions marked here see each other
        whatever their order (T5X's `decoder_causal_attention`).
      bias: added by distance, or None. Packed segments are contiguous, so a distance within a row
        is also the distance within the segment.
      angles: of `positions.Rotary`, which turn queries and keys, or None.
    """

    query_segments: jax.Array
    key_segments: jax.Array
    causal: bool = False
    prefix: jax.Array | None = None
    bias: PositionBias | None = None
    angles: tuple[jax.Array, jax.Array] | None = None


def make_attend(
    pattern: Pattern, heads: Heads, dropout_rate: float = 0.0, path: str = "auto"
) -> Attend:
    """Prepares what all layers of a stack share, and returns the function that each calls.

    Args:
      pattern: masks, biases and rotations.
      heads: shape of the heads.
      dropout_rate: share of attention weights dropped when a key is given.
      path: 'xla', 'flash', or 'auto': the kernel on a TPU where the shapes suit it, and where it
        agrees with the reference; see `kernel_check`.

    Raises:
      ConfigError: 'flash' is asked for, and the kernel does not take this.
    """
    takes_kernel = _takes_kernel(pattern, heads, path)
    inner = _kernel(pattern, heads) if takes_kernel else _reference(pattern, heads)

    def attend(query: jax.Array, key: jax.Array, value: jax.Array, dropout_key: jax.Array | None):
        if pattern.angles is not None:
            query = _rotate_heads(query, heads.num_heads, pattern.angles)
            key = _rotate_heads(key, heads.kv, pattern.angles)
        return inner(query, key, drop_keys(value, heads.kv, dropout_rate, dropout_key))

    return attend


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """[B, Q, H*C] -> [B, Q, H, C]."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


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


def segment_mask(pattern: Pattern) -> jax.Array:
    """True where a query may look at a key: bool [B, 1, Q, K]."""
    same = pattern.query_segments[:, :, None] == pattern.key_segments[:, None, :]
    mask = same & (pattern.key_segments > 0)[:, None, :]
    if pattern.causal:
        behind = jnp.tril(jnp.ones(mask.shape[1:], bool))
        if pattern.prefix is not None:
            behind = behind | (pattern.prefix[:, :, None] & pattern.prefix[:, None, :])
        mask &= behind
    return mask[:, None]


def dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    scale: float = 1.0,
) -> jax.Array:
    """The rule in XLA.

    Args:
      query: [B, Q, H, C].
      key: [B, K, G, C].
      value: [B, K, G, C].
      bias: float32 [1, H, Q, K], added to the logits; None for none.
      mask: bool, broadcastable to [B, H, Q, K]; False positions are not attended to.
      scale: factor of query . key.

    Returns:
      [B, Q, H, C] in the dtype of `value`.
    """
    shares = query.shape[2] // key.shape[2]
    if shares > 1:
        # The query heads that share a key head become queries of one attention.
        return _grouped(query, key, value, bias, mask, scale)
    logits = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32)
    weights = _softmax(logits, bias, mask, scale).astype(value.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, value)


def _grouped(query, key, value, bias, mask, scale) -> jax.Array:
    batch, length, num_heads, _ = query.shape
    query = query.reshape(batch, length, key.shape[2], -1, query.shape[-1])
    logits = jnp.einsum("bqgrc,bkgc->bgrqk", query, key, preferred_element_type=jnp.float32)
    shape = logits.shape
    logits = logits.reshape(batch, num_heads, *shape[3:])
    weights = _softmax(logits, bias, mask, scale).astype(value.dtype).reshape(shape)
    heads = jnp.einsum("bgrqk,bkgc->bqgrc", weights, value)
    return heads.reshape(batch, length, num_heads, -1)


def _softmax(
    logits: jax.Array, bias: jax.Array | None, mask: jax.Array | None, scale: float
) -> jax.Array:
    """Weights over keys, float32 [B, H, Q, K]."""
    if scale != 1.0:
        logits = logits * scale
    if bias is not None:
        logits = add_bias(logits, bias)
    if mask is not None:
        logits = jnp.where(mask, logits, MASKED)
    return jax.nn.softmax(logits, axis=-1)


@jax.custom_vjp
def add_bias(logits: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias that all rows share: [B, H, Q, K] + [1, H, Q, K], float32 both."""
    return logits + bias


def _add_bias_forward(logits: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return add_bias(logits, bias), None


def _add_bias_backward(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    # A product with ones, where autodiff has a sum: XLA's CPU compiler merges the sums of all
    # layers into one loop, which goes through them number by number with long strides.
    ones = jnp.ones(gradient.shape[0], gradient.dtype)
    return gradient, jnp.einsum("b,bhqk->hqk", ones, gradient, precision="highest")[None]


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _reference(pattern: Pattern, heads: Heads) -> Callable[..., jax.Array]:
    mask = segment_mask(pattern)
    bias = None
    if pattern.bias is not None:
        query_length, key_length = pattern.query_segments.shape[1], pattern.key_segments.shape[1]
        distance = np.arange(key_length)[None, :] - np.arange(query_length)[:, None]
        bias = pattern.bias.by_distance(distance)[None]

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        q = split_heads(query, heads.num_heads)
        k, v = split_heads(key, heads.kv), split_heads(value, heads.kv)
        if pattern.causal and pattern.prefix is None:
            return _by_query_block(q, k, v, bias, mask, heads.scale).reshape(query.shape)
        return dot_product_attention(q, k, v, bias, mask, heads.scale).reshape(query.shape)

    return attend


def _by_query_block(query, key, value, bias, mask, scale) -> jax.Array:
    """`dot_product_attention` of a causal row with itself: the same values for fewer products.

    A block of queries is multiplied with the keys up to its own last one, so that n blocks compute
    and hold (n + 1) / (2 n) of the logits. Only positions of padding come out otherwise: theirs is
    the mean of the keys they are given.
    """
    length = query.shape[1]
    size = max(SHORTEST_BLOCK, -(-length // MOST_BLOCKS))
    blocks = []
    for start in range(0, length, size):
        end = min(start + size, length)
        block_bias = None if bias is None else bias[:, :, start:end, :end]
        block_mask = mask[:, :, start:end, :end]
        keys, values = key[:, :end], value[:, :end]
        blocks.append(
            dot_product_attention(query[:, start:end], keys, values, block_bias, block_mask, scale)
        )
    return jnp.concatenate(blocks, axis=1)


def _takes_kernel(pattern: Pattern, heads: Heads, path: str) -> bool:
    if path == "xla":
        return False
    obstacle = _obstacle(pattern, heads)
    if path == "flash":
        if obstacle:
            raise ConfigError(
                f"attention 'flash': the kernel does not take {obstacle}; allowed: 'auto', which "
                "computes these rows without it, or 'xla'"
            )
        return True
    partitioner = active_partitioner()
    if obstacle or partitioner is None or partitioner.platform != "tpu":
        return False
    # A plan compiles for devices that are not here: nothing can be tried on them.
    return jax.default_backend() != "tpu" or kernel_check.kernel_agrees()


def _obstacle(pattern: Pattern, heads: Heads) -> str | None:
    """Why the kernel cannot compute this, or None."""
    if heads.kv != heads.num_heads:
        return f"{heads.num_heads} heads that share {heads.kv} key heads"
    if pattern.prefix is not None:
        return "a prompt that sees itself whole"
    partitioner = active_partitioner()
    parts = 1 if partitioner is None else partitioner.num_model_shards
    if heads.num_heads % parts:
        return f"{heads.num_heads} heads on {parts} devices along `model`"
    lengths = pattern.query_segments.shape[1], pattern.key_segments.shape[1]
    own_heads = heads.num_heads // parts
    if not by_distance_kernel.suits(*lengths, own_heads, heads.head_dim):
        shape = f"{lengths[0]} x {lengths[1]} positions, {own_heads} heads of {heads.head_dim}"
        return f"{shape} ({by_distance_kernel.SUITABLE})"
    return None


def _kernel(pattern: Pattern, heads: Heads) -> Callable[..., jax.Array]:
    """The kernel on this device's rows and heads; it knows nothing of meshes."""
    query_length, key_length = pattern.query_segments.shape[1], pattern.key_segments.shape[1]
    by_distance = None
    if pattern.bias is not None:
        by_distance = bias_by_distance(pattern.bias, query_length, key_length)
    partitioner = active_partitioner()
    row_spec, head_spec = PartitionSpec(), PartitionSpec()
    mesh = None
    if partitioner is not None:
        mesh = partitioner.mesh
        row_spec = partitioner.spec(("batch", "length", "joined_kv"))
        head_spec = partitioner.spec(("heads", None))
    layout = by_distance_kernel.Layout(heads.head_dim, pattern.causal, mesh, row_spec, head_spec)

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        if heads.scale != 1.0:
            query = query * heads.scale  # the kernel does not scale
        segments = pattern.query_segments, pattern.key_segments
        return by_distance_kernel.flash_attention(layout, query, key, value, by_distance, *segments)

    return attend


def bias_by_distance(bias: PositionBias, query_length: int, key_length: int) -> jax.Array:
    """The bias once per distance: entry j - i + Q - 1 is for query i and key j.

    Returns:
      float32 [H, Q + K]; the last entry is never used.
    """
    return bias.by_distance(np.arange(query_length + key_length) - (query_length - 1))
