"""Optimizers against their formulas, written out in NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.errors import ConfigError
from t5x_ext.schedules import create_learning_rate_scheduler
from t5x_ext.training.optimizers import Adafactor, AdamW

RNG = np.random.default_rng(0)


def rms(x: np.ndarray, axis=None) -> np.ndarray:
    return np.sqrt(np.mean(np.square(x), axis=axis, keepdims=axis is not None))


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


def test_adafactor_factored_update_follows_the_formula() -> None:
    """Shazeer & Stern 2018, algorithm 4 with relative step sizes off."""
    param = RNG.normal(size=(130, 140)).astype(np.float32)
    grads = [RNG.normal(size=(130, 140)).astype(np.float32) for _ in range(3)]
    got, state = updates_of(Adafactor(), ("embed", "mlp"), param, grads)
    w, row, col = param.astype(np.float64), np.zeros(130), np.zeros(140)
    for t, g in enumerate(grads, start=1):
        decay = 1 - t**-0.8
        square = np.square(g.astype(np.float64)) + 1e-30
        row = decay * row + (1 - decay) * square.mean(1)
        col = decay * col + (1 - decay) * square.mean(0)
        update = g / np.sqrt(np.outer(row, col) / row.mean())
        update /= max(1.0, rms(update))
        w = w - 0.1 * max(1e-3, rms(w)) * update
    np.testing.assert_allclose(got, w, rtol=2e-5, atol=2e-6)
    assert state.slots["w"].v_row.shape == (130,) and state.slots["w"].v_col.shape == (140,)
    assert state.slots["w"].v.shape == (1,)


def test_adafactor_small_parameter_keeps_full_second_moments() -> None:
    param = RNG.normal(size=(8, 32)).astype(np.float32)
    grad = RNG.normal(size=(8, 32)).astype(np.float32)
    got, state = updates_of(Adafactor(), ("heads", "relpos_buckets"), param, [grad])
    update = grad / np.sqrt(np.square(grad) + 1e-30)  # first step: decay is 0
    update /= max(1.0, rms(update))
    np.testing.assert_allclose(got, param - 0.1 * rms(param) * update, rtol=1e-5)
    assert state.slots["w"].v.shape == (8, 32)


def test_adafactor_stacked_layers_equal_layers_apart() -> None:
    """A `layers` axis is a stack: scale, clipping and moments are each layer's own."""
    shape = (2, 130, 140)
    scale = np.array([1.0, 20.0]).reshape(2, 1, 1)
    param = (scale * RNG.normal(size=shape)).astype(np.float32)
    grads = [(RNG.normal(size=shape) / scale).astype(np.float32) for _ in range(2)]
    axes = ("layers", "embed", "mlp")
    stacked, state = updates_of(Adafactor(), axes, param, grads)
    for layer in range(2):
        alone, _ = updates_of(Adafactor(), axes[1:], param[layer], [g[layer] for g in grads])
        np.testing.assert_allclose(stacked[layer], alone, rtol=1e-5, atol=1e-6)
    assert state.slots["w"].v_row.shape == (2, 130)


def test_adafactor_norm_scales_are_not_factored() -> None:
    param = np.ones((3, 256), np.float32)
    grad = RNG.normal(size=(3, 256)).astype(np.float32)
    _, state = updates_of(Adafactor(), ("layers", "embed"), param, [grad])
    assert state.slots["w"].v.shape == (3, 256)


def test_adafactor_momentum_and_weight_decay() -> None:
    param = RNG.normal(size=(4,)).astype(np.float32)
    grads = [RNG.normal(size=(4,)).astype(np.float32) for _ in range(2)]
    definition = Adafactor(
        beta1=0.9,
        weight_decay_rate=0.5,
        weight_decay_rate_lr_exponent=1.0,
        multiply_by_parameter_scale=False,
        clipping_threshold=None,
    )
    got, _ = updates_of(definition, ("embed",), param, grads)
    w, v, m = param.astype(np.float64), np.zeros(4), np.zeros(4)
    for t, g in enumerate(grads, start=1):
        decay = 1 - t**-0.8
        v = decay * v + (1 - decay) * (np.square(g) + 1e-30)
        m = 0.9 * m + 0.1 * 0.1 * g / np.sqrt(v)
        w = w - m - 0.5 * 0.1 * w
    np.testing.assert_allclose(got, w, rtol=1e-5)


def test_adafactor_step_offset_restarts_the_decay_and_never_goes_below_step_one() -> None:
    param, grads = np.ones(4, np.float32), [RNG.normal(size=4).astype(np.float32)] * 2
    plain, _ = updates_of(Adafactor(), ("embed",), param, grads[:1])
    offset, _ = updates_of(Adafactor(step_offset=1000), ("embed",), param, grads[:1])
    np.testing.assert_array_equal(plain, offset)


def test_adafactor_names_an_axis_without_a_rule() -> None:
    with pytest.raises(ConfigError, match="no rule for axis 'colour' of w"):
        updates_of(Adafactor(), ("colour",), np.ones(3, np.float32), [])


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
