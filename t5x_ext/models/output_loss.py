"""The output projection and the cross-entropy in one, so that logits never exist all at once.

32,128 scores for every target token are the largest array of a T5 step by far. Here they are made
for some positions at a time, and their gradient is applied while they are there: three products in
all, as many as without, and no scores are kept for the backward pass.

Letters used in shapes: B batch, T target length, D emb_dim, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from t5x_ext.models import losses
from t5x_ext.models.losses import LossSums
from t5x_ext.partitioning import active_partitioner, constrain

_CHUNK_BYTES = 64 << 20  # of float32 scores on one device


@dataclasses.dataclass(frozen=True)
class OutputLoss:
    """Settings of the loss.

    Attributes:
      label_smoothing: see `losses.cross_entropy_sums`.
      z_loss: see `losses.cross_entropy_sums`.
      factor: scores are products times this.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    factor: float = 1.0


def output_loss_sums(
    settings: OutputLoss,
    hidden: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
) -> LossSums:
    """Weighted sums of the cross-entropy of `hidden @ table`.

    Only `LossSums.loss` has a gradient, with respect to `hidden` and `table`.

    Args:
      settings: z-loss, smoothing and factor.
      hidden: [B, T, D] in the compute dtype.
      table: [D, V] in the compute dtype.
      targets: int32 [B, T].
      weights: float32 [B, T].
    """
    chunks = _num_chunks(hidden.shape[0], hidden.shape[1], table.shape[1])
    return LossSums(*_sums(settings, chunks, hidden, table, targets, weights))


def _num_chunks(batch: int, length: int, vocab_size: int) -> int:
    """Parts of the length whose scores are small enough, of one device's rows and vocabulary."""
    partitioner = active_partitioner()
    if partitioner is not None:
        batch = -(-batch // partitioner.num_batch_shards)
        vocab_size = -(-vocab_size // partitioner.num_model_shards)
    wanted = min(-(-batch * length * vocab_size * 4 // _CHUNK_BYTES), length)
    # Equal parts need no padding. Where the next divisor is far (a prime length has none), padded
    # parts are better than many small products.
    padded = -(-length // (length // wanted))
    return next((n for n in range(wanted, 2 * wanted + 1) if length % n == 0), padded)


def _chunked(chunks: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """[B, T, ...] -> [chunks, B, ceil(T / chunks), ...], the last filled up with zeros.

    Every device keeps its rows. Positions that are filled up have weight 0 and so change no sum.
    """

    def one(x: jax.Array) -> jax.Array:
        missing = -x.shape[1] % chunks
        if missing:
            x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], chunks, -1, *x.shape[2:]), 1, 0)

    return tuple(one(x) for x in arrays)


def _unchunked(parts: jax.Array, length: int) -> jax.Array:
    """Undoes `_chunked`: [chunks, B, n, D] -> [B, T, D]."""
    joined = jnp.moveaxis(parts, 0, 1)
    return joined.reshape(joined.shape[0], -1, joined.shape[-1])[:, :length]


def _scores(settings: OutputLoss, hidden: jax.Array, table: jax.Array) -> jax.Array:
    scores = jnp.einsum("btd,dv->btv", hidden, table, preferred_element_type=jnp.float32)
    return scores if settings.factor == 1.0 else scores * settings.factor


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sums(settings: OutputLoss, chunks: int, hidden, table, targets, weights) -> LossSums:
    """The value alone, where no gradient is asked for."""

    def one(total: LossSums, part: Any) -> tuple[LossSums, None]:
        hidden_part, targets_part, weights_part = part
        sums = losses.cross_entropy_sums(
            _scores(settings, hidden_part, table),
            targets_part,
            weights_part,
            settings.label_smoothing,
            settings.z_loss,
        )
        return jax.tree.map(jnp.add, total, sums), None

    parts = _chunked(chunks, hidden, targets, weights)
    return jax.lax.scan(one, losses.zero_sums(), parts)[0]


def _sums_fwd(settings: OutputLoss, chunks: int, hidden, table, targets, weights):
    def one(carry: Any, part: Any) -> tuple[Any, jax.Array]:
        total, d_table = carry
        hidden_part, targets_part, weights_part = part
        scores = _scores(settings, hidden_part, table)
        sums, d_scores = losses.cross_entropy_gradient(
            scores, targets_part, weights_part, settings.label_smoothing, settings.z_loss
        )
        d_scores = (d_scores * settings.factor).astype(hidden.dtype)
        d_hidden = jnp.einsum("btv,dv->btd", d_scores, table)
        d_table += constrain(jnp.einsum("btd,btv->dv", hidden_part, d_scores), ("embed", "vocab"))
        return (jax.tree.map(jnp.add, total, sums), d_table), d_hidden

    parts = _chunked(chunks, hidden, targets, weights)
    start = losses.zero_sums(), jnp.zeros(table.shape, jnp.float32)
    (total, d_table), d_hidden = jax.lax.scan(one, start, parts)
    return total, (_unchunked(d_hidden, hidden.shape[1]), d_table.astype(table.dtype))


def _sums_bwd(settings: OutputLoss, chunks: int, grads: Any, cotangent: LossSums):
    d_hidden, d_table = grads
    factor = cotangent.loss
    grads = (factor.astype(grad.dtype) * grad for grad in (d_hidden, d_table))
    return (*grads, None, None)


_sums.defvjp(_sums_fwd, _sums_bwd)
