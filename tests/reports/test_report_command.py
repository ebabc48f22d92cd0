"""The report command: files, escaping, self-containedness, figures, errors."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_ext import report
from t5x_ext.reports import csv_files
from t5x_ext.reports.budgets import paper
from t5x_ext.reports.documents import html, markdown
from t5x_ext.reports.documents.document import Sample


class _Tags(HTMLParser):
    """Collects tags, links and whether every tag is closed in order."""

    VOID = {"meta", "img", "input"}

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.open = set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_all_files_are_there(reported):
    names = {path.name for path in reported.iterdir()}
    figures = {f"{n}.{k}" for n in ("scores", "differences", "categories") for k in ("png", "svg")}
    assert names == {"index.html", "report.md", "results.csv", "summary.csv"} | figures
    assert (reported / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_page_is_one_file_without_requests(reported):
    page = (reported / "index.html").read_text()
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    assert "link" not in tags.tags
    outside = [link for link in tags.links if not link.startswith("#")]
    assert len(outside) == 2
    assert all(link.startswith("data:image/svg+xml;base64,") for link in outside)
    assert "url(" not in page and "@import" not in page
    assert len(page) < 500_000


def test_only_the_packaged_script_may_run(reported):
    page = (reported / "index.html").read_text()
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert scripts == [(Path(html.__file__).parent / "report.js").read_text()]
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy"\s+content="([^"]*)"', page)
    assert re.findall(r"script-src [^;]*", policy) == [f"script-src 'sha256-{digest}'"]
    assert "default-src 'none'" in policy
    assert not re.search(r"<[^>]*\son[a-z]+=", page)


def test_page_is_complete_without_its_script(reported):
    page = (reported / "index.html").read_text()
    panels = re.findall(
        r'<div class="panel" data-setting="(\w+)" data-category="([^"]*)"(.*?)>', page
    )
    shown = [(setting, category) for setting, category, hidden in panels if not hidden]
    assert shown == [("STL", ""), ("MTL", "")]
    assert len(panels) == 2 * (1 + 3)
    # Every value is there as text, for the browser's own tooltips.
    assert "<title>Instruction-tuned\nROUGE-L 60.00 [54.67, 65.67]\n" in page
    assert '<form class="controls" autocomplete="off" hidden>' in page


def test_model_output_is_escaped_in_page_and_markdown(reported):
    page = (reported / "index.html").read_text()
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in page
    assert "&lt;b&gt;answer&lt;/b&gt;" in page
    text = (reported / "report.md").read_text()
    outside_code = re.sub(r"^(`{3,})text\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<script>" in text and "<script>" not in outside_code


def test_fence_outgrows_the_back_ticks_inside():
    sample = Sample("t", "a ```` b", ("r",), ())
    assert "`````text\na ```` b\n`````" in markdown.render_block(sample)


def test_results_csv_has_a_row_per_cell_and_task(reported):
    rows = list(csv.DictReader((reported / "results.csv").open()))
    assert len(rows) == 66 + 8 * 6
    row = next(r for r in rows if (r["key"], r["task"]) == ("stl-n100-1-1", "task1_made_up"))
    assert (float(row["rougeL"]), row["train_examples"], row["seed"]) == (71.0, "100", "1")


def test_summary_csv_has_overall_and_categories(reported):
    rows = list(csv.DictReader((reported / "summary.csv").open()))
    row = next(
        r for r in rows if (r["arm"], r["budget"], r["scope"]) == ("mtl", "n10", "Data to Text")
    )
    # Tasks 2 and 5: offsets -6 and 2.
    assert float(row["rougeL"]) == pytest.approx(48.0)
    assert float(row["rouge1"]) == pytest.approx(49.0)
    assert float(row["rougeL_over_instances"]) == pytest.approx(48.0)
    assert (row["tasks"], row["seeds"]) == ("2", "2")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\n=x", "＝1", "'=1"])
def test_formulas_are_neutralised(text):
    assert csv_files.neutralise(text) == "'" + text


def test_numbers_and_plain_text_are_left_alone():
    assert csv_files.neutralise(-1.5) == -1.5
    assert csv_files.neutralise("a=b") == "a=b"
    assert csv_files.neutralise("") == ""


@settings(deadline=None)
@given(st.text(alphabet="=+-@'\t\r\n\",; a＝", max_size=6))
def test_texts_come_back_from_csv(text):
    """Dropping one leading apostrophe undoes it, for every text, quotes and line ends included."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "table.csv"
        csv_files._write(path, ("text", "number"), [(text, -1.5)])
        with path.open(newline="", encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
    assert row["text"].removeprefix("'") == text
    assert not row["text"].startswith(tuple("=+-@\t\r\n＝"))
    assert row["number"] == "-1.5"


def test_labels_reach_the_csv_neutralised(study_dir):
    path = study_dir / "study.json"
    study = json.loads(path.read_text())
    study["arms"][0]["label"] = "=HYPERLINK()"
    path.write_text(json.dumps(study))
    report.write_report(study_dir)
    rows = list(csv.DictReader((study_dir / "report" / "results.csv").open()))
    assert {r["label"] for r in rows if r["arm"] == "stl"} == {"'=HYPERLINK()"}


def test_notes_name_leaks_short_tasks_and_truncation(study_dir, edit_cell):
    edit_cell(
        study_dir,
        "stl-n100-0-0",
        leaked_tasks=["task0_made_up"],
        short_tasks={"task0_made_up": 26},
        truncated_by_task={"task0_made_up": [5, 3]},
        targets_truncated_by_task={"task0_made_up": 7, "other data": 2},
    )
    report.write_report(study_dir)
    text = (study_dir / "report" / "report.md").read_text()
    assert "1 of 6 tasks were tested on rows they were trained on" in text
    assert r"| task0\_made\_up | 100 | 26 |" in text
    assert r"| task0\_made\_up | ql.def\_pos2 | 3 of 4 | 5 |" in text
    assert r"| task0\_made\_up | 7 of 100 |" in text and "| other data | 2 |" in text


def test_models_that_diverged_are_counted(study_dir, edit_cell):
    edit_cell(study_dir, "stl-n100-0-0", train_loss=[3.0, None])
    report.write_report(study_dir)
    text = (study_dir / "report" / "report.md").read_text()
    assert "1 of 74 models diverged" in text and "in stl n100" in text


@pytest.mark.parametrize("score", [0.0, 50.0, 100.0])
def test_scores_that_are_all_the_same_have_a_figure(study_dir, score):
    for path in (study_dir / "cells").glob("*/result.json"):
        result = json.loads(path.read_text())
        for task in result["scores"]["by_task"].values():
            task["rougeL"] = score
        path.write_text(json.dumps(result))
        (path.parent / "predictions.jsonl").unlink()  # of other scores
    report.write_report(study_dir)
    assert "Score against budget" in (study_dir / "report" / "index.html").read_text()


def test_unfinished_study_says_so(study_dir, capsys):
    (study_dir / "cells" / "stl-n10-0-3" / "result.json").unlink()
    assert report.main([str(study_dir)]) == 0
    assert "73 cells, scores still missing: 1" in capsys.readouterr().out
    assert "This study is unfinished." in (study_dir / "report/index.html").read_text()


def test_study_with_one_finished_cell_has_a_report(study_dir):
    for path in study_dir.glob("cells/*/result.json"):
        if path.parent.name != "stl-n10-0-3":
            path.unlink()
    assert report.write_report(study_dir)["claim"]["verdict"] == "Not tested"
    assert not (study_dir / "report" / "differences.png").exists()


def test_same_study_gives_the_same_bytes(study_dir):
    def files():
        report.write_report(study_dir)
        return {p.name: p.read_bytes() for p in (study_dir / "report").iterdir()}

    assert files() == files()


def test_paper_numbers_stand_beside_ours(reported):
    text = (reported / "report.md").read_text()
    row = r"| STL | instruction-tuned \(proposed\) | 100 | 65.93 | 60.00 \[54.67, 65.67\] |"
    assert row.replace(r"\(", "(").replace(r"\)", ")") in text
    assert "| STL | baseline 3: pretrained, supervised state of the art | all | 70.99 | – |" in text


def test_the_paper_stands_beside_studies_of_its_arms_only(study_dir):
    for path in (study_dir / "study.json", *study_dir.glob("cells/*/result.json")):
        path.write_text(path.read_text().replace('"stl', '"own').replace('"mtl', '"all'))
    report.write_report(study_dir)
    text = (study_dir / "report" / "report.md").read_text()
    assert "## By category" in text and "Beside the paper" not in text


def test_arms_with_recipes_of_their_own_have_no_common_learning_rate(study_dir):
    def remark() -> str:
        report.write_report(study_dir)
        text = (study_dir / "report" / "report.md").read_text()
        return text.partition("Each starting model was tuned once, and ")[2].partition(".")[0]

    assert remark() == "all models at one learning rate"
    path = study_dir / "study.json"
    study = json.loads(path.read_text())
    study["arms"][1]["recipe"] = {"type": "Recipe", "learning_rate": 1e-3}
    path.write_text(json.dumps(study))
    assert remark() == "the models of an arm at one learning rate"


@pytest.mark.parametrize("arm", ["stl_baseline_2", "stl_baseline_3"])
def test_paper_rows_are_consistent_with_its_overall_scores(arm):
    (_, budget), values = next(item for item in paper.BY_CATEGORY.items() if item[0][0] == arm)
    weighted = sum(n * value for n, value in zip(paper.TASKS_PER_COLUMN, values, strict=True))
    assert weighted / 119 == pytest.approx(paper.OVERALL["STL"][arm, budget], abs=0.02)


def test_json_is_one_object(study_dir, capsys):
    assert report.main([str(study_dir), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings["finished_cells"] == 74
    assert findings["page"].endswith("report/index.html")


def test_targets_are_answered_or_refused_in_words(study_dir, capsys):
    assert report.main([str(study_dir), "--target", "55", "--json"]) == 0
    curves = json.loads(capsys.readouterr().out)["learning_curves"]
    assert [curve["arm"] for curve in curves] == ["stl", "mtl"]
    reason = "2 budgets of different size were tried; a curve with a ceiling needs 4"
    assert {curve["needs"][0]["refusal"] for curve in curves} == {reason}
    assert f"no answer, because {reason}." in (study_dir / "report/index.html").read_text()
    assert report.main([str(study_dir), "--target", "55"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith(("STL", "MTL"))] == [
        f"STL, stl, ROUGE-L 55: no answer: {reason}",
        f"MTL, mtl, ROUGE-L 55: no answer: {reason}",
    ]


@pytest.mark.parametrize("text", ["101", "-1", "nan", "high"])
def test_target_that_is_no_score_is_a_usage_error(text, capsys):
    with pytest.raises(SystemExit) as error:
        report.main(["anywhere", f"--target={text}"])
    assert error.value.code == 2
    assert "argument --target" in capsys.readouterr().err


def test_wrong_directory_is_one_line(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {tmp_path}: no study.json here")
    assert captured.err.count("\n") == 1


def test_report_needs_neither_jax_nor_tensorflow():
    code = (
        "import sys, t5x_ext.report, t5x_ext.reports.budgets.content;"
        "import t5x_ext.reports.documents.html;"
        "print([m for m in ('jax', 'tensorflow', 'seqio') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_full_disk_is_named(study_dir, capsys):
    (study_dir / "report").mkdir()
    (study_dir / "report" / "results.csv").symlink_to("/dev/full")
    assert report.main([str(study_dir)]) == 1
    said = capsys.readouterr().err
    written = study_dir / "report" / "results.csv"
    assert said == f"error: {written}: cannot be written (No space left on device)\n"
