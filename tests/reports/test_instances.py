"""Intervals over test instances: tasks and models stay, questions vary."""

from __future__ import annotations

import numpy as np
import pytest

from t5x_ext.reports.budgets.instances import instance_intervals
from t5x_ext.reports.study_files import read_study


def test_only_instances_vary(study_dir):
    found = instance_intervals(read_study(study_dir))["stl", "n100"]
    # Tasks differ by up to 20 points, which must not show. A task's mean over 4 instances at +-5
    # has a standard error of 2.5, the mean over 6 tasks 2.5 / sqrt(6).
    assert found.mean == pytest.approx(60.0)
    assert found.low == pytest.approx(60 - 1.96 * 2.5 / np.sqrt(6), abs=0.35)
    assert found.high == pytest.approx(60 + 1.96 * 2.5 / np.sqrt(6), abs=0.35)


def test_points_without_scored_predictions_are_left_out(study_dir, edit_predictions):
    (study_dir / "cells" / "stl-n10-0-3" / "predictions.jsonl").unlink()
    edit_predictions(study_dir, lambda row: {"score": None}, "mtl-n100-*")
    found = instance_intervals(read_study(study_dir))
    assert ("stl", "n10") not in found and ("mtl", "n100") not in found
    assert len(found) == 10 - 2
