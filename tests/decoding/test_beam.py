"""Beam search against exhaustive search, and against a plain list of hypotheses."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.decoding import Beam, Greedy
from t5x_ext.decoding.beam import Beams
from t5x_ext.decoding.loop import run_loop
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.errors import ConfigError

EOS = 1
LENGTH = 6


def make_tables(num_ids: int, length: int) -> np.ndarray:
    """Logits by (prompt, position, last token): [12, length, num_ids, num_ids]."""
    logits = np.random.default_rng(0).normal(size=(12, length, num_ids, num_ids)) * 1.5
    logits[:6, ..., EOS] -= 2.0  # half of the prompts end late or never
    return logits.astype(np.float32)


@functools.partial(jax.jit, static_argnums=1)
def search(tables: jax.Array, method: Beam | Greedy):
    """Runs a method on a model that sees the position and the last token only."""
    num_prompts, length, num_ids, _ = tables.shape

    def tokens_to_logits(cache, tokens, index):
        return tables[jnp.arange(num_prompts)[:, None], index, tokens], cache

    none = jnp.zeros(num_prompts, jnp.int32)
    state = method.start(jnp.arange(num_prompts), none > 0, none, length)
    return run_loop(tokens_to_logits, method, (), state, 0, length, OutputIds((1,), num_ids))[1]


def log_probs(table: np.ndarray, row: tuple[int, ...]) -> float:
    """The log-probability of a row of tokens under [length, num_ids, num_ids] logits."""
    total = 0.0
    for index, (last, token) in enumerate(zip((0, *row), row, strict=False)):
        logits = table[index, last].astype(np.float64)
        total += logits[token] - np.log(np.exp(logits).sum())
    return total


def penalise(method: Beam, log_prob: float, length: int) -> float:
    base = (5 + length) / 6 if method.style == "t5x" else length
    return log_prob / base**method.length_penalty


def padded(rows: list[tuple[int, ...]], length: int) -> np.ndarray:
    return np.array([(*row, *(0,) * (length - len(row))) for row in rows])


@pytest.mark.parametrize("style", ["t5x", "hf"])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_a_beam_that_holds_every_prefix_finds_the_best_rows(style, length_penalty) -> None:
    """Three ids that go on and four positions: at most 27 live rows and 40 that end with EOS."""
    num_ids, length = 4, 4
    early_stopping = "never" if style == "hf" else False
    method = Beam(
        num_beams=40, length_penalty=length_penalty, style=style, early_stopping=early_stopping
    )
    tables = make_tables(num_ids, length)
    state = search(tables, method)
    for number, table in enumerate(tables):
        rows = []
        for body in range(length):
            ends = range(num_ids) if style == "hf" and body == length - 1 else [EOS]
            rows += itertools.product(*[[0, 2, 3]] * body, ends)
        scored = [(penalise(method, log_probs(table, row), len(row)), row) for row in rows]
        best = sorted(scored, reverse=True)[:5]
        np.testing.assert_allclose(state.scores[number, :5], [s for s, _ in best], rtol=1e-5)
        assert (state.tokens[number, :5] == padded([row for _, row in best], length)).all()


def reference(table: np.ndarray, method: Beam) -> list[tuple[float, tuple[int, ...]]]:
    """T5X's beam search over lists of (score, row): finished rows, or live ones if none are."""
    length, num_ids, _ = table.shape
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[tuple[float, tuple[int, ...]]] = []
    for _ in range(length):
        continued = [(*row, token) for _, row in live for token in range(num_ids)]
        scored = sorted(((log_probs(table, row), row) for row in continued), reverse=True)
        scored = scored[: 2 * method.num_beams]
        finished += [(penalise(method, s, len(r)), r) for s, r in scored if r[-1] == EOS]
        finished = sorted(finished, reverse=True)[: method.num_beams]
        live = [(s, r) for s, r in scored if r[-1] != EOS][: method.num_beams]
        bound = penalise(method, live[0][0], length + 1)
        if len(finished) == method.num_beams and finished[-1][0] > bound:
            break
    return finished or live


@pytest.mark.parametrize("num_beams", [1, 2, 3])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.5])
def test_t5x_style_is_the_search_over_lists(num_beams, length_penalty) -> None:
    method = Beam(num_beams=num_beams, length_penalty=length_penalty)
    tables = make_tables(7, LENGTH)
    state = search(tables, method)
    kinds = set()
    for number, table in enumerate(tables):
        expected = reference(table, method)
        ended = expected[0][1][-1] == EOS
        kinds.add(ended)
        found = state.tokens[number] if ended else state.live_tokens[number]
        scores = state.scores[number] if ended else state.live_scores[number]
        count = len(expected)
        np.testing.assert_allclose(scores[:count], [score for score, _ in expected], rtol=1e-5)
        assert (found[:count] == padded([row for _, row in expected], LENGTH)).all()
        assert state.filled[number].sum() == (count if ended else 0)
        best = method.outputs(state)[number, 0]
        assert (best == padded([expected[0][1]], LENGTH)[0]).all()
    assert True in kinds


def test_a_prompt_without_a_finished_row_gives_its_best_live_one() -> None:
    tables = make_tables(7, LENGTH)
    tables[..., EOS] = -100.0
    method = Beam(num_beams=3)
    state = search(tables, method)
    assert not state.filled.any()
    for number, table in enumerate(tables):
        row = padded([reference(table, method)[0][1]], LENGTH)[0]
        assert (method.outputs(state)[number, 0] == row).all()


@pytest.mark.parametrize("style", ["t5x", "hf"])
def test_a_prompt_does_not_depend_on_its_batch(style) -> None:
    """A prompt that is done stays as it was, while others go on."""
    tables = make_tables(7, LENGTH)
    method = Beam(num_beams=2, style=style)
    together: Beams = search(tables, method)
    for number in range(len(tables)):
        alone: Beams = search(tables[number : number + 1], method)
        for name, left in alone._asdict().items():
            if left is not None:  # limits, which no prompt has here
                assert (left[0] == getattr(together, name)[number]).all(), name


def test_early_stopping_takes_the_first_finished_rows() -> None:
    """With early_stopping True, a search may end before the best row is found, never after."""
    tables = make_tables(7, LENGTH)
    settings = {"num_beams": 2, "style": "hf", "length_penalty": 2.0}
    eager = search(tables, Beam(early_stopping=True, **settings))
    patient = search(tables, Beam(early_stopping="never", **settings))
    assert (eager.scores[:, 0] <= patient.scores[:, 0] + 1e-6).all()
    assert (eager.scores[:, 0] < patient.scores[:, 0] - 1e-3).any()


@pytest.mark.parametrize("method", [Beam(num_beams=3), Beam(num_beams=3, style="hf"), Greedy()])
def test_lengths_and_tokens_can_be_forced(method) -> None:
    tables = make_tables(7, LENGTH)
    tables[..., EOS] += 3.0  # all would end early

    def best(**fields) -> np.ndarray:
        changed = type(method)(**{**vars(method), **fields})
        return np.asarray(changed.outputs(search(tables, changed)))[:, 0]

    assert ((best() == EOS).argmax(axis=1) < 3).any()
    long = best(min_length=3)
    assert (long[:, :3] != EOS).all() and (long[:, 3] == EOS).any()
    prefixed = best(forced_prefix=(5, 2))
    assert (prefixed[:, :2] == (5, 2)).all() and len(np.unique(prefixed[:, 2])) > 1
    tables[..., EOS] = -20.0
    assert (best()[:, -1] != EOS).any()
    assert (best(forced_eos=True)[:, -1] == EOS).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_beams": 0}, "Beam.num_beams: 0; allowed: 1 to 4,096"),
        ({"style": "fairseq"}, "Beam.style: 'fairseq'; allowed: t5x, hf"),
        ({"early_stopping": True}, "Beam.early_stopping: True; allowed: False, or style 'hf'"),
        ({"min_length": -1}, "Beam.min_length: -1; allowed: 0 and more"),
    ],
)
def test_settings_that_cannot_be_are_named(fields, message) -> None:
    with pytest.raises(ConfigError) as error:
        Beam(**fields)
    assert str(error.value) == message
