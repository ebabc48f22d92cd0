"""Points, differences, claims and crossings of a study whose answers are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from t5x_ext.reports.budgets import content
from t5x_ext.reports.crossings import first_passing
from t5x_ext.reports.note_tables import stop_table
from t5x_ext.reports.score_grid import Resampler, build_grid
from t5x_ext.reports.study_files import read_study
from t5x_ext.reports.wording import budgets_phrase


def findings_of(root):
    return content.find(read_study(root))


def difference(comparisons, arm, baseline, budgets):
    return next(
        c
        for c in comparisons
        if (c.arm.name, c.baseline.name, c.budgets) == (arm, baseline, budgets)
    )


def crossing(findings, arm, baseline, budget):
    return next(
        c
        for c in findings.crossings
        if (c.arm.name, c.baseline.name, c.budget) == (arm, baseline, budget)
    )


def test_points_are_means_by_hand(study_dir):
    grid = build_grid(read_study(study_dir))
    point = grid.point("stl", "n100")
    assert point.scores.shape == (2, 6)
    assert grid.interval(point).mean == pytest.approx(60.0)
    assert (point.labels_per_task, point.share) == (100.0, 0.5)
    # Zero-shot was scored with seed 0 only, whose offset is -1; it stands for both seeds.
    zero = grid.point("stl", "n0")
    assert grid.interval(zero).mean == pytest.approx(19.0)
    assert np.array_equal(zero.scores[0], zero.scores[1])
    # Tasks 0 and 3 (offsets -10 and 6) are textual entailment.
    assert grid.category_means(point)["Textual Entailment"] == pytest.approx(58.0)


def test_interval_covers_the_mean_of_new_tasks():
    """Of 200 studies drawn from one population, about 95% have an interval that covers it."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        tasks = rng.normal(50, 10, size=40)
        scores = tasks + rng.normal(0, 2, size=(3, 40))
        interval = Resampler(3, 40).interval(scores)
        covered += interval.low <= 50 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def test_constant_difference_has_an_interval_of_no_width(study_dir):
    found = difference(findings_of(study_dir).by_budget, "stl", "stl_baseline_1", ("n100",))
    interval = found.difference
    assert (interval.mean, interval.low, interval.high) == pytest.approx((10.0, 10.0, 10.0))
    assert (found.tasks, found.seeds, found.verdict) == (6, 2, "ahead")


def test_mean_over_budgets_leaves_zero_shot_out(study_dir):
    over = findings_of(study_dir).over_budgets
    stl = difference(over, "stl", "stl_baseline_1", ("n10", "n100"))
    assert stl.difference.mean == pytest.approx((5 + 10) / 2)
    assert difference(over, "stl", "stl_baseline_2", ("n100",)).difference.mean == pytest.approx(30)


def test_claim_follows_the_intervals(study_dir):
    # MTL: -2 at 10 labels and +2 at 100 make 0, whose interval includes 0.
    claim = findings_of(study_dir).claim
    assert claim.verdict == "Partly supported"
    assert claim.meaning.endswith("“Instruction-tuned” beats the baseline in 2 of 3 cases")
    assert "cannot be told apart (difference +0.00 ROUGE-L)" in claim.sentences[2]


@pytest.mark.parametrize(
    ("advantage", "verdict", "words"),
    [(3.0, "Supported", "points above"), (-3.0, "Not supported", "points below")],
)
def test_claim_when_all_agree(make_study, advantage, verdict, words):
    def score(arm, budget, seed, task):
        return 50 + 5 * task + seed + (0 if "baseline" in arm else advantage + 0.1 * task)

    claim = findings_of(make_study(score)).claim
    assert claim.verdict == verdict
    assert all(words in sentence for sentence in claim.sentences)


def test_noise_alone_is_not_called_an_advantage(make_study):
    rng = np.random.default_rng(3)
    root = make_study(lambda *place: 50 + rng.normal(0, 8))
    assert all(c.verdict == "unclear" for c in findings_of(root).over_budgets)
    assert findings_of(root).claim.verdict == "Not supported"


def test_few_tasks_support_nothing(study_dir):
    path = study_dir / "study.json"
    grid = json.loads(path.read_text())
    path.write_text(json.dumps({**grid, "tasks": grid["tasks"][:4]}))
    findings = findings_of(study_dir)
    assert {c.verdict for c in findings.over_budgets} == {"too few tasks"}
    assert findings.claim.verdict == "Not supported"


def test_differences_pair_only_what_both_have(study_dir):
    (study_dir / "cells" / "stl-n100-1-2" / "result.json").unlink()
    (study_dir / "cells" / "stl-n100-0-2" / "result.json").unlink()
    found = difference(findings_of(study_dir).by_budget, "stl", "stl_baseline_1", ("n100",))
    assert found.tasks == 5
    assert found.difference.mean == pytest.approx(10.0)


def test_crossing_between_budgets_is_exact(study_dir):
    # 40 at 10 labels, 60 at 100: 50 is half way along the logarithm, at 10 ** 1.5 labels.
    found = crossing(findings_of(study_dir), "stl", "stl_baseline_1", "n100")
    assert found.score == pytest.approx(50.0)
    assert found.labels == pytest.approx(10**1.5)
    assert found.share == pytest.approx(10**1.5 / 200)
    assert (found.low, found.high) == pytest.approx((found.share, found.share))
    assert found.times_fewer_labels == pytest.approx(10**0.5)
    assert not found.at_most


def test_crossing_before_the_smallest_trained_budget_is_a_bound(study_dir):
    # 19 zero-shot, 40 at 10 labels: 35 lies between, where the logarithm says nothing.
    found = crossing(findings_of(study_dir), "stl", "stl_baseline_1", "n10")
    assert (found.labels, found.at_most) == (10.0, True)


def test_crossing_not_reached_and_zero_shot_enough(make_study):
    def score(arm, budget, seed, task):
        level = {"stl_baseline_1": 90, "stl_baseline_2": 5}.get(arm, 50)
        return level + task + seed

    findings = findings_of(make_study(score))
    never = crossing(findings, "stl", "stl_baseline_1", "n100")
    assert not never.reached and never.times_fewer_labels is None
    assert (never.low, never.high) == (math.inf, math.inf)
    at_once = crossing(findings, "stl", "stl_baseline_2", "n100")
    assert (at_once.share, at_once.labels, at_once.at_most) == (0.0, 0.0, False)


def test_crossing_interval_covers_the_answer_under_noise(make_study):
    rng = np.random.default_rng(5)
    levels = {"n0": 20, "n10": 40, "n100": 60}

    def score(arm, budget, seed, task):
        level = 50 if "baseline" in arm else levels[budget]
        return level + 4 * task + rng.normal(0, 3)

    found = crossing(findings_of(make_study(score)), "stl", "stl_baseline_1", "n100")
    assert found.low < 10**1.5 / 200 < found.high
    assert found.high / found.low < 4


def test_first_passing_examples():
    scores = np.array([40.0, 50.0, 60.0])
    assert first_passing(scores, 55) == 1.5
    assert first_passing(scores, 30) == 0.0
    assert first_passing(scores, 61) == math.inf
    assert first_passing(np.array([40.0, 60.0, 45.0, 70.0]), 50) == 0.5  # the first time counts


def test_leaked_tasks_leave_the_claim(study_dir, edit_cell):
    edit_cell(study_dir, "stl-n100-0-0", leaked_tasks=["task0_made_up"])
    findings = findings_of(study_dir)
    assert findings.study.leaked_tasks == ("task0_made_up",)
    assert {c.tasks for c in findings.over_budgets} == {5}
    assert findings.grids["rougeL"].point("stl", "n100").scores.shape == (2, 6)


def test_answers_that_stopped_are_told_by_arm(study_dir, edit_cell):
    assert stop_table(read_study(study_dir)) is None  # cells of earlier versions do not say
    task, other = "task0_made_up", "task1_made_up"
    edit_cell(study_dir, "stl-n10-0-0", stopped_by_task={task: 50.0})
    edit_cell(study_dir, "stl-n10-1-0", stopped_by_task={task: 100.0})
    edit_cell(study_dir, "stl-n10-0-1", stopped_by_task={other: 95.0})
    table = stop_table(read_study(study_dir))
    (row,) = table.rows
    assert row == ("STL: Instruction-tuned", "10", "85.0%", f"75.0% ({task})")


def test_summary_is_json_with_nulls_for_not_reached(make_study):
    summary = content.summary(
        findings_of(make_study(lambda arm, *rest: 90.0 if "baseline" in arm else 10.0))
    )
    text = json.dumps(summary, allow_nan=False)
    assert json.loads(text)["crossings"][0]["share"] is None
    assert summary["differences"][0]["difference"]["mean"] == pytest.approx(-80.0)


def test_budgets_phrase():
    assert budgets_phrase(["n10", "n100", "p1", "all"]) == (
        "10 and 100 labels per task, 1% of the data, all data"
    )
    assert budgets_phrase(["n200"]) == "200 labels per task"
