"""Optimizers by name. Every one is a frozen definition with `build(axes)`.

A built optimizer is an optax transformation whose `update` takes the learning rate by keyword:
the schedule is evaluated once, from the step in the train state, and a resumed or re-scheduled
run needs no counter hidden in the optimizer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import optax

from t5x_ext.models.params import Params
from t5x_ext.training.adafactor import Adafactor

Optimizer: TypeAlias = optax.GradientTransformationExtraArgs

__all__ = [
    "AdamW",
    "Adafactor",
    "Optax",
    "Optimizer",
    "adabelief",
    "adagrad",
    "adam",
    "adamw",
    "chain",
    "lamb",
    "lars",
    "lion",
    "radam",
    "rmsprop",
    "sgd",
    "wrap_optax_optimizer",
    "yogi",
]


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


@dataclasses.dataclass(frozen=True)
class Optax:
    """Any optax optimizer as it is: its own learning rate counts, and not the trainer's, as in T5X.

    Attributes:
      transformation: what optax made.
    """

    transformation: optax.GradientTransformation

    def build(self, axes: Params) -> Optimizer:
        """The transformation; `update` ignores `learning_rate`."""
        del axes
        return optax.with_extra_args_support(self.transformation)


def wrap_optax_optimizer(
    make: Callable[..., optax.GradientTransformation],
) -> Callable[..., Optax]:
    """Makes an optax function, with its parameters, return an optimizer definition."""

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Optax:
        return Optax(make(*args, **kwargs))

    return made


def chain(transformations: Sequence[optax.GradientTransformation]) -> Optax:
    """Transformations one after the other: `[@optax.clip_by_global_norm(), @optax.adamw()]`."""
    return Optax(optax.chain(*transformations))


# The names that T5X gives in its own module of optimizers.
adabelief = wrap_optax_optimizer(optax.adabelief)
adagrad = wrap_optax_optimizer(optax.adagrad)
adam = wrap_optax_optimizer(optax.adam)
adamw = wrap_optax_optimizer(optax.adamw)
lamb = wrap_optax_optimizer(optax.lamb)
lars = wrap_optax_optimizer(optax.lars)
lion = wrap_optax_optimizer(optax.lion)
radam = wrap_optax_optimizer(optax.radam)
rmsprop = wrap_optax_optimizer(optax.rmsprop)
sgd = wrap_optax_optimizer(optax.sgd)
yogi = wrap_optax_optimizer(optax.yogi)
