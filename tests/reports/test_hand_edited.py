"""Studies whose files were edited by hand: one clear line, or a report that is sound."""

from __future__ import annotations

import copy
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from made_up_study import write_study

from t5x_ext.errors import ConfigError
from t5x_ext.report import write_report
from t5x_ext.reports.documents.document import escape
from t5x_ext.reports.study_files import read_study

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))
from fuzzing import HOSTILE_TEXTS, fuzz, mutated, outcome, texts, to_json  # noqa: E402

HOSTILE = "\0\x1b]0;x\x07<b>\n&\x9f\ufffe"
CELL = "cells/stl-n10-0-0/result.json"
SCORES = "scores.by_task.task0_made_up."
REFUSED = [
    ("study.json", "arms", {}, "field 'arms': {}; allowed: a list"),
    ("study.json", "arms", [], "field 'arms': []; allowed: a list of objects, at least one"),
    ("study.json", "arms.1", ["a"], "field 'arms[1]': not a JSON object"),
    ("study.json", "arms.1.name", "stl", "field 'arms[1].name': \"stl\"; allowed: another name"),
    ("study.json", "arms.0.budgets", ["n10", "n10"], "field 'arms[0].budgets': "),
    ("study.json", "arms.0.budgets", [["n10"]], "field 'arms[0].budgets': "),
    ("study.json", "arms.0.budgets", ["ten"], "field 'arms[0].budgets': "),
    ("study.json", "arms.0.label", ["x"], "field 'arms[0].label': "),
    ("study.json", "tasks.0.train_instances", -1, "; allowed: an integer, 0 and more"),
    ("study.json", "tasks.0.train_instances", 10**400, "; allowed: an integer, 0 and more"),
    ("study.json", "tasks.1.name", "task0_made_up", "allowed: another name for each"),
    ("study.json", "seeds", [0, 0], "field 'seeds': [0, 0]; allowed: a list of different integers"),
    ("study.json", "seeds", [[0]], "field 'seeds': [[0]]; allowed: a list of different integers"),
    ("study.json", "initials", [1], "field 'initials': [1]; allowed: an object"),
    ("study.json", "initials.instruct.train_secs", "long", "; allowed: a number, 0 and more"),
    (
        "study.json",
        "cells",
        ["../../etc"],
        "field 'cells': [\"../../etc\"]; allowed: a list ",
    ),
    (CELL, SCORES + "rougeL", float("inf"), "Infinity is not a JSON number"),
    (CELL, SCORES + "rougeL", float("nan"), "NaN is not a JSON number"),
    (CELL, SCORES + "rougeL", -50.0, "rougeL': -50.0; allowed: a number, 0 to 100"),
    (CELL, SCORES + "exact_match", 100.5, "exact_match': 100.5; allowed: a number, 0 to 100"),
    (CELL, SCORES + "rouge1", 10**400, "; allowed: a number, 0 to 100"),
    (CELL, SCORES + "n", -3, "n': -3; allowed: an integer, 1 and more"),
    (CELL, SCORES + "n", 0, "n': 0; allowed: an integer, 1 and more"),
    (CELL, SCORES + "n", 2.5, "n': 2.5; allowed: an integer"),
    (CELL, "train_secs", -1, "field 'train_secs': -1; allowed: a number, 0 and more"),
    (CELL, "steps", -1, "field 'steps': -1; allowed: an integer, 0 and more"),
    (CELL, "train_examples_by_task.task0_made_up", "5", "allowed: an integer"),
    (CELL, "short_tasks", {"task0_made_up": None}, "allowed: an integer"),
    (CELL, "leaked_tasks", [1], "allowed: a list of different strings"),
    (CELL, "truncated_by_task.task0_made_up", [-1, 2], "a list of two integers, 0 and more"),
    (CELL, "targets_truncated_by_task", {"task0_made_up": -1}, "allowed: an integer, 0 and more"),
]


def edit(root: Path, file: str, place: str, value: Any) -> None:
    path = root / file
    whole = node = json.loads(path.read_text())
    *parents, last = place.split(".")
    for key in parents:
        node = node[int(key) if isinstance(node, list) else key]
    node[int(last) if isinstance(node, list) else last] = value
    path.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    ("file", "place", "value", "message"),
    REFUSED,
    ids=[f"{i}-{row[1]}" for i, row in enumerate(REFUSED)],
)
def test_what_no_study_writes_is_refused_with_file_and_field(
    study_dir: Path, file: str, place: str, value: Any, message: str
) -> None:
    edit(study_dir, file, place, value)
    with pytest.raises(ConfigError) as caught:
        read_study(study_dir)
    line = str(caught.value)
    assert line.startswith(f"{study_dir / file}: ") and message in line, line


def test_a_key_that_occurs_twice_is_refused(study_dir: Path) -> None:
    path = study_dir / CELL
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1, "seed": 0'))
    with pytest.raises(ConfigError, match="key 'seed' occurs twice in an object"):
        read_study(study_dir)


def test_hostile_labels_leave_pictures_and_pages_valid(study_dir: Path) -> None:
    edit(study_dir, "study.json", "name", HOSTILE)
    edit(study_dir, "study.json", "arms.0.label", HOSTILE)
    for number in range(6):
        edit(study_dir, "study.json", f"tasks.{number}.category", HOSTILE)
    findings = write_report(study_dir)
    report = study_dir / "report"
    pictures = sorted(report.glob("*.svg"))
    assert len(pictures) == 3
    for picture in pictures:
        ElementTree.parse(picture)
    page = (report / "index.html").read_text()
    panels = re.findall(r"<svg viewBox.*?</svg>", page, re.DOTALL)
    assert panels
    for panel in panels:
        ElementTree.fromstring(panel)
    for file in ("index.html", "report.md"):
        text = (report / file).read_text()
        assert not set(text) & set("\0\x1b\x07\x9f\ufffe") and "x1b" in text
    assert all(sentence.isprintable() for sentence in findings["claim"]["sentences"])


@given(texts)
def test_escaped_text_is_valid_xml_with_the_text_in_it(text: str) -> None:
    shown = ElementTree.fromstring(f"<a>{escape(text)}</a>").text or ""
    assert shown == text or text != text.encode("unicode_escape").decode()
    parser = HTMLParser()
    parser.feed(f"<p>{escape(text)}</p>")


@pytest.fixture(scope="module")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("fuzz") / "study")


@pytest.mark.parametrize("file", ["study.json", CELL])
def test_fuzz_study_files(whole_study: Path, file: str) -> None:
    """Whatever a file holds, the study is read, or refused in one line."""
    path = whole_study / file
    sound = path.read_text()
    value = json.loads(sound)

    @fuzz
    @given(mutated(value))
    def read(hostile: Any) -> None:
        path.write_bytes(to_json(hostile))
        study = outcome(lambda: read_study(whole_study))
        if isinstance(study, str):
            assert str(whole_study) in study
            return
        for cell in study.cells:
            for score in cell.scores.values():
                assert score["n"] >= 1 and all(0 <= score[m] <= 100 for m in ("rougeL", "rouge1"))

    try:
        read()
    finally:
        path.write_text(sound)


def test_every_hostile_text_may_be_a_label(study_dir: Path) -> None:
    arm = json.loads((study_dir / "study.json").read_text())["arms"][0]
    for text in HOSTILE_TEXTS:
        edit(study_dir, "study.json", "arms.0", {**copy.deepcopy(arm), "label": text})
        (found, *_) = read_study(study_dir).arms
        assert found.label.isprintable() and found.label


def test_predictions_of_another_cell_are_noticed(study_dir: Path) -> None:
    first, second = (study_dir / "cells" / f"stl-n{n}-0-0/predictions.jsonl" for n in (10, 100))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(
        ConfigError, match="predictions.jsonl: task 'task0_made_up': ROUGE-L .* in "
    ):
        write_report(study_dir)
