"""What tests of studies share."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from t5x_ext.generation import InstructionSettings, ResponseSettings
from t5x_ext.studies import self_specialization_arms, self_specialization_data
from t5x_ext.studies.cells import Cell
from t5x_ext.studies.generated_data import GeneratedKeys, wanted_rows


@pytest.fixture
def harbour(monkeypatch: pytest.MonkeyPatch) -> tuple[GeneratedKeys, Mapping[str, int], list[Cell]]:
    """Keys, wanted rows and cells of self-specialization on the bundled domain; no model."""
    monkeypatch.delenv("SPECIALIZATION_DIR", raising=False)
    asking, answering = InstructionSettings("harbour"), ResponseSettings("harbour")
    arms = self_specialization_arms("harbour", ("harbour_log",), rows=10)
    keys = GeneratedKeys(
        {d.name: d for d in self_specialization_data("harbour", asking, answering)},
        {"base": "weights"},
        {arm.name: arm for arm in arms},
        0,
        lambda arm, budget, seed: f"{arm.name} {budget.removeprefix('n')} {seed}",
        {},
    )
    cells = [Cell(f"{n:x}", arm, arm.budgets[-1], 0, ()) for n, arm in enumerate(arms)]
    return keys, wanted_rows(arms), cells
