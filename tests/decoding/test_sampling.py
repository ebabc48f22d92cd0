"""Samples follow the filtered distribution, and depend on seed and prompt alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared_outputs import golden_rows

from t5x_ext.decoding import Greedy, Sampling
from t5x_ext.decoding.methods import OutputIds, first_argmax
from t5x_ext.decoding.sampling import filter_scores
from t5x_ext.errors import ConfigError

NUM_IDS = 24


def kept_by_sorting(scores: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
    """Which tokens of one row pass the filters, token by token from the best down."""
    order = np.argsort(-scores, kind="stable")[: top_k or None]
    probabilities = np.exp(scores[order].astype(np.float64))
    probabilities /= probabilities.sum()
    before = np.cumsum(probabilities) - probabilities
    kept = np.zeros(len(scores), bool)
    kept[order[before < top_p]] = True
    return kept


@pytest.mark.parametrize("top_k", [0, 1, 5, 1000])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 0.999, 1.0])
def test_filters_keep_what_sorting_keeps(top_k, top_p) -> None:
    scores = np.random.default_rng(0).normal(size=(4, 5, 500)).astype(np.float32) * 3
    kept = np.isfinite(filter_scores(jnp.asarray(scores), top_k, top_p))
    for row, mask in zip(scores.reshape(-1, 500), kept.reshape(-1, 500), strict=True):
        assert (mask == kept_by_sorting(row, top_k, top_p)).all()


def test_nuclei_and_their_probabilities_are_the_goldens() -> None:
    for row in golden_rows("nucleus.jsonl"):
        scores = jnp.asarray(row["logits"], jnp.float32) / row["temperature"]
        found = np.asarray(jax.nn.log_softmax(filter_scores(scores, 0, row["top_p"])))
        assert np.flatnonzero(np.isfinite(found)).tolist() == row["kept"], row["id"]
        np.testing.assert_allclose(found[row["kept"]], row["kept_log_probs"], atol=1e-5)
        # The same distribution gives the same draws from the same uniform numbers.
        drawn = np.searchsorted(np.cumsum(np.exp(found)), row["uniforms"], side="right")
        assert drawn.tolist() == row["sampled_by_inverse_cdf_in_id_order"], row["id"]


@pytest.mark.parametrize(
    "method",
    [
        Sampling(num_samples=8),
        Sampling(num_samples=8, temperature=0.6, seed=1),
        Sampling(num_samples=8, top_k=5, seed=2),
        Sampling(num_samples=8, temperature=1.4, top_p=0.7, seed=3),
        Sampling(num_samples=8, temperature=0.9, top_k=10, top_p=0.8, seed=4),
    ],
)
def test_draws_follow_the_filtered_softmax(method: Sampling) -> None:
    """Pearson's chi-square of 40,000 draws, at a threshold that a right sampler passes 999 times
    in 1,000 (the seeds are fixed: it always does)."""
    num_prompts, num_valid = 5000, NUM_IDS - 2
    logits = np.random.default_rng(5).normal(size=NUM_IDS).astype(np.float32) * 1.2
    none = jnp.zeros(num_prompts, jnp.int32)
    state = method.start(jnp.arange(num_prompts), none > 0, none, 3)
    ids = OutputIds((1,), num_valid)
    shape = (num_prompts, method.num_samples, NUM_IDS)
    state, _ = method.advance(state, jnp.broadcast_to(logits, shape), jnp.int32(0), ids)
    counts = np.bincount(np.asarray(state.last).ravel(), minlength=NUM_IDS)

    scaled = logits[:num_valid] / method.temperature
    scaled = np.where(kept_by_sorting(scaled, method.top_k, method.top_p), scaled, -np.inf)
    probabilities = np.exp(scaled) / np.exp(scaled).sum()
    assert counts[num_valid:].sum() == 0
    counts, possible = counts[:num_valid], probabilities > 0
    assert counts[~possible].sum() == 0
    expected = probabilities[possible] * counts.sum()
    assert expected.min() > 5  # or the statistic is not chi-square distributed
    statistic = ((counts[possible] - expected) ** 2 / expected).sum()
    degrees = possible.sum() - 1
    # Wilson and Hilferty's approximation of the 99.9th percentile.
    limit = degrees * (1 - 2 / (9 * degrees) + 3.09 * np.sqrt(2 / (9 * degrees))) ** 3
    assert statistic < limit


def draw(method: Sampling, numbers: list[int], index: int) -> np.ndarray:
    logits = jax.random.normal(jax.random.key(0), (NUM_IDS,))
    logits = jnp.broadcast_to(logits, (len(numbers), method.num_samples, NUM_IDS))
    return np.asarray(method.choose(logits, jnp.array(numbers), jnp.int32(index)))


def test_a_draw_depends_on_seed_prompt_sample_and_position() -> None:
    method = Sampling(num_samples=6, seed=3)
    prompts = list(range(40))
    together = draw(method, prompts, 2)
    assert (draw(method, prompts[::-1], 2)[::-1] == together).all()
    assert (draw(method, [17], 2) == together[17]).all()
    assert (draw(Sampling(num_samples=2, seed=3), prompts, 2) == together[:, :2]).all()
    for other in (
        draw(method, prompts, 3),
        draw(Sampling(num_samples=6, seed=4), prompts, 2),
        np.roll(together, 1, axis=0),
        np.roll(together, 1, axis=1),
    ):
        assert 0.02 < (other == together).mean() < 0.5


def test_a_cold_sampler_is_greedy() -> None:
    logits = jax.random.normal(jax.random.key(1), (9, 1, NUM_IDS))
    cold = Sampling(temperature=1e-4).choose(logits, jnp.arange(9), jnp.int32(0))
    assert (cold == Greedy().choose(logits, jnp.arange(9), jnp.int32(0))).all()


def test_first_argmax_takes_the_lowest_of_equals() -> None:
    scores = jnp.array([[1.0, 3.0, 3.0], [-jnp.inf, -jnp.inf, 0.0], [2.0, 2.0, 2.0]])
    assert first_argmax(scores).tolist() == [1, 2, 0]


def test_eos_is_not_drawn_before_the_least_length() -> None:
    method = Sampling(num_samples=4, min_length=2)
    logits = jnp.zeros((50, 4, NUM_IDS)).at[..., 1].set(5.0)
    none = jnp.zeros(50, jnp.int32)
    state = method.start(jnp.arange(50), none > 0, none, 4)
    drawn = []
    for index in range(3):
        state, _ = method.advance(state, logits, jnp.int32(index), OutputIds((1,), NUM_IDS))
        drawn.append(np.asarray(state.last))
    assert (drawn[0] != 1).all() and (drawn[1] != 1).all()
    assert (drawn[2] == 1).mean() > 0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "Sampling.temperature: 0.0; allowed: 1e-06 to 1e.06; Greedy takes"),
        ({"top_k": -1}, "Sampling.top_k: -1; allowed: 0 and more"),
        ({"top_p": 0.0}, "Sampling.top_p: 0.0; allowed: above 0, at most 1"),
        ({"num_samples": 0}, "Sampling.num_samples: 0; allowed: 1 to 4,096"),
    ],
)
def test_settings_that_cannot_be_are_named(fields, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**fields)
