"""An expert against an amateur: eq. (3) of self-specialization, and the forms of it that work."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared_outputs import (
    CONTEXTS,
    EOS,
    FAMILIES,
    GOLDENS,
    WEIGHTS,
    golden_rows,
    make,
    merged,
    retrieval_weights,
    with_adapters,
)

from t5x_ext import Model
from t5x_ext.decoding import Beam, Contrastive, Greedy, Sampling
from t5x_ext.decoding.contrastive import MODES, break_ties
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.errors import ConfigError
from t5x_ext.partitioning import PjitPartitioner

PROMPTS = [contexts[0] for contexts in CONTEXTS]


def test_scores_are_the_goldens() -> None:
    for row in golden_rows("contrastive_numerics.jsonl"):
        method = Contrastive(
            mode=row["mode"],
            alpha=row["alpha"],
            beta=row["beta"] or 0.5,
            amateur_temperature=row["amateur_temperature"],
        )
        expert = jax.nn.log_softmax(jnp.asarray(row["expert_logits"], jnp.float32))
        amateur = jnp.asarray(row["amateur_logits"], jnp.float32)
        scores = np.asarray(method.contrast(expert, amateur))
        expected = np.array([-np.inf if s is None else s for s in row["scores"]])
        assert np.flatnonzero(scores > -np.inf).tolist() == row["kept"], row["id"]
        scale = float(jnp.abs(jnp.concatenate([expert, amateur])).max())
        np.testing.assert_allclose(scores, expected, atol=max(1e-4, 3e-7 * scale))
        best = int(jnp.argmax(break_ties(jnp.asarray(scores), expert)))
        assert best == (2 if row["argmax"] is None else row["argmax"])


@pytest.mark.slow(but="llama_biomedicine")
@pytest.mark.parametrize("adapter", ["llama_biomedicine", "mpt_biomedicine"])
def test_tokens_are_the_goldens(adapter: str) -> None:
    """One batch of each setting, expert and amateur as rows of it."""
    rows = [r for r in golden_rows("contrastive_decode.jsonl") if r["expert"].endswith(adapter)]
    folder = GOLDENS / "models" / adapter.split("_")[0]
    model = Model.load(str(folder), adapter=str(GOLDENS / "adapters" / adapter))
    fields = ("mode", "alpha", "beta", "amateur_temperature")
    for settings in sorted({tuple(row[field] for field in fields) for row in rows}, key=str):
        chosen = [row for row in rows if tuple(row[field] for field in fields) == settings]
        given = {k: v for k, v in zip(fields, settings, strict=True) if v is not None}
        prompts = [row["prompt"] for row in chosen]
        found = model.generate_tokens(prompts, 14, Contrastive(**given), [2])
        for row, tokens in zip(chosen, found, strict=True):
            assert tokens == [token for token in row["output"] if token != 2], row["id"]


@pytest.mark.parametrize("adapter", ["llama_biomedicine", "mpt_biomedicine"])
def test_mixtures_are_contrasted_as_the_goldens(adapter: str) -> None:
    rows = golden_rows("marginal_contrastive_decode.jsonl")
    folder = GOLDENS / "models" / adapter.split("_")[0]
    model = Model.load(str(folder), adapter=str(GOLDENS / "adapters" / adapter))
    for row in [row for row in rows if row["expert"].endswith(adapter)]:
        method = Contrastive(alpha=row["alpha"], amateur_temperature=row["amateur_temperature"])
        weights = [retrieval_weights(row["scores"], row["weights_mode"])]
        found = model.generate_tokens([row["contexts"]], 14, method, [2], weights=weights)
        assert found == [row["output"]]


@pytest.mark.slow(but="t5")
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_several_adapters_and_of_none_equal_single_runs(family: str) -> None:
    model = with_adapters(family)
    names = [None, "bio", "fin"] * 3
    together = model.generate_tokens(PROMPTS, 16, None, EOS, adapter=names)
    models = [merged(model, number) for number in range(3)]
    alone = [one.generate_tokens(PROMPTS, 16, None, EOS) for one in models]
    assert together == [alone[i % 3][i] for i in range(9)]
    assert together == model.generate_tokens(PROMPTS, 16, None, EOS, 2, adapter=names)
    scored = model.score_tokens(PROMPTS, together, adapter=names)
    for number, one in enumerate(models):
        expected = one.score_tokens(PROMPTS[number::3], together[number::3])
        for mine, theirs in zip(scored[number::3], expected, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-4)
    if not model.config.has_encoder:
        logits = model.token_logits(PROMPTS, adapter=names)
        for place in (0, 1, 2):
            (expected,) = models[place].token_logits([PROMPTS[place]])
            np.testing.assert_allclose(logits[place], expected, atol=1e-4)


@pytest.mark.slow(but="llama-method0")
@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("llama", Contrastive(alpha=0.3)),
        ("t5", Contrastive(mode="beta", method=Sampling(temperature=0.8, seed=2))),
    ],
)
def test_one_batch_contrasts_as_two_models_side_by_side(family: str, method: Contrastive) -> None:
    model = with_adapters(family)
    found = model.generate_tokens(
        CONTEXTS, 16, method, EOS, weights=WEIGHTS, adapter="bio", amateur="fin"
    )
    expert, amateur = merged(model, 1), merged(model, 2)
    other = expert.generate_tokens(CONTEXTS, 16, method, EOS, weights=WEIGHTS, amateur=amateur)
    assert found == other
    assert found == model.generate_tokens(
        CONTEXTS, 16, method, EOS, 1, weights=WEIGHTS, adapter="bio", amateur="fin"
    )
    mesh = PjitPartitioner(devices=jax.devices()[:4], data=2, model=2)
    split = with_adapters(family, mesh)
    assert found == split.generate_tokens(
        CONTEXTS, 16, method, EOS, weights=WEIGHTS, adapter="bio", amateur="fin"
    )


def test_an_amateur_reads_with_the_adapter_that_it_was_loaded_with() -> None:
    """Over an expert alone, and over one with adapters of its own, a name a row."""
    model = with_adapters("llama")
    loaded = dataclasses.replace(model, default_adapter="fin")
    names = [None, "bio", "fin"] * 3
    for expert, adapter in ((merged(model, 1), None), (model, names)):
        found, expected, against_base = (
            expert.generate_tokens(
                CONTEXTS,
                8,
                Contrastive(alpha=0.3),
                EOS,
                weights=WEIGHTS,
                adapter=adapter,
                amateur=amateur,
            )
            for amateur in (loaded, merged(model, 2), make("llama"))
        )
        assert found == expected != against_base


def test_an_amateur_with_adapters_of_which_none_is_its_own_is_refused() -> None:
    message = "amateur: a model with adapters bio, fin, none of which is named; allowed: Model.load"
    with pytest.raises(ConfigError, match=message):
        make("llama").generate_tokens([[1]], 4, Contrastive(), amateur=with_adapters("llama"))


@pytest.mark.slow
def test_an_expert_against_itself_is_greedy_decoding() -> None:
    model = with_adapters("llama")
    plain = model.generate_outputs(PROMPTS, 12, None, EOS, adapter="bio")
    for mode in ("log_ratio", "beta", "difference"):
        method = Contrastive(mode=mode)
        same = model.generate_outputs(PROMPTS, 12, method, EOS, adapter="bio", amateur="bio")
        assert [one.tokens for one in same] == [one.tokens for one in plain]
        for one, other in zip(same, plain, strict=True):
            np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)


def test_without_plausibility_a_ratio_picks_what_nobody_would_say() -> None:
    expert = jax.nn.log_softmax(jnp.array([5.0, 4.0, -9.0]))
    amateur = jnp.array([5.0, 4.5, -20.0])
    assert int(jnp.argmax(Contrastive(alpha=0.0).contrast(expert, amateur))) == 2
    assert int(jnp.argmax(Contrastive(alpha=0.1).contrast(expert, amateur))) == 0


def test_plausibility_is_that_of_the_papers_unless_given() -> None:
    assert [Contrastive(mode=mode).alpha for mode in MODES] == [0.1, 0.1, 0.0]
    assert Contrastive(mode="difference", alpha=0.1).alpha == 0.1
    assert Contrastive(alpha=0.0).alpha == 0.0


def test_tokens_that_are_not_allowed_do_not_decide_what_is_plausible() -> None:
    """An expert that is sure of EOS, which it may not say yet, still has a head of others."""
    logits = jnp.array([[[[0.0, 30.0, 1.0, 2.0]], [[0.0, 30.0, 0.0, 3.0]]]])  # [B, sides, K, V]
    method = Contrastive(method=Greedy(min_length=1))
    none = jnp.zeros(1, jnp.int32)
    state = method.start(none, none > 0, none, 3)
    state, _ = method.advance(state, logits, jnp.int32(0), OutputIds((1,), 4))
    assert state.last.tolist() == [[2]]


def test_what_a_mixture_makes_impossible_is_no_nan() -> None:
    expert = jnp.array([0.0, -jnp.inf, -1.0])
    for mode in ("log_ratio", "beta", "difference"):
        method = Contrastive(mode=mode, alpha=0.0)
        scores = method.contrast(expert, jnp.array([-jnp.inf, -jnp.inf, 0.0]))
        assert not jnp.isnan(break_ties(scores, expert)).any()
        assert scores[1] == -jnp.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Contrastive(mode="ratio"), "Contrastive.mode: 'ratio'; allowed: log_ratio, beta"),
        (lambda: Contrastive(alpha=1.5), "Contrastive.alpha: 1.5; allowed: 0 to 1"),
        (lambda: Contrastive(method=Beam()), "Contrastive.method: .*; allowed: Greedy"),
        (lambda: make("llama").generate_tokens([[1]], 4, Contrastive()), "has no adapters"),
        (lambda: make("llama").generate_tokens([[1]], 4, amateur="x"), "without a contrast"),
        (
            lambda: make("llama").generate_tokens([[1]], 4, adapter="x"),
            "adapter: 'x'; allowed: None",
        ),
        (
            lambda: with_adapters("llama").generate_tokens([[1]], 4, adapter=["boi"]),
            "adapter: 'boi'; allowed: 'bio', 'fin'",
        ),
        (
            lambda: with_adapters("llama").token_logits([[1]], adapter=["bio", None]),
            "adapter: 2 for 1 prompts",
        ),
        (
            lambda: make("llama").generate_tokens([[1]], 4, Contrastive(), amateur=make("t5")),
            "amateur: has has_encoder True; allowed: the expert's, False",
        ),
    ],
)
def test_what_cannot_be_contrasted_is_one_line(call, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
