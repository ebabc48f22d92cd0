"""The output projection and the cross-entropy in one, so that logits never exist all at once.

32,128 scores for every target token are the largest array of a T5 step by far. Here they are made
for some positions at a time, and their gradient is applied while they are there: three products in
all, as many as without, and no scores are kept for the backward pass.

A decoder-only row is mostly prompt, which has no loss. `skip_unweighted` moves the positions that
count to the front of their row and computes only the parts in which some row still has one.

Letters used in shapes: B batch, T target length, D emb_dim, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from t5x_ext.models import losses
from t5x_ext.models.losses import LossSums
from t5x_ext.partitioning import active_partitioner, constrain

_CHUNK_BYTES = 64 << 20  # of float32 scores on one device
# Where parts may be skipped: as many at least, but of no fewer positions, for which a product would
# read the table about as long as it computes.
_SKIPPABLE_CHUNKS = 8
_SKIPPABLE_POSITIONS = 256


@dataclasses.dataclass(frozen=True)
class OutputLoss:
    """Settings of the loss.

    Attributes:
      label_smoothing: see `losses.cross_entropy_sums`.
      z_loss: see `losses.cross_entropy_sums`.
      factor: scores are products times this.
      skip_unweighted: whether scores are spared where the weight is 0. The sums are the same up to
        the order of their terms.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    factor: float = 1.0
    skip_unweighted: bool = False


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
    skip = settings.skip_unweighted
    chunks = _num_chunks(hidden.shape[0], hidden.shape[1], table.shape[1], skip)
    if not skip or chunks == 1:
        return LossSums(*_sums(settings, chunks, hidden, table, targets, weights, None))
    order = jnp.argsort(weights == 0, axis=1, stable=True)
    hidden, targets, weights = (_reordered(x, order) for x in (hidden, targets, weights))
    used = _most(jnp.sum(weights != 0, axis=1))
    return LossSums(*_sums(settings, chunks, hidden, table, targets, weights, used))


def _reordered(x: jax.Array, order: jax.Array) -> jax.Array:
    """[B, T, ...] with the positions of each row in the order given, int [B, T]."""
    return jnp.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - 2)), axis=1)


@jax.custom_batching.custom_vmap
def _most(counts: jax.Array) -> jax.Array:
    """The largest of all numbers, over models that are trained side by side too.

    So the parts that are computed are the same for all of these. With an answer for each of them,
    the choice would be made by computing both sides of it.
    """
    return jnp.max(counts)


@_most.def_vmap
def _most_of_several(axis_size: int, in_batched: list, counts: jax.Array) -> tuple:
    del axis_size, in_batched
    return _most(counts), False


def _num_chunks(batch: int, length: int, vocab_size: int, skip: bool = False) -> int:
    """Parts of the length whose scores are small enough, of one device's rows and vocabulary."""
    partitioner = active_partitioner()
    if partitioner is not None:
        batch = -(-batch // partitioner.num_batch_shards)
        vocab_size = -(-vocab_size // partitioner.num_model_shards)
    wanted = min(-(-batch * length * vocab_size * 4 // _CHUNK_BYTES), length)
    if skip:
        wanted = max(wanted, min(_SKIPPABLE_CHUNKS, batch * length // _SKIPPABLE_POSITIONS))
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


def _scan(one: Callable, start: Any, parts: tuple[jax.Array, ...], used: jax.Array | None) -> Any:
    """`lax.scan`, which leaves out the parts behind the first `used` positions of all rows."""
    if used is None:
        return jax.lax.scan(one, start, parts)
    chunks, _, size = parts[0].shape[:3]
    skipped = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: one(start, _part(parts, 0))[1]))

    def one_if_used(carry: Any, indexed: Any) -> tuple[Any, Any]:
        index, part = indexed
        return jax.lax.cond(
            index * size < used, one, lambda carry, _: (carry, skipped), carry, part
        )

    return jax.lax.scan(one_if_used, start, (jnp.arange(chunks), parts))


def _part(parts: tuple[jax.Array, ...], index: int) -> tuple[jax.Array, ...]:
    return tuple(part[index] for part in parts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sums(settings: OutputLoss, chunks: int, hidden, table, targets, weights, used) -> LossSums:
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
    return _scan(one, losses.zero_sums(), parts, used)[0]


def _sums_fwd(settings: OutputLoss, chunks: int, hidden, table, targets, weights, used):
    # A table that is not trained (`perturbed`) has no gradient to add up.
    trains_table = table.perturbed
    hidden, table, targets, weights = (x.value for x in (hidden, table, targets, weights))
    used = None if used is None else used.value

    def one(carry: Any, part: Any) -> tuple[Any, jax.Array]:
        total, d_table = carry
        hidden_part, targets_part, weights_part = part
        scores = _scores(settings, hidden_part, table)
        sums, d_scores = losses.cross_entropy_gradient(
            scores, targets_part, weights_part, settings.label_smoothing, settings.z_loss
        )
        d_scores = (d_scores * settings.factor).astype(hidden.dtype)
        d_hidden = jnp.einsum("btv,dv->btd", d_scores, table)
        if trains_table:
            product = jnp.einsum("btd,btv->dv", hidden_part, d_scores)
            d_table += constrain(product, ("embed", "vocab"))
        return (jax.tree.map(jnp.add, total, sums), d_table), d_hidden

    parts = _chunked(chunks, hidden, targets, weights)
    d_table = jnp.zeros(table.shape, jnp.float32) if trains_table else None
    (total, d_table), d_hidden = _scan(one, (losses.zero_sums(), d_table), parts, used)
    if trains_table:
        d_table = d_table.astype(table.dtype)
    return total, (_unchunked(d_hidden, hidden.shape[1]), d_table)


def _sums_bwd(settings: OutputLoss, chunks: int, grads: Any, cotangent: LossSums):
    factor = cotangent.loss
    if isinstance(factor, jax.custom_derivatives.SymbolicZero):  # of a sum without a gradient
        factor = jnp.zeros(factor.shape, factor.dtype)
    scaled = (grad if grad is None else factor.astype(grad.dtype) * grad for grad in grads)
    return (*scaled, None, None, None)


_sums.defvjp(_sums_fwd, _sums_bwd, symbolic_zeros=True)
