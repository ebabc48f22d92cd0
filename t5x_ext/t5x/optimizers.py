"""`t5x.optimizers`."""

from t5x_ext.training.optimizers import (
    adabelief,
    adagrad,
    adam,
    adamw,
    chain,
    lamb,
    lars,
    lion,
    radam,
    rmsprop,
    sgd,
    wrap_optax_optimizer,
    yogi,
)

__all__ = [
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
