"""Whether an attention kernel computes what the reference does on the accelerator at hand.

A kernel depends on compiler and chip in ways that no test on another machine sees. So `auto` takes
it only after a small layer, with its gradients, has come out alike on both paths.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext.models.blocks.pattern import MASKED, Heads, Pattern

_ROWS, _LENGTH, _LANES = 2, 256, 128
TOLERANCE = 2e-2  # of the largest value: bfloat16 products, summed in another order

Build = Callable[[Pattern, Heads], Callable[..., jax.Array]]


class Outcome(NamedTuple):
    """Of a comparison: whether the kernel may be used, and what was found."""

    agrees: bool
    text: str


@functools.cache
def compare(build: Build, heads: Heads, has_bias: bool, dtype: Any) -> Outcome:
    """Runs a kernel and the reference once on the default device.

    Args:
      build: prepares the kernel.
      heads: those it will have; a few of them are computed, sharing key heads as all do.
      has_bias: whether a bias by distance is added.
      dtype: of query, key and value.
    """
    device = jax.devices()[0].device_kind
    # Called while a step is being traced. What a thread traces is its own, so that in another one
    # this is computed now and not made part of the step.
    with ThreadPoolExecutor(1) as thread:
        try:
            worst = thread.submit(largest_difference, build, heads, has_bias, dtype).result()
        except Exception as error:  # whatever a compiler or a driver raises
            reason = (str(error).splitlines() or [""])[0]
            return Outcome(False, f"fails on this {device}: {type(error).__name__}: {reason}")
    if worst <= TOLERANCE:
        return Outcome(True, f"agrees with the reference, largest difference {worst:.1e}")
    return Outcome(
        False, f"differs from the reference by {worst:.1e} of the largest value on this {device}"
    )


def largest_difference(build: Build, heads: Heads, has_bias: bool, dtype: Any) -> float:
    """Of the outputs and of all gradients, as a share of the reference's largest value."""
    kv = min(heads.kv, max(2, _LANES // heads.head_dim))
    shares = heads.num_heads // heads.kv
    few = dataclasses.replace(heads, num_heads=kv * shares, num_kv_heads=kv)
    operands = _operands(few, has_bias, dtype)
    run = jax.jit(jax.grad(_loss, argnums=(2, 3, 4, 5), has_aux=True), static_argnums=(0, 1))
    expected, ours = (
        jax.tree.leaves(run(path, few, *operands)) for path in (_build_reference, build)
    )
    differences = [
        float(jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(a)), 1e-6))
        for a, b in zip(expected, ours, strict=True)
    ]
    return max(differences) if all(map(np.isfinite, differences)) else float("inf")


@dataclasses.dataclass(frozen=True)
class _Bias:
    """A bias by distance, a number for each: float32 [H, 2 * L]."""

    numbers: jax.Array

    def static_bias(self, distance: np.ndarray) -> jax.Array:
        return self.numbers[:, distance + _LENGTH - 1]

    def traced_bias(self, distance: jax.Array, farthest: int) -> jax.Array:
        raise NotImplementedError  # no row is decoded here


def _operands(heads: Heads, has_bias: bool, dtype: Any) -> tuple[jax.Array | None, ...]:
    """Query, key, value, and the bias or None. Logits before the bias are near 1."""
    rng = np.random.default_rng(0)
    counts = heads.num_heads, heads.kv, heads.kv
    query, key, value = (
        jnp.asarray(rng.normal(size=(_ROWS, _LENGTH, n * heads.head_dim)), dtype) for n in counts
    )
    query /= heads.scale * heads.head_dim**0.5
    if not has_bias:
        return query, key, value, None
    by_distance = jnp.asarray(rng.normal(size=(heads.num_heads, 2 * _LENGTH)), jnp.float32)
    return query, key, value, by_distance


def _loss(
    build: Build, heads: Heads, query: jax.Array, key: jax.Array, value: jax.Array, by_distance: Any
) -> tuple[jax.Array, jax.Array]:
    """A scalar whose gradient reaches everything, and the output: a causal row of two segments."""
    segments = jnp.broadcast_to((jnp.arange(_LENGTH) >= 100) + 1, (_ROWS, _LENGTH))
    segments = segments.astype(jnp.int32)
    bias = None if by_distance is None else _Bias(by_distance)
    out = build(Pattern(segments, segments, causal=True, bias=bias), heads)(query, key, value)
    weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
    out = out.astype(jnp.float32)
    return jnp.sum(out * weights), out


def _build_reference(pattern: Pattern, heads: Heads) -> Callable[..., jax.Array]:
    """Attention written out once more, so that this file needs nothing of the paths it judges."""
    segments, shares = pattern.query_segments, heads.num_heads // heads.kv
    distance = np.arange(_LENGTH)[None] - np.arange(_LENGTH)[:, None]
    mask = (segments[:, :, None] == segments[:, None, :]) & (distance <= 0)

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        q, k, v = (x.reshape(_ROWS, _LENGTH, -1, heads.head_dim) for x in (query, key, value))
        k, v = jnp.repeat(k, shares, axis=2), jnp.repeat(v, shares, axis=2)
        logits = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=jnp.float32)
        logits *= heads.scale
        if pattern.bias is not None:
            logits += pattern.bias.static_bias(distance)
        weights = jax.nn.softmax(jnp.where(mask[:, None], logits, MASKED)).astype(v.dtype)
        return jnp.einsum("bhqk,bkhc->bqhc", weights, v).reshape(query.shape)

    return attend
