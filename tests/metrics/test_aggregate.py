"""Means by hand and intervals that behave."""

from __future__ import annotations

import numpy as np
import pytest

from t5x_ext.metrics import aggregate
from t5x_ext.metrics.predictions import Prediction


def row(task: str, category: str, score: float) -> Prediction:
    scores = {"rougeL": score, "rouge1": score / 2, "exact_match": 0.0}
    return Prediction(task, category, "id", "", ("r",), "p", score=scores)


# Task a has three instances (mean 1/3), task b one (mean 1).
ROWS = [row("a", "X", 1.0), row("a", "X", 0.0), row("b", "Y", 1.0), row("a", "X", 0.0)]


def test_two_overall_means():
    assert aggregate.over_instances(ROWS).means["rougeL"].mean == pytest.approx(50.0)
    assert aggregate.over_tasks(ROWS).means["rougeL"].mean == pytest.approx(200 / 3)
    assert aggregate.over_tasks(ROWS).means["rouge1"].mean == pytest.approx(100 / 3)
    assert aggregate.over_tasks(ROWS).n == 2


def test_by_field_keeps_order_and_counts():
    groups = aggregate.by_field(ROWS, "category")
    assert [(g.name, g.n, round(g.means["rougeL"].mean, 6)) for g in groups] == [
        ("X", 3, 33.333333),
        ("Y", 1, 100.0),
    ]


def test_task_scores_are_percent():
    assert aggregate.task_scores(ROWS)["b"] == {
        "category": "Y",
        "n": 1,
        "rougeL": 100.0,
        "rouge1": 50.0,
        "exact_match": 0.0,
    }


def test_interval_is_a_pure_function_of_values_and_seed():
    values = np.arange(20.0)
    assert aggregate.bootstrap_interval(values) == aggregate.bootstrap_interval(values)
    assert aggregate.bootstrap_interval(values) != aggregate.bootstrap_interval(values, seed=1)


def test_interval_matches_the_normal_one_for_many_values():
    values = np.random.default_rng(0).normal(50, 10, size=400)
    interval = aggregate.bootstrap_interval(values)
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.15)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.15)


def test_interval_of_one_value_is_the_value():
    assert aggregate.bootstrap_interval(np.array([3.0])) == aggregate.Interval(3.0, 3.0, 3.0)


def test_bounds_keep_infinite_samples_whole():
    samples = np.array([1.0] * 90 + [np.inf] * 10)
    assert aggregate.percentile_bounds(samples) == (1.0, np.inf)
