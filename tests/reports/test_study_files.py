"""Reading study directories: what counts, what is ignored, what is refused."""

from __future__ import annotations

import json

import pytest

from t5x_ext.errors import ConfigError
from t5x_ext.reports.study_files import read_study


def edit_study(root, **fields):
    path = root / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_counts_cells_and_finds_nothing_missing(study_dir):
    study = read_study(study_dir)
    # 6 zero-shot + 2 x 2 x 6 + 2 x 2 x 6 + 2 x 6 single-task cells, 2 x 2 x 2 multi-task ones.
    assert len(study.cells) == 6 + 24 + 24 + 12 + 8
    assert study.missing_scores() == {}
    assert study.unfinished_cells == 0


def test_unfinished_cells_are_counted_by_place(study_dir):
    (study_dir / "cells" / "stl-n10-0-3" / "result.json").unlink()
    (study_dir / "cells" / "mtl-n100-1-0-1-2-3-4-5" / "result.json").unlink()
    study = read_study(study_dir)
    assert study.unfinished_cells == 2
    assert study.missing_scores() == {("stl", "n10"): 1, ("mtl", "n100"): 6}


def test_cells_outside_the_grid_are_ignored(study_dir, edit_cell):
    edit_cell(study_dir, "stl-n10-0-*", seed=9)
    edit_cell(study_dir, "stl_baseline_2-n100-0-0", arm="removed")
    study = read_study(study_dir)
    assert study.missing_scores() == {("stl", "n10"): 6, ("stl_baseline_2", "n100"): 1}


def test_listed_cells_shut_out_leftovers(study_dir, edit_cell):
    keys = [path.name for path in (study_dir / "cells").iterdir()]
    leftover = study_dir / "cells" / "old"
    leftover.mkdir()
    source = study_dir / "cells" / keys[0] / "result.json"
    (leftover / "result.json").write_bytes(source.read_bytes())
    with pytest.raises(ConfigError, match="both hold arm"):
        read_study(study_dir)
    edit_study(study_dir, cells=[*keys, "not_begun"])
    study = read_study(study_dir)
    assert (len(study.cells), study.unfinished_cells) == (len(keys), 1)


def test_no_study_and_no_finished_cell_are_one_line(tmp_path, study_dir):
    with pytest.raises(ConfigError, match="nowhere: no study.json here"):
        read_study(tmp_path / "nowhere")
    for path in study_dir.glob("cells/*/result.json"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"no finished cell yet \(74 unfinished\)"):
        read_study(study_dir)


def test_cells_of_another_configuration_are_counted_where_none_of_this_one_has_finished(study_dir):
    edit_study(study_dir, cells=["not_begun"])
    finished = len(list((study_dir / "cells").glob("*/result.json")))
    with pytest.raises(ConfigError, match=rf"1 unfinished, {finished} finished of another conf"):
        read_study(study_dir)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": "0"}, "field 'seed': \"0\"; allowed: an integer"),
        ({"train_secs": True}, "field 'train_secs': true; allowed: a number, 0 and more"),
        ({"scores": {}}, "field 'scores.by_task': missing; allowed: an object"),
        (
            {"scores": {"by_task": {"task0_made_up": {"n": 4}}}},
            "field 'scores.by_task.task0_made_up.rougeL': missing; allowed: a number, 0 to 100",
        ),
        (
            {"truncated_by_task": {"task0_made_up": 3}},
            "field 'truncated_by_task.task0_made_up': 3; allowed: a list of two integers, 0 and "
            "more",
        ),
    ],
)
def test_malformed_result_names_file_and_field(study_dir, edit_cell, fields, message):
    edit_cell(study_dir, "stl-n10-0-0", **fields)
    with pytest.raises(ConfigError) as error:
        read_study(study_dir)
    assert str(error.value) == f"{study_dir}/cells/stl-n10-0-0/result.json: {message}"


def test_unknown_setting_is_refused(study_dir):
    arms = json.loads((study_dir / "study.json").read_text())["arms"]
    edit_study(study_dir, arms=[{**arms[0], "setting": "XTL"}])
    with pytest.raises(ConfigError, match=r"field 'arms\[0\].setting': \"XTL\"; allowed: STL, MTL"):
        read_study(study_dir)
