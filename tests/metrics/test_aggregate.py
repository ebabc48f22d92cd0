"""Means by hand, corpus scores by hand, and intervals that behave."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from t5x_ext.errors import ConfigError
from t5x_ext.metrics import Prediction, aggregate, measure, resampling
from t5x_ext.metrics.aggregate import differences


def row(task: str, category: str, prediction: str, source: str | None = None) -> Prediction:
    return Prediction(task, category, "id", "", ("right answer",), prediction, source=source)


# Task a has three instances (mean 1/3), task b one (mean 1).
ROWS = [
    row("a", "X", "right answer"),
    row("a", "X", "wrong"),
    row("b", "Y", "right answer"),
    row("a", "X", "wrong"),
]
MEASURED = measure(ROWS)


def test_two_overall_means():
    assert aggregate.over_instances(MEASURED).means["rougeL"].mean == pytest.approx(50.0)
    assert aggregate.over_tasks(MEASURED).means["rougeL"].mean == pytest.approx(200 / 3)
    assert aggregate.over_tasks(MEASURED).means["exact_match"].mean == pytest.approx(200 / 3)
    assert aggregate.over_tasks(MEASURED).n == 2


def test_by_field_keeps_order_and_counts():
    groups = aggregate.by_field(MEASURED, "category")
    assert [(g.name, g.n, round(g.means["rougeL"].mean, 6)) for g in groups] == [
        ("X", 3, 33.333333),
        ("Y", 1, 100.0),
    ]


def test_task_scores_are_percent():
    assert aggregate.task_scores(MEASURED)["b"] == {
        "category": "Y",
        "n": 1,
        "rougeL": 100.0,
        "rouge1": 100.0,
        "exact_match": 100.0,
    }


def test_a_corpus_metric_sums_counts_before_it_divides():
    # 1 of 1 pairs found and 1 of 3 wanted; then nothing found of 1: F1 of 1 found, 4 wanted.
    first = Prediction("t", "c", "1", "", ("a <X>, b <X>, c <Y>",), "a <X>")
    second = Prediction("t", "c", "2", "", ("a <X>",), "")
    measured = measure([first, second], ["pairs_f1"])
    assert aggregate.task_scores(measured)["t"]["pairs_f1"] == pytest.approx(100 * 2 * 1 / 5)
    assert [r.score["pairs_f1"] for r in measured.rows] == pytest.approx([0.5, 0.0])


def test_a_task_without_a_metric_has_no_score_of_it():
    rows = [row("jfleg", "W", "right answer", source="x"), row("a", "X", "wrong")]
    scores = aggregate.task_scores(measure(rows))
    assert "rougeL" not in scores["jfleg"] and "rougeL" in scores["a"]
    assert scores["jfleg"].keys() - {"category", "n"} == {
        "gleu[gec,python3]",
        "gleu[gec,closed form]",
    }
    assert aggregate.over_tasks(measure(rows)).means["rougeL"].mean == 0.0


def test_rows_with_the_same_source_are_drawn_together():
    answers = ["right answer", "wrong"] * 50
    apart = measure([row("t", "c", text, str(i)) for i, text in enumerate(answers)])
    # Two inputs: one always answered rightly, one never.
    together = measure([row("t", "c", text, text) for text in answers])
    wide = aggregate.over_instances(together).means["exact_match"]
    narrow = aggregate.over_instances(apart).means["exact_match"]
    assert (wide.mean, wide.low, wide.high) == (50.0, 0.0, 100.0)
    assert narrow.mean == 50.0 and narrow.high - narrow.low < 25


def test_a_difference_is_of_pairs():
    # Far apart between instances, and always better by the same: no doubt about the difference.
    other = measure([dataclasses.replace(r, prediction="wrong") for r in ROWS])
    better, over_tasks_ = differences(MEASURED, other)
    assert better.means["exact_match"].mean == 50.0
    same, _ = differences(MEASURED, MEASURED)
    assert same.means["rougeL"] == resampling.Interval(0.0, 0.0, 0.0)
    assert over_tasks_.means["exact_match"].mean == pytest.approx(200 / 3)


def test_a_difference_needs_the_same_instances():
    other = measure([dataclasses.replace(ROWS[0], id="another"), *ROWS[1:]])
    with pytest.raises(ConfigError, match="prediction 1: field 'id' differs: 'id' and 'another'"):
        differences(MEASURED, other)
    with pytest.raises(ConfigError, match="3 predictions beside 4"):
        differences(MEASURED, measure(ROWS[1:]))


def test_interval_is_a_pure_function_of_values_and_seed():
    values = np.arange(20.0)
    assert resampling.mean_interval(values) == resampling.mean_interval(values)
    assert resampling.mean_interval(values) != resampling.mean_interval(values, seed=1)


def test_interval_matches_the_normal_one_for_many_values():
    values = np.random.default_rng(0).normal(50, 10, size=400)
    interval = resampling.mean_interval(values)
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.15)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.15)


def test_interval_of_one_value_is_the_value():
    assert resampling.mean_interval(np.array([3.0])) == resampling.Interval(3.0, 3.0, 3.0)


def test_bounds_keep_infinite_samples_whole():
    samples = np.array([1.0] * 90 + [np.inf] * 10)
    assert resampling.percentile_bounds(samples) == (1.0, np.inf)
