"""The train step: a pure function (state, batch, key) -> (state, metrics)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from t5x_ext.models import BaseTransformerModel, losses, parameters
from t5x_ext.models.parameters import Params
from t5x_ext.schedules import LearningRateFn
from t5x_ext.training.optimizers import Optimizer
from t5x_ext.training.state import TrainState
from t5x_ext.training.weight_metrics import WeightMetricsComputer

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def sum_gradients(
    model: BaseTransformerModel,
    model_params: Params,
    batch: Batch,
    dropout_key: jax.Array | None,
    num_microbatches: int = 1,
    frozen: Params | None = None,
) -> tuple[Params, losses.LossSums]:
    """Gradient of the *summed* loss over the batch, and the sums.

    Sums rather than means: a microbatch with few target tokens then weighs what it should, and
    splitting the batch changes memory but not the result.

    Args:
      model: the model.
      model_params: the trainable parameters, all of them without adapters.
      batch: features [B, ...]; B divides by `num_microbatches`.
      dropout_key: None switches dropout off.
      num_microbatches: parts that are processed one after the other.
      frozen: the parameters under adapters. No gradient of theirs is ever formed.

    Returns:
      Gradients of `model_params` in float32 and `LossSums`.
    """
    dtype = model.config.dtype
    compute_frozen = parameters.cast_kernels(model.module.frozen, frozen or {}, dtype)

    def loss_fn(p: Params, part: Batch, key: jax.Array | None):
        sums = model.loss_sums(parameters.join(compute_frozen, p), part, key)
        return sums.loss, sums

    # Kernels are used in the compute dtype, so their gradients are made in it. Cast here, once,
    # gradients of a microbatch take no more memory than that before they are added in float32.
    compute_params = parameters.cast_kernels(model.module.trainable, model_params, dtype)
    grad_fn = jax.grad(loss_fn, has_aux=True)
    if num_microbatches == 1:
        grads, sums = grad_fn(compute_params, batch, dropout_key)
        return jax.tree.map(lambda g: g.astype(jnp.float32), grads), sums

    def part_of(x: jax.Array) -> jax.Array:
        # [B, ...] -> [B/M, M, ...]: each device keeps its own rows, whatever the mesh.
        return x.reshape(x.shape[0] // num_microbatches, num_microbatches, *x.shape[1:])

    parts = jax.tree.map(lambda x: jnp.moveaxis(part_of(x), 1, 0), batch)
    keys = None if dropout_key is None else jax.random.split(dropout_key, num_microbatches)

    def accumulate(carry, xs):
        part, key = xs
        return jax.tree.map(jnp.add, carry, grad_fn(compute_params, part, key)), None

    zero = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), model_params)
    start = (zero, losses.zero_sums())
    (grads, sums), _ = jax.lax.scan(accumulate, start, (parts, keys))
    return grads, sums


def make_train_step(
    model: BaseTransformerModel,
    optimizer: Optimizer,
    learning_rate_fn: LearningRateFn,
    num_microbatches: int = 1,
    weight_metrics: WeightMetricsComputer | None = None,
    skip_nonfinite: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Binds everything static; jit the result with its state donated.

    Args:
      model: the model.
      optimizer: its updates.
      learning_rate_fn: step -> learning rate.
      num_microbatches: parts of a batch processed one after the other.
      weight_metrics: measures every update tensor by tensor; None for not.
      skip_nonfinite: whether a step whose loss or gradient is not finite leaves parameters and
        optimizer as they are. It still counts as a step.

    Returns:
      A function of
        state: `TrainState`,
        batch: converted features [B, ...], B global,
        key: PRNG key of the run; dropout uses `fold_in(key, state.step)`,
        frozen: the parameters under adapters, in the tree of `Network.frozen`; None without,
      that returns the next state and float32 scalar metrics: `loss` (divided by the loss
      denominator, z-loss included), `cross_entropy` and `z_loss` (per target token),
      `accuracy`, `target_tokens`, `learning_rate`, `grad_norm`, and those of `weight_metrics`;
      and `grad_squares`, float32 [tensors]: the sum of squares of each parameter's gradient.
    """

    def train_step(
        state: TrainState, batch: Batch, key: jax.Array, frozen: Params | None = None
    ) -> tuple[TrainState, Metrics]:
        dropout_key = jax.random.fold_in(key, state.step) if model.module.has_dropout else None
        grads, sums = sum_gradients(
            model, state.params, batch, dropout_key, num_microbatches, frozen
        )
        positions = batch["decoder_target_tokens"].size
        denominator = losses.loss_denominator(model.loss_normalizing_factor, sums.weight, positions)
        grads = jax.tree.map(lambda g: g / denominator, grads)
        learning_rate = learning_rate_fn(state.step)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params, learning_rate=learning_rate, step=state.step
        )
        params = optax.apply_updates(state.params, updates)
        grad_squares = jnp.stack([jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)])
        metrics = loss_metrics(sums) | {
            "loss": sums.loss / denominator,
            "learning_rate": learning_rate,
            "grad_norm": jnp.sqrt(jnp.sum(grad_squares)),
            "grad_squares": grad_squares,
        }
        if weight_metrics is not None:
            metrics |= weight_metrics.compute_metrics(grads, state.params, params)
        if skip_nonfinite:
            is_finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(is_finite, new, old),
                (params, opt_state),
                (state.params, state.opt_state),
            )
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def loss_metrics(sums: losses.LossSums) -> Metrics:
    """Means per target token."""
    weight = jnp.maximum(sums.weight, 1e-9)
    return {
        "cross_entropy": sums.cross_entropy / weight,
        "z_loss": sums.z_loss / weight,
        "accuracy": sums.correct / weight,
        "target_tokens": sums.weight,
    }
