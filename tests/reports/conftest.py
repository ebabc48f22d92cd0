"""The made-up study as fixtures: as it is, edited, and reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_study import write_study

from t5x_ext.report import write_report


@pytest.fixture
def study_dir(tmp_path) -> Path:
    """The default synthetic study, all cells finished."""
    return write_study(tmp_path / "study")


@pytest.fixture(scope="session")
def reported(tmp_path_factory) -> Path:
    """The default study's report directory; tests only read it."""
    root = write_study(tmp_path_factory.mktemp("reported") / "study")
    write_report(root)
    return root / "report"


@pytest.fixture
def make_study(tmp_path) -> Callable[..., Path]:
    """Writes a study whose scores come from a function of (arm, budget, seed, task number)."""
    return lambda score: write_study(tmp_path / "study", score)


@pytest.fixture
def edit_cell() -> Callable[..., None]:
    """Changes fields in the result files whose cell directory matches a pattern."""

    def edit(root: Path, pattern: str, **fields: object) -> None:
        paths = list(root.glob(f"cells/{pattern}/result.json"))
        assert paths
        for path in paths:
            path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return edit


@pytest.fixture
def edit_predictions() -> Callable[..., None]:
    """Changes every row in the predictions files whose cell directory matches a pattern."""

    def edit(root: Path, change: Callable[[dict], dict], pattern: str = "*") -> None:
        paths = list(root.glob(f"cells/{pattern}/predictions.jsonl"))
        assert paths
        for path in paths:
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            path.write_text("".join(json.dumps(row | change(row)) + "\n" for row in rows))

    return edit
