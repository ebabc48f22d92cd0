"""ROUGE equals rouge_score, and the golden scores of Tk-Instruct's own script."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from t5x_ext.metrics import aggregate, rouge
from t5x_ext.metrics.predictions import read_predictions
from t5x_ext.metrics.scoring import METRICS, measure, score_rows

WORDS = st.lists(st.sampled_from("a the running runs dogs dog Quick-ly 12 é ,".split()), max_size=9)


@pytest.fixture(scope="module")
def reference_scorer() -> rouge_scorer.RougeScorer:
    return rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


@given(prediction=WORDS, references=st.lists(WORDS, min_size=1, max_size=3))
def test_equals_rouge_score(reference_scorer, prediction, references):
    prediction, references = " ".join(prediction), [" ".join(words) for words in references]
    expected = reference_scorer.score_multi(references, prediction)
    assert rouge.rouge_1(prediction, references) == expected["rouge1"].fmeasure
    assert rouge.rouge_l(prediction, references) == expected["rougeL"].fmeasure


def test_each_metric_takes_its_own_best_reference():
    # Reference 1 has all words in another order (ROUGE-1 best), reference 2 a run of them.
    references = ["d c b a", "a b c x"]
    assert rouge.rouge_1("a b c d", references) == 1.0
    assert rouge.rouge_l("a b c d", references) == 0.75


def test_docstring_example():
    assert rouge.tokens("The dogs ran") == ("the", "dog", "ran")


def test_subsequence_longer_than_a_machine_word():
    words = [str(i) for i in range(200)]
    assert rouge.longest_common_subsequence(words, words[::2]) == 100
    assert rouge.longest_common_subsequence(words, words[::-1]) == 1


def test_golden_rows(superni_dir):
    path = superni_dir / "golden" / "scores.jsonl"
    golden = [json.loads(line) for line in path.read_text().splitlines()]
    scored = score_rows(read_predictions(path))
    assert len(scored) == len(golden) == 600
    for row, expected in zip(scored, golden, strict=True):
        for metric in METRICS:
            assert row.score[metric] == pytest.approx(expected[metric], abs=1e-6), row.id


def test_golden_aggregates(superni_dir):
    measured = measure(read_predictions(superni_dir / "golden" / "scores.jsonl"))
    golden = json.loads((superni_dir / "golden" / "scores_summary.json").read_text())
    overall = aggregate.over_instances(measured)
    for metric in METRICS:
        assert round(overall.means[metric].mean, 4) == golden["overall"][metric]
    categories = aggregate.by_field(measured, "category")
    assert len(categories) * len(METRICS) == len(golden["by_category"])
    for group in categories:
        suffix = group.name.lower().replace(" ", "_")
        for metric in METRICS:
            expected = golden["by_category"][f"{metric}_for_{suffix}"]
            assert round(group.means[metric].mean, 4) == expected
