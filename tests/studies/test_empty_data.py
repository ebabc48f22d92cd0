"""Generated data of which no row was kept: its cells are left out, and all others run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from t5x_ext.studies import store
from t5x_ext.studies.cells import Cell
from t5x_ext.studies.generation import Generation

# Round 2 is written by the adapter of ss_r1_docs5, which has nothing to be tuned on.
NEVER = {"ss_r1_docs5", "ss_r2", "ss_r2_same", "ss_r2_greedy"}


class Silent(Generation):
    """Models that write, of which one keeps nothing."""

    def _write(self, data: Any, count: int, tasks_dir: Path, directory: Path) -> Counter[str]:
        self.written = [*getattr(self, "written", ()), data.name]
        if data.name == "r1_docs5":
            return Counter()  # no task to answer: there is no file
        (directory / "train.jsonl").parent.mkdir(parents=True, exist_ok=True)
        (directory / "train.jsonl").write_text('{"input": "a", "output": "b"}\n')
        return Counter(kept=count)


@pytest.fixture
def generation(tmp_path: Path, harbour: Any) -> tuple[Silent, list[Cell]]:
    keys, wanted, cells = harbour
    unused: Any = None  # what has models
    (tmp_path / "generated").mkdir()
    return Silent(keys, wanted, unused, unused, epath.Path(tmp_path)), cells


def test_only_the_cells_that_lack_their_rows_are_left_out(generation: Any, capsys: Any) -> None:
    made, cells = generation
    names = {cell.arm.name for cell in cells}
    for _ in range(2):
        done = {cell.arm.name for some in made.waves(cells) for cell in some}
        assert done == names - NEVER
        said = capsys.readouterr().err
        assert "generated data r1_docs5: no row to train on was kept; left out: ss_r1_d" in said
        assert "generated data r2: no row to train on was kept; left out: ss_r2" in said
        assert made.written.count("r1_docs5") == 1  # and once for all
    assert {cell.arm.name for cell in cells if made.lacks_rows(cell)} == NEVER
    path = store.generated_dir(made.study_dir, made.keys.rows("r1_docs5")) / store.MADE
    assert json.loads(path.read_text())["answers"] == {"kept": 0}


def test_more_rows_than_were_asked_for_are_tried_again(generation: Any) -> None:
    made, cells = generation
    made.make("r1_docs5")
    assert any(map(made.lacks_rows, cells))
    made.wanted["r1_docs5"] += 1
    assert not any(map(made.lacks_rows, cells))
