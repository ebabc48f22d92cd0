"""Reports of studies whose datasets have their own metrics: arms by datasets."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from dataset_study import ANSWERS, HALF, METRICS, RIGHT, SIZE, WRONG, row_of, rows_of, write_study

from mixtures.writing.m2 import Edit
from t5x_ext import report
from t5x_ext.errors import ConfigError
from t5x_ext.metrics import METRICS as DEFAULT
from t5x_ext.metrics import (
    Prediction,
    measure,
    read_predictions,
    score_rows,
    task_scores,
    write_predictions,
)
from t5x_ext.metrics.aggregate import over_instances
from t5x_ext.reports.datasets.content import state_claim
from t5x_ext.reports.datasets.scores import BOUNDS, DatasetScores, Row, score_datasets
from t5x_ext.reports.datasets.tables import (
    difference_tables,
    metric_title,
    score_table,
    trait_table,
)
from t5x_ext.reports.datasets.training_tables import source_table, tuning_table
from t5x_ext.reports.datasets.wording_tables import wording_table
from t5x_ext.reports.documents.edit_marks import mark_edits
from t5x_ext.reports.study_files import read_study
from t5x_ext.reports.wording import ABSENT


@pytest.fixture(scope="module")
def study_dir(tmp_path_factory) -> Path:
    return write_study(tmp_path_factory.mktemp("datasets") / "study")


@pytest.fixture(scope="module")
def scores(study_dir) -> DatasetScores:
    return score_datasets(read_study(study_dir))


def value(scores: DatasetScores, row: Row, task: str, name: str) -> float:
    (place,) = [i for i, c in enumerate(scores.columns) if (c.task, c.metric.name) == (task, name)]
    return float(row.values[place])


def test_every_score_is_that_of_the_score_command(scores):
    row = row_of(scores, "some", "n10")
    for task, metrics in METRICS.items():
        measured = measure(rows_of(task, ANSWERS["some", "n10"]), metrics)
        for key, found in over_instances(measured).means.items():
            name = next(c.metric.name for c in measured.columns if c.metric.key == key)
            assert value(scores, row, task, name) == pytest.approx(found.mean, abs=1e-9)


def test_mean_is_over_the_first_metric_of_each_dataset(scores):
    row = row_of(scores, "some", "n10")
    first = [
        value(scores, row, "writing.fix", "errant"),
        value(scores, row, "writing.plain", "sari"),
    ]
    assert row.interval(scores.heads).mean == pytest.approx(np.mean(first))


def test_copying_is_the_floor_and_proposes_no_edit(scores):
    copy, reference = scores.bounds
    assert value(scores, copy, "writing.fix", "unchanged") == 100
    assert value(scores, copy, "writing.fix", "edit_distance") == 0
    assert value(scores, copy, "writing.fix", "errant") == 0
    assert value(scores, reference, "writing.fix", "errant") == 100
    place = [i for i, column in enumerate(scores.columns) if column.metric.name == "errant"]
    assert copy.parts[place[0]].tolist() == [100, 0, 0]


def test_the_first_reference_is_scored_against_the_others():
    """As a person's answer would be; where there is one alone, it is the ceiling."""
    rows = [
        Prediction("t", "c", "0", "", (HALF, RIGHT), "said", source=WRONG),
        Prediction("t", "c", "1", "", (RIGHT,), "said", source=WRONG),
        Prediction("self.d.log", "c", "2", "", ("a cat", "cat"), "said"),
    ]
    edits = {0: (Edit(1, 2, ("plays",)),), 1: ()}
    rows.append(dataclasses.replace(rows[0], edits=edits))
    _, answered = BOUNDS["reference_0"]
    found = answered(rows)
    assert [row.prediction for row in found] == [HALF, RIGHT, "a cat", HALF]
    assert [row.references for row in found] == [(RIGHT,), (RIGHT,), ("a cat", "cat"), (RIGHT,)]
    assert found[3].edits == {1: ()}


def test_equal_outputs_differ_by_exactly_nothing(scores):
    copy, base = scores.bounds[0], row_of(scores, "base", "n0")
    apart = base.above(copy, scores.heads)
    assert (apart.mean, apart.low, apart.high) == (0, 0, 0)
    # Each by itself is uncertain all the same.
    some = row_of(scores, "some", "n10")
    assert some.interval(scores.heads).high - some.interval(scores.heads).low > 5


def test_difference_is_taken_draw_by_draw(scores):
    ours, theirs = row_of(scores, "most", "n100"), row_of(scores, "base", "n0")
    apart = ours.above(theirs, [0])
    assert apart.mean == pytest.approx(ours.values[0] - theirs.values[0])
    assert apart.low > 0


def test_datasets_of_one_size_are_drawn_independently(scores):
    row = row_of(scores, "some", "n10")
    drawn = row.draws[:, scores.heads].T
    assert abs(np.corrcoef(drawn)[0, 1]) < 0.1


def test_inputs_that_repeat_are_drawn_together(scores, tmp_path):
    """Three answers to each input say no more than one."""
    repeated = score_datasets(read_study(write_study(tmp_path / "study", repeat=3)))
    once, thrice = (row_of(each, "some", "n10").interval(each.heads) for each in (scores, repeated))
    assert dataclasses.astuple(thrice) == pytest.approx(dataclasses.astuple(once))


def test_seeds_are_averaged_and_one_zero_shot_run_stands_for_all(tmp_path):
    scores = score_datasets(read_study(write_study(tmp_path / "study", seeds=(0, 1))))
    row = row_of(scores, "some", "n10")
    assert row.by_seed.shape == (2, len(scores.columns))
    assert row.values == pytest.approx(row.by_seed[1])  # both seeds answered alike
    assert row_of(scores, "base", "n0").has(scores.heads)


def test_no_column_holds_two_metrics(scores):
    table = score_table(scores)
    assert table.groups == (("", 3), ("fix", 2), ("plain", 2))
    assert len(set(table.header)) == len(table.header)
    assert "SARI [easse, 13a, lower]" in table.header and "SARI [hf, 13a, lower]" in table.header
    assert "tokens by sacrebleu's 13a" in table.note


def test_differences_are_marked_where_the_interval_leaves_out_zero(scores):
    tables = difference_tables(scores)
    assert [t.caption for t in tables] == ["Points above “arm base”", "Points above “arm some”"]
    most = next(row for row in tables[0].rows if row[:2] == ("arm most", "600\n(100 per task)"))
    assert " ▲\n[+" in most[2]


def test_predictions_of_another_cell_are_refused(tmp_path):
    root = write_study(tmp_path / "study")
    path = root / "cells" / "some-n10-0" / "predictions.jsonl"
    path.write_text((root / "cells" / "most-n100-0" / "predictions.jsonl").read_text())
    with pytest.raises(
        ConfigError, match=r"some-n10-0/predictions.jsonl: task 'writing.fix': .* in"
    ):
        score_datasets(read_study(root))


def test_other_instances_are_refused(tmp_path):
    root = write_study(tmp_path / "study")
    path = root / "cells" / "some-n10-0" / "predictions.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(ConfigError, match="other instances than in other cells"):
        score_datasets(read_study(root))


def test_unknown_metric_of_a_task_is_refused(tmp_path):
    root = write_study(tmp_path / "study")
    study = json.loads((root / "study.json").read_text())
    study["tasks"][0]["metrics"] = ["gleux"]
    (root / "study.json").write_text(json.dumps(study))
    with pytest.raises(ConfigError, match=r"tasks\[0\].metrics'.*allowed: a list of metrics"):
        read_study(root)


def test_arm_without_a_dataset_has_no_mean(tmp_path):
    root = write_study(tmp_path / "study")
    path = root / "cells" / "some-n10-0" / "result.json"
    result = json.loads(path.read_text())
    del result["scores"]["by_task"]["writing.plain"]
    path.write_text(json.dumps(result))
    found = score_datasets(read_study(root))
    table = score_table(found)
    some = next(row for row in table.rows if row[0] == "arm some")
    assert some[2] == some[-1] == ABSENT and some[3] != ABSENT


def test_report_has_tables_examples_and_csv(study_dir):
    summary = report.write_report(study_dir)
    assert summary["claim"]["verdict"] == "Highest score"
    assert "arm most, 100 rows per task" in summary["claim"]["meaning"]
    page = (study_dir / "report" / "index.html").read_text()
    assert "<del>play</del> <ins>plays</ins>" in page
    assert "<script>alert" not in page and "alert(" in page
    assert re.search(r"<td class=\"n\">[\d.]+<br><small>\[", page)
    text = (study_dir / "report" / "report.md").read_text()
    cost = "| 250,000 | 12.5% | 7.6 MiB | 20 | 30.0 s | 1.50 s | 0.0 s |"
    assert f"| arm some | 510 (10 per task) {cost}" in text
    assert (
        "Points above “arm base”" in text
        and "| arm most | 600 (100 per task) |" in text.replace("*", "")
    )
    rows = list(csv.DictReader((study_dir / "report" / "datasets.csv").open()))
    assert {r["arm"] for r in rows} == {"base", "some", "most", "copy", "reference_0"}
    assert not any(r["budget"] for r in rows if r["arm"] in ("copy", "reference_0"))
    copy = next(r for r in rows if r["arm"] == "copy" and r["metric"] == "unchanged")
    assert (float(copy["score"]), copy["above_base"]) == (100, "0.0")
    one = next(r for r in rows if r["arm"] == "most" and r["metric"].startswith("sari[easse"))
    assert float(one["above_base_low"]) <= float(one["above_base"]) <= float(one["above_base_high"])


def test_the_claim_names_a_floor_that_no_arm_reaches(tmp_path):
    found = score_datasets(read_study(write_study(tmp_path / "study")))
    copy, reference = found.bounds
    for score, sentences in ((0.0, []), (99.5, ["which takes no model, scores higher: 99.50."])):
        floor = dataclasses.replace(copy, by_seed=np.full_like(copy.by_seed, score))
        claim = state_claim(dataclasses.replace(found, bounds=(floor, reference)))
        assert [s.partition("”, ")[2] for s in claim.sentences if "no model" in s] == sentences


def test_targets_are_answered_or_refused_in_words(study_dir, capsys):
    assert report.main([str(study_dir), "--target", "90"]) == 0
    shown = capsys.readouterr().out
    assert "MTL, most, mean score 90: no answer: 2 budgets of different size" in shown


def test_titles_name_the_variant():
    assert metric_title("gleu[gec,python3]") == "GLEU [gec, python3]"
    assert metric_title("rougeL") == "ROUGE-L"
    assert metric_title("label_accuracy") == "label accuracy"


def test_edit_marks_give_both_texts_back():
    marks = mark_edits(WRONG, RIGHT)
    kept = {"keep", "delete"}
    assert " ".join(text for kind, text in marks if kind in kept) == WRONG
    assert " ".join(text for kind, text in marks if kind != "delete") == RIGHT


def test_traits_of_outputs():
    def traits(answer: str) -> dict[str, float]:
        row = Prediction("t", "c", "1", "", (RIGHT,), answer, source=WRONG)
        (scored,) = score_rows([row], ["unchanged", "empty", "run_away", "edit_distance"])
        return scored.score or {}

    assert traits(WRONG.replace(" ,", ","))["edit_distance"] == 0  # copies in natural text too
    assert traits(RIGHT)["edit_distance"] == pytest.approx(4 / 11)  # two words, each gone and new
    assert traits("and so on " * 20)["run_away"] == 1
    assert traits(RIGHT)["run_away"] == traits("")["run_away"] == 0


def test_over_correction_counts_texts_that_were_right():
    def row(source: str, references: tuple[str, ...], answer: str) -> Prediction:
        return Prediction("t", "c", "1", "", references, answer, source=source)

    rows = [
        row(RIGHT, (RIGHT,), RIGHT.replace(" .", ".")),  # left alone
        row(RIGHT, (RIGHT, RIGHT), HALF),  # spoilt
        row(RIGHT, (RIGHT, HALF), HALF),  # one reference changes it too
        row(WRONG, (RIGHT,), HALF),
    ]
    (column,) = measure(rows, ["over_corrected"]).columns
    assert column.statistics.tolist() == [[0, 1], [1, 1], [0, 0], [0, 0]]
    assert column.metric.finish(column.statistics.sum(axis=0)) == 0.5


def test_over_correction_is_reported_where_a_text_is_right(tmp_path, scores):
    assert not scores.trait("over_corrected")  # every source has a fault
    root = write_study(tmp_path / "study")
    for path in root.glob("cells/*/predictions.jsonl"):
        rows = [
            dataclasses.replace(row, source=row.references[0]) if row.id.endswith("-3-0") else row
            for row in read_predictions(path)
        ]
        write_predictions(path, rows)
        result = json.loads((path.parent / "result.json").read_text())
        for task, metrics in METRICS.items():
            own = [row for row in rows if row.task == task]
            result["scores"]["by_task"] |= task_scores(measure(own, metrics, always=DEFAULT))
        (path.parent / "result.json").write_text(json.dumps(result))
    found = score_datasets(read_study(root))
    places = found.trait("over_corrected")
    assert len(places) == len(METRICS)
    means = {(row.arm, row.budget): row.values[places].mean() for row in found.rows}
    assert means["base", "n0"] == means["most", "n10"] == 100  # WRONG and HALF for what was right
    assert means["most", "n100"] == 0


def test_share_of_answers_that_stopped_is_that_of_their_finishes(scores):
    places = scores.trait("stopped")
    assert len(places) == len(METRICS)
    by_arm = {(row.arm, row.budget): row.values[places].mean() for row in scores.rows}
    assert by_arm["most", "n100"] == pytest.approx(100 * (SIZE - 1) / SIZE)
    assert by_arm["most", "n10"] == by_arm["base", "n0"] == 100
    assert not any(row.has(places) for row in scores.bounds)  # nobody decoded these


def test_training_is_told_with_its_sources_passes_and_memory(study_dir, scores):
    study = read_study(study_dir)
    table = source_table(study, scores)
    assert table is not None
    assert table.rows[-1] == (
        "arm most, 100 rows per task",
        "generic 500, fluency 100",
        "600",
        "2.50",
    )
    cost = tuning_table(study, scores)
    place = cost.header.index("weights, gradients, moments")
    # 5 MB of weights, 12 bytes for each of 250,000 parameters that are tuned
    assert {row[place] for row in cost.rows} == {f"{8e6 / 2**20:.1f} MiB"}
    older = [dataclasses.replace(c, parameter_bytes=0, sources={}) for c in study.cells]
    study = dataclasses.replace(study, cells=tuple(older))
    assert source_table(study, scores) is None
    assert tuning_table(study, scores).rows[0][place] == f"{11e6 / 2**20:.1f} MiB"


def test_wordings_of_an_instruction_have_their_mean_and_worst(tmp_path, monkeypatch, scores):
    assert wording_table(scores) is None
    for name in ("writing.fix.w1", "writing.fix.w2"):
        monkeypatch.setitem(METRICS, name, ("errant",))
    found = score_datasets(read_study(write_study(tmp_path / "study")))
    places = {c.task: i for i, c in enumerate(found.columns) if c.metric.name == "errant"}
    by_seed = found.rows[0].by_seed.copy()
    for task, score in (("writing.fix", 50), ("writing.fix.w1", 40), ("writing.fix.w2", 10)):
        by_seed[:, places[task]] = score
    row = dataclasses.replace(found.rows[0], by_seed=by_seed)
    table = wording_table(dataclasses.replace(found, rows=(row,)))
    assert table is not None
    assert table.groups == (("", 2), ("fix: ERRANT", 3))
    assert table.rows[0][2:] == ("50.00", "25.00", "10.00")


def test_rows_without_a_finish_have_no_share_that_stopped(tmp_path):
    root = write_study(tmp_path / "study")
    path = root / "cells" / "most-n100-0" / "predictions.jsonl"
    older = [dataclasses.replace(row, finish=None) for row in read_predictions(path)]
    write_predictions(path, older)
    scores = score_datasets(read_study(root))
    (row,) = (row for row in scores.rows if row.budget == "n100")
    assert not row.has(scores.trait("stopped")) and row.has(scores.trait("run_away"))


def test_notes_of_outputs_explain_the_columns_that_are_there(study_dir, scores):
    table = trait_table(read_study(study_dir), scores)
    for title, explained in (
        ("unchanged, %", "Unchanged: "),
        ("over-corrected, %", "Over-corrected: "),
        ("stopped, %", "Stopped: "),
        ("edits per 100 words", "Edits: "),
    ):
        assert (explained in table.note) == (title in table.header)
    assert "over-corrected, %" not in table.header  # every text of the study has something to mend
