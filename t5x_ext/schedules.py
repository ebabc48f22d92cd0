"""Learning rate schedules under T5X's names."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from t5x_ext import bounds
from t5x_ext.errors import ConfigError

if TYPE_CHECKING:
    import jax

LearningRateFn = Callable[["jax.Array"], "jax.Array"]

FACTORS = (
    "constant",
    "linear_warmup",
    "linear_decay",
    "rsqrt_decay",
    "rsqrt_normalized_decay",
    "decay_every",
    "cosine_decay",
)


def rate_twice(factors: str) -> str | None:
    """What to say of factors that count the learning rate, or its warm-up, twice; None if none do.

    T5X's `linear_decay` holds both: "constant * linear_decay" is the square of the learning rate.
    """
    names = [name.strip() for name in factors.split("*")]
    if "linear_decay" in names and {"constant", "linear_warmup"} & set(names):
        return f"{factors!r}: linear_decay alone holds the learning rate and its warm-up"
    return None


def create_learning_rate_scheduler(
    factors: str = "constant * linear_warmup * rsqrt_decay",
    base_learning_rate: float = 0.5,
    warmup_steps: int = 1000,
    decay_factor: float = 0.5,
    steps_per_decay: int = 20000,
    steps_per_cycle: int = 100000,
    step_offset: int = 0,
    min_learning_rate: float = 1e-8,
) -> LearningRateFn:
    """A product of factors, written `constant * linear_warmup * rsqrt_decay`.

    With s = max(0, step - step_offset):

        constant                 base_learning_rate
        linear_warmup            min(1, s / warmup_steps)
        linear_decay             base_learning_rate * min(s / warmup_steps,
                                     1 + decay_factor * (warmup_steps - s)), warm-up included
        rsqrt_decay              1 / sqrt(max(s, warmup_steps))
        rsqrt_normalized_decay   sqrt(warmup_steps) / sqrt(max(s, warmup_steps))
        decay_every              decay_factor ** floor(s / steps_per_decay)
        cosine_decay             (1 + cos(pi * fraction of the cycle after warm-up)) / 2

    Args:
      factors: names above, joined by `*`.
      base_learning_rate: the constant.
      warmup_steps: steps of linear warm-up; 0 skips it.
      decay_factor: see the table.
      steps_per_decay: steps between decays of `decay_every`.
      steps_per_cycle: length of the cosine's cycle.
      step_offset: steps already in an initial checkpoint that should not count.
      min_learning_rate: lower bound of the result.

    Returns:
      A function from step (int or int32 array) to a float32 learning rate.

    Raises:
      ConfigError: a factor is unknown, or a number not finite or out of range.
    """
    # `configs`, which every command imports, offers this function: half of --help's time was JAX.
    import jax
    import jax.numpy as jnp

    for field, value, low in (
        ("base_learning_rate", base_learning_rate, 0),
        ("warmup_steps", warmup_steps, 0),
        ("decay_factor", decay_factor, 0),
        ("steps_per_decay", steps_per_decay, 1),
        ("steps_per_cycle", steps_per_cycle, 1),
        ("min_learning_rate", min_learning_rate, 0),
    ):
        bounds.check_real(f"create_learning_rate_scheduler.{field}", value, low)
    names = [name.strip() for name in factors.split("*") if name.strip()]
    for name in names:
        if name not in FACTORS:
            raise ConfigError(
                f"create_learning_rate_scheduler.factors: unknown {name!r}; "
                f"allowed: {', '.join(FACTORS)}"
            )

    if twice := rate_twice(factors):
        warnings.warn(f"create_learning_rate_scheduler.factors: {twice}", stacklevel=2)
    if "rsqrt_normalized_decay" in names and not warmup_steps:
        raise ConfigError(
            "create_learning_rate_scheduler.warmup_steps: 0 makes rsqrt_normalized_decay zero; "
            "allowed: at least 1 with this factor"
        )

    def factor(name: str, s: jax.Array) -> jax.Array | float:
        match name:
            case "constant":
                return base_learning_rate
            case "linear_warmup":
                return jnp.minimum(1.0, s / warmup_steps) if warmup_steps else 1.0
            case "linear_decay":
                down = jnp.maximum(0.0, 1.0 + decay_factor * (warmup_steps - s))
                up = s / warmup_steps if warmup_steps else 1.0
                return base_learning_rate * jnp.minimum(up, down)
            case "rsqrt_decay":
                return jax.lax.rsqrt(jnp.maximum(s, float(max(warmup_steps, 1))))
            case "rsqrt_normalized_decay":
                return jnp.sqrt(warmup_steps / jnp.maximum(s, float(max(warmup_steps, 1))))
            case "decay_every":
                return decay_factor ** (s // steps_per_decay)
            case _:
                progress = jnp.maximum(0.0, (s - warmup_steps) / float(steps_per_cycle))
                return jnp.maximum(0.0, 0.5 * (1.0 + jnp.cos(jnp.pi * (progress % 1.0))))

    def learning_rate(step: jax.Array) -> jax.Array:
        s = jnp.maximum(0.0, jnp.asarray(step, jnp.float32) - step_offset)
        rate = jnp.float32(1.0)
        for name in names:
            rate = rate * factor(name, s)
        return jnp.maximum(rate, min_learning_rate).astype(jnp.float32)

    return learning_rate
