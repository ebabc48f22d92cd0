"""Optimizers by name. Every one is a frozen definition with `build(axes)`.

A built optimizer is an optax transformation whose `update` takes the learning rate by keyword:
the schedule is evaluated once, from the step in the train state, and a resumed or re-scheduled
run needs no counter hidden in the optimizer.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import optax

from t5x_ext import bounds
from t5x_ext.errors import ConfigError
from t5x_ext.models.parameters import Params
from t5x_ext.training.adafactor import Adafactor, HParamMap

Optimizer: TypeAlias = optax.GradientTransformationExtraArgs

__all__ = [
    "AdamW",
    "Adafactor",
    "HParamMap",
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

    def __post_init__(self) -> None:
        for field in ("beta1", "beta2"):
            # At 1 a moment would forget nothing, and its correction would divide by zero.
            bounds.check_share(f"AdamW.{field}", getattr(self, field))
        for field in ("eps", "weight_decay"):
            bounds.check_real(f"AdamW.{field}", getattr(self, field), 0.0)
        if self.max_grad_norm is not None:
            bounds.check_positive("AdamW.max_grad_norm", self.max_grad_norm)

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
      name: of the optax function that made it; '' where that is not known.
      settings: the arguments it was called with, by name.
    """

    transformation: optax.GradientTransformation
    name: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def build(self, axes: Params) -> Optimizer:
        """The transformation; `update` ignores `learning_rate`."""
        del axes
        return optax.with_extra_args_support(self.transformation)

    def describe(self) -> dict[str, Any]:
        """What tells it from another one, for a study.

        Raises:
          ConfigError: a chain, which does not say what it is made of.
        """
        if not self.name:
            raise ConfigError(
                "optimizer_def: optimizers.chain does not say what it is made of, so a study could "
                "not tell its cells from another chain's; allowed: AdamW, Adafactor, or one optax "
                "function (optimizers.adam, ...)"
            )
        return {"function": self.name, **self.settings}


def wrap_optax_optimizer(
    make: Callable[..., optax.GradientTransformation],
) -> Callable[..., Optax]:
    """Makes an optax function, with its parameters, return an optimizer definition."""

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Optax:
        bound = inspect.signature(make).bind(*args, **kwargs)
        return Optax(make(*args, **kwargs), make.__name__, bound.arguments)

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
