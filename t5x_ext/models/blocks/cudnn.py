"""Attention by cuDNN's fused kernel, which JAX calls on NVIDIA's GPUs.

cuDNN takes a mask as a bias [B, 1, Q, K] in the dtype of the rows, and writes a gradient of that
shape which nobody reads. Both are H times smaller than the logits it never writes. A bias by
distance would lose its digits in 16 bits, so patterns with one stay in XLA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.custom_batching
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from t5x_ext.models.blocks.pattern import Heads, Pattern, beyond_causal, split_heads
from t5x_ext.models.blocks.per_device import Kernel, model_shards, per_device, uneven

# Of `jax.nn.dot_product_attention`; tests on CPUs take "xla".
IMPLEMENTATION: Literal["cudnn", "xla"] = "cudnn"


def obstacle(pattern: Pattern, heads: Heads, dtype: Any) -> str | None:
    """Why cuDNN cannot compute this, or None. Of shapes and dtypes JAX itself is asked."""
    length = pattern.query_segments.shape[1]
    return beyond_causal(pattern) or uneven(heads) or _refusal(length, heads, jnp.dtype(dtype))


def build(pattern: Pattern, heads: Heads) -> Callable[..., jax.Array]:
    """(query [B, L, H*C], key [B, L, G*C], value [B, L, G*C]) -> [B, L, H*C]."""
    mapped = per_device(_kernel(heads), heads)

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        out = mapped(query, key, value, pattern.query_segments, pattern.key_segments)
        return checkpoint_name(out, "heads")

    return attend


def _kernel(heads: Heads) -> Kernel:
    """cuDNN on one device. Its backward pass computes the forward pass again."""

    def forward(query, key, value, query_segments, key_segments) -> jax.Array:
        q, k, v = (split_heads(x, x.shape[-1] // heads.head_dim) for x in (query, key, value))
        # Padding is a segment of its own, so that no row is without keys.
        mask = query_segments[:, None, :, None] == key_segments[:, None, None, :]
        out = jax.nn.dot_product_attention(
            q, k, v, mask=mask, scale=heads.scale, is_causal=True, implementation=IMPLEMENTATION
        )
        return out.reshape(query.shape)

    def backward(grad, query, key, value, *segments) -> tuple[jax.Array, ...]:
        return jax.vjp(lambda *rows: forward(*rows, *segments), query, key, value)[1](grad)

    forward_rows, backward_rows = _as_rows(forward), _as_rows(backward)
    kernel = jax.custom_vjp(forward_rows)
    kernel.defvjp(
        lambda *operands: (forward_rows(*operands), operands),
        lambda operands, grad: (*backward_rows(grad, *operands), None, None),
    )
    return kernel


def _as_rows(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of arrays [B, ...] alone; under `vmap`, the models' rows become one batch.

    JAX cannot map cuDNN's calls over a mask that heads share.
    """
    rows = jax.custom_batching.custom_vmap(function)

    @rows.def_vmap
    def _(size: int, is_mapped: list[bool], *operands: jax.Array) -> tuple[Any, Any]:
        mapped = (
            x if has_axis else jnp.broadcast_to(x, (size, *x.shape))
            for x, has_axis in zip(operands, is_mapped, strict=True)
        )
        joined = rows(*(x.reshape(-1, *x.shape[2:]) for x in mapped))
        results = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), joined)
        return results, jax.tree.map(lambda _: True, results)

    return rows


def _refusal(length: int, heads: Heads, dtype: jnp.dtype) -> str | None:
    """What JAX says to a row [1, L, .] on one device, forward and backward; None if it agrees."""
    queries = heads.num_heads // model_shards() * heads.head_dim
    keys = max(heads.kv // model_shards(), 1) * heads.head_dim

    def loss(query, key, value, segments) -> jax.Array:
        return jnp.sum(_kernel(heads)(query, key, value, segments, segments).astype(jnp.float32))

    rows = [jax.ShapeDtypeStruct((1, length, width), dtype) for width in (queries, keys, keys)]
    segments = jax.ShapeDtypeStruct((1, length), jnp.int32)
    try:
        jax.eval_shape(jax.grad(loss, argnums=(0, 1, 2)), *rows, segments)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        return f"{length} positions with heads of {heads.head_dim} in {dtype.name} ({reason})"
    return None
