"""Whether the attention kernel computes what the reference does on the accelerator at hand.

A kernel depends on compiler and chip in ways that no test on another machine sees. So `auto` takes
it only after a small layer, with its gradients, has come out alike on both paths.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext.models.blocks.by_distance_kernel import Layout, flash_attention
from t5x_ext.terminal import note

_ROWS, _LENGTH, _HEADS, _HEAD_DIM = 2, 256, 2, 64
TOLERANCE = 2e-2  # of the largest value: bfloat16 products, summed in another order


@functools.cache
def kernel_agrees() -> bool:
    """Compares both paths once on the default device, and says in one line what it found."""
    # Called while a step is being traced. What a thread traces is its own, so that in another one
    # this is computed now and not made part of the step.
    with ThreadPoolExecutor(1) as thread:
        worst = thread.submit(largest_difference).result()
    if worst <= TOLERANCE:
        note(f"attention: the kernel agrees with the reference (largest difference {worst:.1e})")
        return True
    note(
        f"attention: the kernel differs from the reference by {worst:.1e} of the largest value on "
        f"this {jax.devices()[0].device_kind}; plain XLA is used instead"
    )
    return False


def largest_difference() -> float:
    """Of the outputs and of all gradients, as a share of the reference's largest value."""
    run = jax.jit(jax.grad(_loss, argnums=(1, 2, 3, 4), has_aux=True), static_argnums=0)
    expected, ours = (jax.tree.leaves(run(path, *_operands())) for path in ("reference", "kernel"))
    differences = [
        float(jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(a)), 1e-6))
        for a, b in zip(expected, ours, strict=True)
    ]
    return max(differences) if all(map(np.isfinite, differences)) else float("inf")


def _operands() -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    shape = _ROWS, _LENGTH, _HEADS * _HEAD_DIM
    query, key, value = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for _ in range(3))
    by_distance = jnp.asarray(rng.normal(size=(_HEADS, 2 * _LENGTH)), jnp.float32)
    return query / _HEAD_DIM**0.5, key, value, by_distance


def _loss(
    path: str, query: jax.Array, key: jax.Array, value: jax.Array, by_distance: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A scalar whose gradient reaches everything, and the output: a causal row of two segments."""
    segments = jnp.broadcast_to((jnp.arange(_LENGTH) >= 100) + 1, (_ROWS, _LENGTH))
    segments = segments.astype(jnp.int32)
    if path == "kernel":
        layout = Layout(_HEAD_DIM, causal=True)
        out = flash_attention(layout, query, key, value, by_distance, segments, segments)
    else:
        out = _reference(query, key, value, by_distance, segments)
    weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
    out = out.astype(jnp.float32)
    return jnp.sum(out * weights), out


def _reference(
    query: jax.Array, key: jax.Array, value: jax.Array, by_distance: jax.Array, segments: jax.Array
) -> jax.Array:
    """Attention written out once more, so that this file needs nothing of the paths it judges."""
    q, k, v = (x.reshape(_ROWS, _LENGTH, _HEADS, _HEAD_DIM) for x in (query, key, value))
    distance = np.arange(_LENGTH)[None] - np.arange(_LENGTH)[:, None]
    logits = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=jnp.float32)
    logits += by_distance[:, distance + _LENGTH - 1]
    mask = (segments[:, :, None] == segments[:, None, :]) & (distance <= 0)
    weights = jax.nn.softmax(jnp.where(mask[:, None], logits, -1e10)).astype(v.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, v).reshape(query.shape)
