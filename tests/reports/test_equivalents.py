"""How many training rows another arm's score is worth."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from t5x_ext.reports.datasets.equivalents import count_sets, equivalent_tables, find_equivalents
from t5x_ext.reports.score_grid import Point, Resampler, ScoreGrid
from t5x_ext.reports.study_files import Arm

SAMPLES = 2000


def made_up_grid(curve, target, spread=1.0):
    """One curve and one other arm on two datasets; scores of a dataset move together in a draw."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 10, (SAMPLES, 2))  # how easy the inputs drawn are

    def point(name, budget, labels, score):
        noise = rng.normal(0, spread, (SAMPLES, 2))
        arm = Arm(name, "MTL", "base", "alpaca", (budget,), False, f"arm {name}")
        scores = np.array([[score - 10, score + 10]], float)
        return Point(arm, budget, scores, labels, 0.0, scores + shared + noise)

    points = [point("curve", f"n{n}", n, score) for n, score in curve.items()]
    points.append(point("other", "n10", 0, target))
    return ScoreGrid(("a.easy", "a.hard"), ("c", "c"), tuple(points), Resampler(1, 2))


def read(grid):
    return {each.dataset: each for each in find_equivalents(grid)}


def test_rows_are_read_off_along_the_logarithm():
    found = read(made_up_grid({10: 40, 100: 50, 1000: 60}, 55))
    assert set(found) == {"", "a.easy", "a.hard"}
    for each in found.values():
        assert each.rows == pytest.approx(10**2.5)
        assert 100 < each.low < 10**2.5 < each.high < 1000
    # The mean of two datasets is known better than either.
    assert found[""].high / found[""].low < found["a.easy"].high / found["a.easy"].low


def test_how_easy_the_drawn_inputs_are_is_in_no_interval():
    """Draws of both arms share their inputs: a spread of 10 points moves neither bound."""
    found = read(made_up_grid({10: 40, 100: 50, 1000: 60}, 55, spread=0.0))[""]
    assert (found.low, found.high) == pytest.approx((10**2.5, 10**2.5))


def test_a_score_above_the_curve_is_not_reached():
    found = read(made_up_grid({10: 40, 100: 50}, 70))[""]
    assert math.isinf(found.rows) and found.refusal == "not reached"


def test_a_score_below_the_curve_takes_the_smallest_budget_or_less():
    found = read(made_up_grid({10: 40, 100: 50}, 20))[""]
    assert (found.rows, found.low, found.high, found.refusal) == (10, 10, 10, "")
    (table,) = equivalent_tables(find_equivalents(made_up_grid({10: 40, 100: 50}, 20)))
    assert table.rows[0][2] == "≤ 10\n[≤ 10, ≤ 10]"


def test_rows_of_all_sets_are_told_where_there_are_several():
    """10 to 100 rows of each of six sets: 60 to 600 people's labels."""
    found = find_equivalents(made_up_grid({10: 40, 100: 50}, 45, spread=0.0), {"curve": 6.0})
    (table,) = equivalent_tables(found)
    assert table.header[2:4] == ("mean: rows in all", "mean")
    assert table.rows[0][2:4] == ("190\n[190, 190]", "32\n[32, 32]")
    assert "6 times those per task" in table.note
    (alone,) = equivalent_tables(find_equivalents(made_up_grid({10: 40, 100: 50}, 45)))
    assert "mean: rows in all" not in alone.header and "in all" not in alone.note


def test_rows_that_every_budget_has_are_of_no_set():
    """1,000 generic rows beside six sets of 25 to 250 rows."""

    class Trained:
        def cells_of(self, arm, budget):
            return [SimpleNamespace(train_examples=1000 + 6 * int(budget[1:]))]

    grid = made_up_grid({25: 40, 250: 50}, 45)
    assert count_sets(Trained(), grid) == {"curve": 6.0}


def test_a_curve_that_does_not_rise_answers_nothing():
    found = read(made_up_grid({10: 50, 100: 50.2}, 50.1))[""]
    assert found.refusal == "no clear rise"


def test_no_curve_without_two_numbers_of_rows():
    assert find_equivalents(made_up_grid({10: 50}, 40)) == []


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Of 100 studies with another luck of test inputs, about 95 have bounds around the truth."""
    rng = np.random.default_rng(1)
    truth, held = 10**2.5, 0
    for _ in range(100):
        offset = rng.normal(0, 2, 4)
        levels = {10: 40 + offset[0], 100: 50 + offset[1], 1000: 60 + offset[2]}
        # Two datasets, each with a spread of 2 * sqrt(2): their mean has 2.
        grid = made_up_grid(levels, 55 + offset[3], spread=2 * math.sqrt(2))
        found = read(grid)[""]
        held += found.low <= truth <= found.high
    assert 88 <= held <= 100
