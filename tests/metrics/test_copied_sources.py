"""What a model scores that changes nothing, on the published sets: the floor of every report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from etils import epath

from mixtures.writing.finding import read_set
from mixtures.writing.sets import SETS
from mixtures.writing.tokens import detokenize
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.metrics.scoring import measure
from t5x_ext.metrics.tokens import natural_signs, were_natural

# Percent: JFLEG's by GLEU, the others' by SARI. EditEval's own table of copies has the same to one
# digit.
COPIES = {
    "jfleg": 40.47,
    "iterater_fluency": 32.32,
    "iterater_clarity": 29.49,
    "iterater_coherence": 31.27,
    "asset": 20.73,
    "turkcorpus": 26.34,
    "wnc_sample": 29.99,
    "stsb": 21.15,
}


def _read(name: str, writing_dir: Path) -> list[Prediction]:
    """The test rows, each with its source as the prompt shows it: in natural text."""
    wanted = SETS[name]
    natural = detokenize if wanted.tokenized else str.strip
    return [
        Prediction(
            name,
            wanted.task,
            item.id,
            f"### Input:\n{natural(item.source)}\n\n### Response:",
            item.references,
            natural(item.source),
            source=item.source,
        )
        for item in read_set(epath.Path(writing_dir / "data"), wanted, "test")
    ]


def _score(rows: list[Prediction], metric: str) -> float:
    (column,) = measure(rows, [metric]).columns
    return 100 * float(column.metric.finish(column.statistics.sum(axis=0)))


@pytest.mark.parametrize("name", COPIES)
def test_a_copied_source_scores_what_it_is_known_to(name: str, writing_dir: Path) -> None:
    """As a model copies it: in natural text, whatever the tokens of the set."""
    score = _score(_read(name, writing_dir), SETS[name].metrics[0])
    assert score == pytest.approx(COPIES[name], abs=0.005)


@pytest.mark.parametrize("prompted", [True, False], ids=["by_prompts", "by_vote"])
@pytest.mark.parametrize("metric", ["gleu", "errant", "bleu", "edit_distance"])
def test_an_answer_without_end_does_not_change_how_others_are_read(
    metric: str, prompted: bool, writing_dir: Path
) -> None:
    rows = _read("jfleg", writing_dir)[:40]
    if not prompted:
        rows = [replace(row, inputs="") for row in rows]
    broken = [replace(rows[0], prediction=f"The cat . {'. ' * 150}"), *rows[1:]]
    assert _row_scores(broken, metric)[1:] == _row_scores(rows, metric)[1:]


def test_natural_sources_are_not_taken_for_tokens() -> None:
    """White space around a source, which prompts do not show, tells nothing."""
    source = " We can't go , he said. \n"
    row = Prediction("t", "", "1", f"Input: {source.strip()}", ("We can not.",), "We can't.")
    assert not were_natural([replace(row, source=source)])
    tokens = "We ca n't go , he said ."
    assert were_natural([replace(row, inputs="Input: We can't go, he said.", source=tokens)])


def _row_scores(rows: list[Prediction], metric: str) -> list[float]:
    return [next(iter((row.score or {}).values())) for row in measure(rows, [metric]).rows]


def test_an_answer_that_repeats_a_letter_is_looked_at_once() -> None:
    # Tried from each of its letters, such a word takes minutes.
    assert natural_signs(["x" * 100_000, "a cat, " + "=" * 100_000, "a cat , a dog"]) == 0
    assert natural_signs(["a cat, (a dog.)", "'Tis it."]) == 2
