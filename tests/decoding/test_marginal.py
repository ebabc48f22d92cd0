"""Prompts that share an output: eq. (2) of self-specialization, on every family and any mesh."""

from __future__ import annotations

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
    retrieval_weights,
)

from t5x_ext import Model
from t5x_ext.decoding import Beam, Method, Sampling
from t5x_ext.decoding.marginal import marginalise
from t5x_ext.errors import ConfigError
from t5x_ext.partitioning import PjitPartitioner


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    return make(request.param)


@pytest.mark.slow
def test_mixtures_of_logits_of_any_scale_are_the_goldens() -> None:
    for row in golden_rows("marginal_numerics.jsonl"):
        weights = np.log(retrieval_weights(row["scores"], row["mode"]))
        logits = jnp.asarray(row["logits"], jnp.float32)
        found = marginalise(logits[None], jnp.asarray(weights, jnp.float32)[None])[0]
        # Numbers of thousands are known to 2e-4 in float32.
        closeness = max(1e-4, 2e-7 * float(jnp.abs(logits).max()))
        np.testing.assert_allclose(found, row["log_probs"], atol=closeness)
        assert int(jnp.argmax(found)) == row["argmax"]


@pytest.mark.slow(but="llama-8")
@pytest.mark.parametrize(
    ("family", "batch_size"), [("llama", 1), ("llama", 8), ("mpt", 8)], ids=str
)
def test_tokens_and_probabilities_are_the_goldens(family: str, batch_size: int) -> None:
    rows = [row for row in golden_rows("marginal_decode.jsonl") if row["model"] == family]
    model = Model.load(str(GOLDENS / "models" / family))
    for eos in sorted({row["eos"] for row in rows}):
        chosen = [row for row in rows if row["eos"] == eos]
        outputs = model.generate_outputs(
            [row["contexts"] for row in chosen],
            16,
            eos_ids=[eos],
            batch_size=batch_size,
            weights=[retrieval_weights(row["scores"], row["mode"]) for row in chosen],
        )
        for row, output in zip(chosen, outputs, strict=True):
            ended = row["output"][-1] == eos
            assert output.tokens == row["output"][: len(row["output"]) - ended], row["id"]
            assert output.finish == ("eos" if ended else "length")
            steps = [step["score"] for step in row["steps"]]
            np.testing.assert_allclose(output.log_probs, steps, atol=1e-4)
            assert abs(output.log_prob - row["log_prob"]) < 1e-4


@pytest.mark.parametrize("family", ["llama", "mpt"])
def test_scores_of_given_responses_are_the_goldens(family: str) -> None:
    rows = [row for row in golden_rows("marginal_score.jsonl") if row["model"] == family]
    model = Model.load(str(GOLDENS / "models" / family))
    found = model.score_tokens(
        [row["contexts"] for row in rows],
        [row["response"] for row in rows],
        weights=[retrieval_weights(row["scores"], row["mode"]) for row in rows],
    )
    for row, values in zip(rows, found, strict=True):
        np.testing.assert_allclose(values, row["token_log_probs"], atol=1e-4)


SAMPLING = Sampling(temperature=1.3, top_p=0.95, num_samples=2, seed=3)
BEAM = Beam(num_beams=3, style="hf")
METHODS: list[tuple[str, Method | None]] = [("llama", None), ("llama", SAMPLING), ("t5", BEAM)]


@pytest.mark.slow(but="llama-method1")
@pytest.mark.parametrize(("family", "method"), METHODS)
def test_one_context_and_equal_contexts_are_plain_decoding(family: str, method: Method) -> None:
    model = make(family)
    prompts = [contexts[0] for contexts in CONTEXTS]
    plain = model.generate_tokens(prompts, 24, method, EOS)
    one = [[prompt] for prompt in prompts]
    assert plain == model.generate_tokens(one, 24, method, EOS, weights=[[1.0]] * len(prompts))
    equal = [[prompt] * 3 for prompt in prompts]
    weights = [[0.2, 0.5, 0.3]] * len(prompts)
    assert plain == model.generate_tokens(equal, 24, method, EOS, weights=weights)


@pytest.mark.parametrize(("family", "method"), METHODS)
def test_an_output_depends_on_no_other_and_on_no_order(family: str, method: Method) -> None:
    """Through stages and the queue, with outputs of one to three contexts side by side."""
    model = make(family)
    whole = model.generate_tokens(CONTEXTS, 24, method, EOS, weights=WEIGHTS)
    lengths = [len(tokens) for tokens in whole]
    assert min(lengths) < 8 < max(lengths)  # some ended in the first stage, others went on
    single = model.generate_tokens(CONTEXTS, 24, method, EOS, batch_size=1, weights=WEIGHTS)
    assert single == whole
    turned = [contexts[::-1] for contexts in CONTEXTS]
    weights = [values[::-1] for values in WEIGHTS]
    assert model.generate_tokens(turned, 24, method, EOS, weights=weights) == whole


def test_the_mixture_is_that_of_teacher_forced_distributions(model: Model) -> None:
    """Each token is the best of the weighted probabilities, read off prompt by prompt."""
    outputs = model.generate_outputs(CONTEXTS, 10, weights=WEIGHTS)
    scored = model.score_tokens(CONTEXTS, [one.tokens for one in outputs], weights=WEIGHTS)
    for output, values in zip(outputs, scored, strict=True):
        np.testing.assert_allclose(output.log_probs, values, atol=2e-5)
    for contexts, weights, output in [*zip(CONTEXTS, WEIGHTS, outputs, strict=True)][1:3]:
        answers = [output.tokens[:3] + [token] for token in range(64)]
        probabilities = np.zeros(64)
        for context, weight in zip(contexts, weights, strict=True):
            of_context = model.score_tokens([context] * 64, answers)
            probabilities += weight * np.exp([values[3] for values in of_context])
        assert abs(probabilities.sum() - 1) < 1e-5
        assert probabilities.argmax() == output.tokens[3]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_split_vocabulary_mixes_as_a_whole_one(family: str) -> None:
    expected = make(family).generate_outputs(CONTEXTS, 10, eos_ids=EOS, weights=WEIGHTS)
    mesh = PjitPartitioner(devices=jax.devices()[:4], data=2, model=2)
    found = make(family, mesh).generate_outputs(CONTEXTS, 10, eos_ids=EOS, weights=WEIGHTS)
    for one, other in zip(found, expected, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=2e-5)


def test_what_is_impossible_is_minus_infinity_and_never_nan() -> None:
    logits = jnp.array([[[1.0, 2.0, 0.0], [jnp.nan, jnp.inf, -jnp.inf]]])
    found = marginalise(logits, jnp.array([[0.0, -jnp.inf]]))
    np.testing.assert_allclose(found[0], jax.nn.log_softmax(logits[0, 0]), rtol=1e-6)
    nothing = marginalise(logits, jnp.full((1, 2), -jnp.inf))
    assert (np.asarray(nothing) == -np.inf).all()
    apart = jnp.array([[[0.0, -3e38], [-3e38, 0.0]]])
    mixed = marginalise(apart, jnp.log(jnp.array([[0.25, 0.75]])))
    np.testing.assert_allclose(np.exp(mixed[0]), [0.25, 0.75], rtol=1e-6)


def test_samples_depend_on_seed_and_number_alone() -> None:
    model = make("llama")
    method = SAMPLING
    whole = model.generate_tokens(CONTEXTS, 24, method, EOS, weights=WEIGHTS)
    some = [6, 1, 3]
    few = model.generate_tokens(
        [CONTEXTS[i] for i in some],
        24,
        method,
        EOS,
        weights=[WEIGHTS[i] for i in some],
        numbers=some,
    )
    assert few == [whole[i] for i in some]
    again = model.generate_tokens(CONTEXTS, 24, method, EOS, weights=WEIGHTS, numbers=range(9, 18))
    assert sum(one != other for one, other in zip(again, whole, strict=True)) > 5


@pytest.mark.parametrize(
    ("prompts", "weights", "message"),
    [
        ([[[1], [2]]], None, r"prompts\[0\]: 2 prompts without weights"),
        ([[1, 2]], [[0.5, 0.5]], r"prompts\[0\]: not a list of 2 prompts"),
        ([[[1], [2]]], [[1.0]], r"prompts\[0\]: not a list of 1 prompts"),
        ([[[1], [2]]], [[0.5, 0.6]], r"weights\[0\]: \[0.5, 0.6\]; allowed: .* that sum to 1"),
        ([[[1], [2]]], [[-0.5, 1.5]], r"weights\[0\]: .* that sum to 1"),
        ([[[1], [2]]], [[float("nan"), 1.0]], r"weights\[0\]: .* that sum to 1"),
        ([[[1], [2]]], [], "weights: 0 for 1 prompts"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(prompts, weights, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("llama").generate_tokens(prompts, 4, weights=weights)
