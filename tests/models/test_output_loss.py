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


def prompts_and_answers(length: int) -> tuple[jax.Array, ...]:
    """Arrays of which few positions have a weight, here and there in the rows."""
    hidden, table, targets, _ = make_arrays(length)
    rng = np.random.default_rng(1)
    weights = np.zeros((BATCH, length), np.float32)
    for row, count in zip(weights, (0, 1, 9, 17), strict=True):
        row[rng.choice(length, count, replace=False)] = rng.uniform(0.5, 1.5, count)
    return hidden, table, targets, jnp.asarray(weights)


@pytest.mark.parametrize("length", [64, 61])
def test_parts_without_weights_are_left_out_of_the_sums_but_change_nothing(length: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_loss, "_SKIPPABLE_POSITIONS", 8)
        hidden, table, targets, weights = prompts_and_answers(length)

        def scaled(settings: OutputLoss, hidden, table):
            sums = output_loss_sums(settings, hidden, table, targets, weights)
            return 0.7 * sums.loss, sums

        results = []
        for skip in (False, True):
            settings = OutputLoss(0.1, 1e-2, 0.4, skip_unweighted=skip)
            run = jax.value_and_grad(scaled, argnums=(1, 2), has_aux=True)
            (_, sums), grads = run(settings, hidden, table)
            results.append((*sums, *grads))
        for plain, skipping in zip(*results, strict=True):
            np.testing.assert_allclose(skipping, plain, rtol=1e-5, atol=1e-6)


def products_that_run(weights: jax.Array) -> int:
    """How often scores are made of a batch with these weights."""
    hidden, table, targets, _ = make_arrays(64)
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_loss, "_SKIPPABLE_POSITIONS", 8)
        scores = output_loss._scores

        def counted(*args):
            jax.debug.callback(lambda: made.append(1))
            return scores(*args)

        patch.setattr(output_loss, "_scores", counted)
        settings = OutputLoss(skip_unweighted=True)
        jax.grad(lambda x: output_loss_sums(settings, x, table, targets, weights).loss)(hidden)
        jax.effects_barrier()
    return len(made)


def test_only_parts_with_weights_are_computed() -> None:
    """Of 8 parts of 8 positions of each row, as many as the row with most weights fills."""
    *_, weights = prompts_and_answers(64)
    assert products_that_run(weights) == 3  # 17 positions
    assert products_that_run(jnp.zeros((BATCH, 64))) == 0
    assert products_that_run(jnp.ones((BATCH, 64))) == 8


def test_models_side_by_side_leave_out_the_same_parts() -> None:
    """Under vmap a condition would compute both of its sides."""
    settings = OutputLoss(skip_unweighted=True)
    hidden, table, targets, weights = prompts_and_answers(64)
    hidden, weights = jnp.stack([hidden, 2 * hidden]), jnp.stack([weights, weights[::-1]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_loss, "_SKIPPABLE_POSITIONS", 8)

        def loss(hidden, weights):
            return output_loss_sums(settings, hidden, table, targets, weights).loss

        together = jax.vmap(jax.grad(loss))
        program = str(jax.make_jaxpr(together)(hidden, weights))
        assert " cond[" in program
        for made, one, its in zip(together(hidden, weights), hidden, weights, strict=True):
            np.testing.assert_allclose(made, jax.grad(loss)(one, its), rtol=1e-5, atol=1e-6)


def test_a_table_that_is_not_trained_has_no_gradient() -> None:
    hidden, table, targets, weights = make_arrays(12)

    def loss(hidden, table):
        return output_loss_sums(OutputLoss(), hidden, table, targets, weights).loss

    frozen = jax.make_jaxpr(jax.grad(loss))(hidden, table)
    trained = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(hidden, table)
    assert (str(frozen).count("dot_general"), str(trained).count("dot_general")) == (2, 3)
