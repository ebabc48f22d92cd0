"""Projection and loss in one equal the two apart, in any number of parts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.models import losses, output_loss
from t5x_ext.models.output_loss import OutputLoss, output_loss_sums

BATCH, WIDTH, VOCAB = 4, 8, 50
POSITION = BATCH * VOCAB * 4  # bytes of the scores of one position


def make_arrays(length: int) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(BATCH, length, WIDTH)), jnp.float32),
        jnp.asarray(rng.normal(size=(WIDTH, VOCAB)), jnp.float32),
        jnp.asarray(rng.integers(0, VOCAB, (BATCH, length)), jnp.int32),
        jnp.asarray(rng.uniform(size=(BATCH, length)) > 0.3, jnp.float32),
    )


def apart(settings: OutputLoss, hidden, table, targets, weights) -> losses.LossSums:
    logits = settings.factor * jnp.einsum("btd,dv->btv", hidden, table)
    return losses.cross_entropy_sums(
        logits, targets, weights, settings.label_smoothing, settings.z_loss
    )


@pytest.mark.slow(but="settings0-12-1-12")
@pytest.mark.parametrize(
    ("length", "chunk_bytes", "expected_chunks"),
    [
        (12, 1 << 20, 1),
        (12, 2 * POSITION, 6),
        (12, 1, 12),
        (13, 5 * POSITION, 4),  # a prime length: three parts of 4, and one of 1 filled up
        (13, 1, 13),
    ],
)
@pytest.mark.parametrize(
    "settings", [OutputLoss(), OutputLoss(label_smoothing=0.1, z_loss=1e-2, factor=0.4)]
)
def test_values_and_gradients(
    monkeypatch, settings: OutputLoss, length: int, chunk_bytes: int, expected_chunks: int
) -> None:
    monkeypatch.setattr(output_loss, "_CHUNK_BYTES", chunk_bytes)
    hidden, table, targets, weights = make_arrays(length)
    assert output_loss._num_chunks(BATCH, length, VOCAB) == expected_chunks

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


@pytest.mark.parametrize("length", [97, 126, 127, 128, 509, 1021])
@pytest.mark.parametrize("wanted", [1, 2, 3, 7, 50])
def test_any_length_makes_few_parts_that_are_small_enough(monkeypatch, length, wanted) -> None:
    monkeypatch.setattr(output_loss, "_CHUNK_BYTES", -(-length * POSITION // wanted))
    parts = output_loss._num_chunks(BATCH, length, VOCAB)
    assert wanted <= parts <= 2 * wanted
    (chunked,) = output_loss._chunked(parts, jnp.arange(BATCH * length).reshape(BATCH, length))
    assert chunked.shape[2] * POSITION <= output_loss._CHUNK_BYTES
    restored = output_loss._unchunked(chunked[..., None], length)[..., 0]
    assert (restored == jnp.arange(BATCH * length).reshape(BATCH, length)).all()


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
