"""Optimizers by name. Every one is a frozen definition with `build(axes)`.

A built optimizer is an optax transformation whose `update` takes the learning rate by keyword:
the schedule is evaluated once, from the step in the train state, and a resumed or re-scheduled
run needs no counter hidden in the optimizer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax

from t5x_ext.models.params import Params
from t5x_ext.training.adafactor import Adafactor

Optimizer = optax.GradientTransformationExtraArgs

__all__ = ["AdamW", "Adafactor", "Optimizer"]


def _scale_by_given_learning_rate() -> Optimizer:
    def update(
        updates: Params, state: Any, params: Any = None, *, learning_rate: jax.Array, **unused: Any
    ) -> tuple[Params, Any]:
        del params, unused
        return jax.tree.map(lambda u: -learning_rate * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov & Hutter 2019) with decoupled weight decay, as in torch.

    Attributes:
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      eps: added to the root of the second moment.
      weight_decay: share of the parameter, times the learning rate, taken off per step.
      max_grad_norm: gradients are scaled down to this global norm; None for no clipping.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float | None = None

    def build(self, axes: Params) -> Optimizer:
        """The transformation; `update` takes `learning_rate` (float32 scalar) by keyword."""
        del axes
        clip = (
            optax.identity()
            if self.max_grad_norm is None
            else optax.clip_by_global_norm(self.max_grad_norm)
        )
        decay = (
            optax.add_decayed_weights(self.weight_decay)
            if self.weight_decay
            else (optax.identity())
        )
        adam = optax.scale_by_adam(self.beta1, self.beta2, self.eps)
        return optax.with_extra_args_support(
            optax.chain(clip, adam, decay, _scale_by_given_learning_rate())
        )
