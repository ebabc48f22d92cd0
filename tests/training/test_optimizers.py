"""Optimizers against their formulas, written out in NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.errors import ConfigError
from t5x_ext.schedules import create_learning_rate_scheduler
from t5x_ext.training.optimizers import AdamW

RNG = np.random.default_rng(0)


def updates_of(definition, axes, param, grads, learning_rate=0.1):
    """The parameter after one update per gradient."""
    tree = {"w": jnp.asarray(param)}
    tx = definition.build({"w": axes})
    state = tx.init(tree)
    for grad in grads:
        updates, state = tx.update(
            {"w": jnp.asarray(grad)}, state, tree, learning_rate=jnp.float32(learning_rate)
        )
        tree = {"w": tree["w"] + updates["w"]}
    return np.asarray(tree["w"]), state


def test_adamw_follows_its_formula() -> None:
    param = RNG.normal(size=(3, 4)).astype(np.float32)
    grads = [RNG.normal(size=(3, 4)).astype(np.float32) for _ in range(3)]
    got, _ = updates_of(AdamW(weight_decay=0.01), ("embed", "mlp"), param, grads)
    w, m, v = param.astype(np.float64), 0.0, 0.0
    for t, g in enumerate(grads, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - 0.1 * (step + 0.01 * w)
    np.testing.assert_allclose(got, w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("factors", "step", "expected"),
    [
        ("constant", 7, 0.5),
        ("constant * linear_warmup", 25, 0.5 * 25 / 100),
        ("constant * linear_warmup * rsqrt_decay", 400, 0.5 / 20),
        ("constant * rsqrt_normalized_decay", 400, 0.5 * 10 / 20),
        ("linear_decay", 25, 0.5 * 25 / 100),
        ("linear_decay", 102, 0.5 * (1 - 0.25 * 2)),
        ("constant * decay_every", 2500, 0.5 * 0.25**2),
        ("constant * cosine_decay", 100 + 500, 0.25),
    ],
)
def test_schedules(factors: str, step: int, expected: float) -> None:
    rate = create_learning_rate_scheduler(
        factors,
        0.5,
        warmup_steps=100,
        decay_factor=0.25,
        steps_per_decay=1000,
        steps_per_cycle=1000,
    )
    assert float(rate(step)) == pytest.approx(expected, rel=1e-5)


def test_schedule_offset_and_floor() -> None:
    rate = create_learning_rate_scheduler(
        "constant * linear_warmup", 1.0, warmup_steps=10, step_offset=100, min_learning_rate=0.05
    )
    assert float(rate(100)) == pytest.approx(0.05)
    assert float(rate(105)) == pytest.approx(0.5)


def test_unknown_factor_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown 'warmup'; allowed: constant, linear_warmup"):
        create_learning_rate_scheduler("constant * warmup")


def test_a_factor_that_would_be_zero_throughout_is_refused() -> None:
    with pytest.raises(ConfigError, match="warmup_steps: 0 makes rsqrt_normalized_decay zero"):
        create_learning_rate_scheduler("constant * rsqrt_normalized_decay", 0.5, warmup_steps=0)
