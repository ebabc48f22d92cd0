"""Fits to synthetic curves whose answers are known: estimates, coverage, bias, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from t5x_ext.reports import needs
from t5x_ext.reports.learning_curves import fit, fit_learning_curves
from t5x_ext.reports.score_grid import Point, Resampler, ScoreGrid
from t5x_ext.reports.study_files import Arm, Study

LABELS = np.array([10.0, 50.0, 100.0, 300.0, 1000.0])
CEILING, DROP, RATE = 70.0, 4.0, 0.4
ARM = Arm("stl", "STL", "instruct", "tk.def", tuple(f"n{n:.0f}" for n in LABELS), False, "Tuned")


def true_score(labels):
    return CEILING - DROP * (np.asarray(labels) / 1000) ** -RATE


def curve_of(scores: list[np.ndarray], labels=LABELS):
    """The fit to scores [seeds, tasks] at each budget."""
    seeds, tasks = scores[0].shape
    points = tuple(
        Point(ARM, f"n{n:.0f}", each, float(n), float(n / labels[-1]))
        for n, each in zip(labels, scores, strict=True)
    )
    names = tuple(f"task{i}" for i in range(tasks))
    grid = ScoreGrid(names, ("category",) * tasks, points, Resampler(seeds, tasks))
    study = Study(None, "", (ARM,), (), (), "", {}, (), 0)
    (curve,) = fit_learning_curves(study, grid)
    return curve


def simulated(seed: int, tasks: int = 20, noise: float = 2.0, slopes: float = 0.2):
    """Tasks of very different level, each with its own gain from labels, and noise."""
    rng = np.random.default_rng(seed)
    levels = rng.normal(0, 15, size=tasks)
    gains = rng.normal(1, slopes, size=tasks)
    return curve_of(
        [
            CEILING
            - gains * (CEILING - true_score(n))
            + (levels - levels.mean())
            + rng.normal(0, noise, size=(1, tasks))
            for n in LABELS
        ]
    )


def exact(tasks: int = 6, labels=LABELS, score=true_score):
    offsets = np.linspace(-20, 20, tasks)[None]
    return curve_of([score(n) + offsets for n in labels], labels)


def test_exact_curve_is_recovered():
    curves = fit(LABELS, np.stack([true_score(LABELS), 100 - 30 * (LABELS / 1000) ** -0.1]))
    assert curves.ceiling == pytest.approx([70, 100], abs=0.1)
    assert curves.drop == pytest.approx([4, 30], abs=0.1)
    assert curves.rate == pytest.approx([0.4, 0.1], abs=0.005)
    assert curves.scores(LABELS)[0] == pytest.approx(true_score(LABELS), abs=0.01)


def test_no_fit_leaves_the_scale():
    curves = fit(LABELS, np.array([[50.0, 70, 80, 95, 110], [50, 40, 30, 20, 10]]))
    assert curves.ceiling[0] == 100
    assert (curves.drop[1], curves.ceiling[1]) == (0.0, pytest.approx(30.0))


@pytest.mark.parametrize("labels", [200.0, 600.0, 1000.0, 1800.0])
def test_exact_curve_answers_exactly(labels):
    need = exact().need(float(true_score(labels)))
    assert (need.labels, need.low, need.high) == pytest.approx((labels,) * 3, rel=0.02)
    assert not need.refusal


def test_how_hard_tasks_are_is_not_uncertainty():
    """Levels 40 points apart and no noise: the interval is a point."""
    need = exact().need(float(true_score(600)))
    assert need.high - need.low < 1


@pytest.mark.slow
@pytest.mark.parametrize("labels", [200.0, 600.0])
def test_intervals_cover_the_answer_and_estimates_centre_on_it(labels):
    wanted = float(true_score(labels))
    needs = [simulated(seed, tasks=40).need(wanted) for seed in range(100)]
    answered = [need for need in needs if not need.refusal]
    assert len(answered) >= 95
    covered = np.mean([need.low <= labels <= need.high for need in answered])
    assert 0.9 <= covered <= 0.99
    assert np.median([need.labels for need in answered]) == pytest.approx(labels, rel=0.05)


@pytest.mark.slow
def test_the_interval_of_the_ceiling_covers_it():
    ceilings = [curve.ceiling for curve in map(simulated, range(60)) if not curve.refusal]
    assert np.mean([each.low <= CEILING <= each.high for each in ceilings]) >= 0.9


def test_more_tasks_narrow_the_interval():
    few, many = (simulated(3, tasks=n).need(float(true_score(300))) for n in (12, 120))
    assert many.high - many.low < 0.6 * (few.high - few.low)


@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        (lambda: exact(labels=LABELS[:3]), "3 budgets of different size were tried"),
        (lambda: exact(tasks=4), "4 tasks have finished at every budget; 5 are needed"),
        (lambda: exact(score=lambda n: 50.0), "scores do not clearly rise with labels"),
        (
            lambda: exact(score=lambda n: 60 - 5 * math.log10(n)),
            "scores do not clearly rise with labels",
        ),
        (lambda: exact(score=lambda n: 80.0 if n >= 300 else 40.0), "misses a budget by"),
    ],
)
def test_data_that_support_no_curve_answer_nothing(curve, reason):
    found = curve()
    need = found.need(60.0)
    assert reason in need.refusal
    assert (need.labels, need.low, need.high) == (None, None, None)


def test_noise_without_gain_is_refused():
    rng = np.random.default_rng(0)
    curves = [curve_of([50 + rng.normal(0, 5, size=(1, 20)) for _ in LABELS]) for _ in range(20)]
    assert sum("do not clearly rise" in curve.refusal for curve in curves) >= 18


def test_nothing_is_said_beyond_twice_the_largest_budget():
    curve = exact()
    assert curve.limit == 2000
    refused = curve.need(float(true_score(2500)))
    assert refused.refusal.startswith("beyond 2 times the largest budget (2,000 labels per task)")
    assert refused.labels is None
    assert not curve.need(float(true_score(1950))).refusal


def test_nothing_is_said_above_the_ceiling():
    curve = exact()
    assert curve.need(71.0).refusal == "above the curve\u2019s ceiling of 70.0 [70.0, 70.0]"


def test_an_upper_bound_past_the_limit_is_open():
    need = simulated(1).need(float(true_score(1000)))
    assert need.low < 1000 < 2000 and need.high == math.inf
    text = needs.need_table(simulated(1), [need.score]).rows[0]
    assert text[3].endswith("to more than 2,000")


def test_the_smallest_budget_may_be_enough():
    need = exact().need(30.0)
    assert (need.labels, need.at_most) == (10.0, True)


def test_targets_lie_above_the_largest_budget():
    assert exact().targets == (66.0, 67.0, 68.0, 71.0)
