"""Weight metrics against NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.training.weight_metrics import WeightMetricsComputer


def test_metrics_equal_their_definitions():
    rng = np.random.default_rng(0)
    old, grads = ({"a": {"w": rng.normal(size=(3, 4))}, "b": rng.normal(size=5)} for _ in range(2))
    new = {"a": {"w": old["a"]["w"] - 0.1}, "b": old["b"] * 1.5}
    trees = jax.tree.map(jnp.array, (grads, old, new))
    metrics = WeightMetricsComputer().compute_metrics(*trees)

    def rms(x):
        return np.sqrt(np.mean(np.square(x)))

    expected = {
        "weight_rms/a/w": rms(new["a"]["w"]),
        "weight_gradient_rms/b": rms(grads["b"]),
        "weight_update_rms/a/w": 0.1,
        "weight_update_divided_by_weight_rms/b": 0.5,
        "weight_max/b": np.abs(new["b"]).max(),
        "weight_gradient_norm": np.sqrt(np.sum(grads["a"]["w"] ** 2) + np.sum(grads["b"] ** 2)),
    }
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5), name
    assert len(metrics) == 1 + 5 * 2
