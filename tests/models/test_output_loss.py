"""Projection and loss in one equal the two apart, in any number of parts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.models import losses, output_loss
from t5x_ext.models.output_loss import OutputLoss, output_loss_sums

BATCH, LENGTH, WIDTH, VOCAB = 4, 12, 8, 50


@pytest.fixture
def arrays() -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(BATCH, LENGTH, WIDTH)), jnp.float32),
        jnp.asarray(rng.normal(size=(WIDTH, VOCAB)), jnp.float32),
        jnp.asarray(rng.integers(0, VOCAB, (BATCH, LENGTH)), jnp.int32),
        jnp.asarray(rng.uniform(size=(BATCH, LENGTH)) > 0.3, jnp.float32),
    )


def apart(settings: OutputLoss, hidden, table, targets, weights) -> losses.LossSums:
    logits = settings.factor * jnp.einsum("btd,dv->btv", hidden, table)
    return losses.cross_entropy_sums(
        logits, targets, weights, settings.label_smoothing, settings.z_loss
    )


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 2 * BATCH * VOCAB * 4, 1])
@pytest.mark.parametrize(
    "settings", [OutputLoss(), OutputLoss(label_smoothing=0.1, z_loss=1e-2, factor=0.4)]
)
def test_values_and_gradients(monkeypatch, arrays, settings: OutputLoss, chunk_bytes: int) -> None:
    monkeypatch.setattr(output_loss, "_CHUNK_BYTES", chunk_bytes)
    hidden, table, targets, weights = arrays
    expected_chunks = {1 << 20: 1, 2 * BATCH * VOCAB * 4: 6, 1: LENGTH}[chunk_bytes]
    assert output_loss._num_chunks(BATCH, LENGTH, VOCAB) == expected_chunks

    def scaled(function, hidden, table):
        sums = function(settings, hidden, table, targets, weights)
        return 0.7 * sums.loss, sums  # a cotangent other than 1

    results = []
    for function in (output_loss_sums, apart):
        run = jax.value_and_grad(
            lambda *a, function=function: scaled(function, *a), argnums=(0, 1), has_aux=True
        )
        (_, sums), grads = run(hidden, table)
        results.append((*sums, *grads))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-5)
    plain = output_loss_sums(settings, hidden, table, targets, weights)  # no gradient asked for
    np.testing.assert_allclose(plain, results[1][:5], rtol=2e-5)


def test_scores_of_the_whole_batch_never_exist() -> None:
    """The largest array of the compiled gradient is one part's scores."""
    batch, length, width, vocab = 8, 512, 16, 32128
    shapes = (
        jax.ShapeDtypeStruct((batch, length, width), jnp.float32),
        jax.ShapeDtypeStruct((width, vocab), jnp.float32),
        jax.ShapeDtypeStruct((batch, length), jnp.int32),
        jax.ShapeDtypeStruct((batch, length), jnp.float32),
    )
    grad = jax.grad(lambda *a: output_loss_sums(OutputLoss(), *a).loss, argnums=(0, 1))
    memory = jax.jit(grad).lower(*shapes).compile().memory_analysis()
    whole = batch * length * vocab * 4
    assert memory.temp_size_in_bytes < whole
