"""Reports of studies that ask the same questions after several numbers of demonstrations."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from t5x_ext import report
from t5x_ext.errors import ConfigError
from t5x_ext.json_fields import Fields
from t5x_ext.metrics import METRICS as DEFAULT
from t5x_ext.metrics import Prediction, measure, task_scores, write_predictions
from t5x_ext.reports.datasets.content import build_document, find
from t5x_ext.reports.datasets.published import read_published
from t5x_ext.reports.datasets.published_means import means_table, read_means
from t5x_ext.reports.datasets.scores import DatasetScores, Row, score_datasets
from t5x_ext.reports.datasets.shots import difference_tables, find_shots, set_tables, shots_table
from t5x_ext.reports.documents.document import Paragraph, Table
from t5x_ext.reports.score_grid import Resampler, ScoreGrid
from t5x_ext.reports.study_files import read_study

PAPERS = Path(__file__).resolve().parents[3] / "shared" / "specialization" / "paper_tables.json"
SIZE = 10
METRICS = {"cargo": ("f1", "label_accuracy", "label_validity"), "ner": ("f1", "f1_box", "pairs_f1")}
SHOTS = {0: "", 5: ".k5"}
TASKS = {f"self.harbour.{part}{end}": part for end in SHOTS.values() for part in METRICS}
# Of ten answers, how many are right: (cargo, ner) without, then with five demonstrations.
RIGHT = {
    ("ss_base", "n0"): (2, 6, 5, 1),
    ("ss_supervised", "n2"): (2, 2, 2, 2),
    ("ss_supervised", "n8"): (9, 9, 9, 9),
    ("ss_r1_docs0", "n3"): (4, 5, 8, 7),
}
TASKS_KEY, ROWS_KEY = "a" * 16, "b" * 16


def reference(part: str, number: int) -> str:
    if part == "cargo":
        return "liquid" if number < 7 else "dry"
    return f"Tansy{number} <ship>, Heron{number} <ship>"


def answers(task: str, right: int) -> list[Prediction]:
    part = TASKS[task]
    wrong = "dry" if part == "cargo" else "nobody"
    return [
        Prediction(
            task, "0-shot", f"{part}-{n}", "?", (reference(part, n),),
            reference(part, n) if n < right else wrong, finish="eos" if n else "length",
        )
        for n in range(SIZE)
    ]  # fmt: skip


def write_study(root: Path, **more: object) -> Path:
    names = dict.fromkeys(arm for arm, _ in RIGHT)
    arms = [
        {
            "name": name,
            "setting": "MTL",
            "initial": "base",
            "prompt": "alpaca",
            "budgets": [budget for arm, budget in RIGHT if arm == name],
            "baseline": name == "ss_base",
            "label": f"arm {name}",
            **({"data": "generated.r1_docs0"} if name == "ss_r1_docs0" else {}),
        }
        for name in names
    ]
    tasks = [
        {"name": name, "category": "0-shot", "train_instances": 8, "metrics": METRICS[part]}
        for name, part in TASKS.items()
    ]
    root.mkdir(parents=True)
    study = {"name": "shots", "arms": arms, "tasks": tasks, "seeds": [0]} | more
    (root / "study.json").write_text(json.dumps(study))
    for (arm, budget), right in RIGHT.items():
        path = root / "cells" / f"{arm}-{budget}"
        path.mkdir(parents=True)
        rows, scores = [], {}
        for (task, part), count in zip(TASKS.items(), right, strict=True):
            measured = measure(answers(task, count), METRICS[part], always=DEFAULT)
            rows += measured.rows
            scores |= task_scores(measured)
        write_predictions(path / "predictions.jsonl", rows)
        labels = int(budget[1:])
        result = {
            "arm": arm,
            "budget": budget,
            "seed": 0,
            "scores": {"by_task": scores},
            "train_examples": labels * (2 if arm == "ss_supervised" else 1),  # of two sets each
            "train_examples_by_task": dict.fromkeys(TASKS, labels),
            "train_loss": [1.0, 0.5],
        }
        (path / "result.json").write_text(json.dumps(result))
    return root


def write_generated(root: Path) -> None:
    """Three rows of five answers to eight tasks; one leaks a test input."""

    def write(key: str, name: str, records: list[dict]) -> None:
        path = root / "generated" / key / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))

    tasks = [
        {"id": f"t{n}", "instruction": f"Name the ships of berth {n}.", "input": f"Log {n}."}
        for n in range(5)
    ]
    write(TASKS_KEY, "instructions", tasks)
    reasons = ("similar", "word:draw", "word:map")
    write(TASKS_KEY, "rejected", [{"id": f"d{r}", "reason": r} for r in reasons])
    finishes = ("eos", "eos", "length", "stop", "length")
    outputs = ("Tansy", "Grey Heron", "and so and so", "Fulmar", "and on")
    made = [
        task | {"output": output, "finish": finish, "truncated": n == 0}
        for n, (task, output, finish) in enumerate(zip(tasks, outputs, finishes, strict=True))
    ]
    write(ROWS_KEY, "responses", made)
    write(ROWS_KEY, "train", [made[n] for n in (0, 1, 3)])
    told = {
        "name": "r1_docs0",
        "asked": 4,
        "answers": {"kept": 3, "cut": 2},
        "secs": 75.0,
        "tasks": TASKS_KEY,
        "flagged": [["cargo", "cargo-0"], ["cargo", "cargo-9"]],
    }
    (root / "generated" / ROWS_KEY / "made.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def study_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shots") / "study"
    more = {"generated": {"r1_docs0": ROWS_KEY}, "published": "self_specialization_finance"}
    write_study(root, **more)
    write_generated(root)
    return root


@pytest.fixture(scope="module")
def findings(study_dir: Path):
    return find(read_study(study_dir))


def row_of(findings, arm: str) -> Row:
    return next(row for row in findings.scores.rows if row.arm == arm)


def tables_of(findings) -> dict[str, Table]:
    sections = build_document(findings).sections
    blocks = [block for section in sections for block in section.blocks]
    return {block.caption: block for block in blocks if isinstance(block, Table)}


def test_worst_and_best_are_taken_set_by_set(findings) -> None:
    shots = find_shots(findings.scores)
    row = row_of(findings, "ss_base")
    cargo, ner = ([2, 5], [6, 1])  # of ten, without and with demonstrations

    def f1(count: int, part: str) -> float:
        rows = [r for task in TASKS if TASKS[task] == part for r in answers(task, count)][:SIZE]
        return 100 * np.mean([row.score["f1"] for row in measure(rows, ["f1"]).rows])

    by_set = [[f1(count, "cargo") for count in cargo], [f1(count, "ner") for count in ner]]
    for how, of_two in (("worst", min), ("mean", np.mean), ("best", max)):
        found = shots.over(row, how)
        assert found.mean == pytest.approx(np.mean([of_two(each) for each in by_set]))
        assert found.low <= found.mean <= found.high
    for place, k in enumerate(SHOTS):
        found = shots.interval(row, f"k{k}")
        assert found.mean == pytest.approx(np.mean([each[place] for each in by_set]))
    assert shots.interval(row, "k1") is None


def test_questions_are_drawn_together_whatever_is_shown_before_them(findings) -> None:
    """An answer that is the same with and without demonstrations has no best and no worst."""
    shots = find_shots(findings.scores)
    for row in (row_of(findings, "ss_supervised"), *findings.scores.bounds):
        found = [shots.over(row, how) for how in ("worst", "mean", "best")]
        assert found[0] == found[2] and found[0].low == pytest.approx(found[1].low)
        (first, *_), (second, *_) = shots.columns.values()
        assert (row.draws[:, first] == row.draws[:, second]).all()


def test_the_table_has_every_arm_by_demonstrations_and_says_what_zero_shot_means(findings) -> None:
    table = tables_of(findings)["F1 by number of demonstrations"]
    assert table.header[2:7] == ("0-shot", "5-shot", "worst", "mean", "best")
    labels = [row[0] for row in table.rows]
    assert labels[-2:] == ["the most frequent answer", "the first reference"]
    assert table.rows[-1][2].startswith("100.00\n")
    assert "mean over 2 sets" in table.note
    scores = build_document(findings).sections[0]
    assert any("not that the task is new" in b.text for b in scores.blocks if hasattr(b, "text"))


def test_one_number_of_demonstrations_has_no_best_and_no_worst(study_dir: Path) -> None:
    study = read_study(study_dir)
    tasks = tuple(task for task in study.tasks if task.name.endswith(".k5"))
    alone = score_datasets(dataclasses.replace(study, tasks=tasks))
    shots = find_shots(alone)
    table = shots_table(alone, shots, None)
    assert table.header == ("model", "training rows", "5-shot") and "best" not in table.note
    (above,) = difference_tables(alone, shots)
    assert above.header == ("model", "training rows", "5-shot")


def test_the_most_frequent_answer_is_scored_as_if_it_were_an_output(findings) -> None:
    (row,) = (r for r in findings.scores.bounds if r.label == "the most frequent answer")
    places = [
        i
        for i, column in enumerate(findings.scores.columns)
        if column.metric.name == "label_accuracy"
    ]
    assert row.values[places] == pytest.approx([70, 70])  # "liquid" is right for seven of ten


def test_further_measures_are_means_over_the_sets_that_have_them(findings) -> None:
    table = tables_of(findings)["Further measures"]
    row = next(row for row in table.rows if row[0] == "arm ss_r1_docs0")
    found = dict(zip(table.header, row, strict=True))
    assert found["label accuracy"] == f"{(70 + 100) / 2:.1f}"  # the last three are dry anyway
    assert float(found["pairs recall"]) == pytest.approx((50 + 70) / 2)
    assert {"ROUGE-L", "pairs precision", "pairs F1", "label validity"} <= found.keys()
    outputs = tables_of(findings)["What outputs look like"]
    row = next(row for row in outputs.rows if row[0] == "arm ss_supervised")
    found = dict(zip(outputs.header, row, strict=True))
    # Ten answers of one word; two of four words beside eight of one.
    assert (found["stopped, %"], found["words"]) == ("90.0", f"{(10 + 2 * 4 + 8) / 20:.1f}")


def test_scores_without_flagged_rows_leave_these_out_everywhere(findings) -> None:
    shots = find_shots(findings.clean)
    row = next(row for row in findings.clean.rows if row.arm == "ss_base")
    # Of eight rows of cargo, one or four of the first are right, and two dry ones by chance.
    cargo = [100 * (1 + 2) / 8, 100 * (4 + 2) / 8]
    all_ner = find_shots(findings.scores).columns
    ner = [row_of(findings, "ss_base").values[places[1]] for places in all_ner.values()]
    assert shots.over(row, "mean").mean == pytest.approx(np.mean([*cargo, *ner]))
    table = tables_of(findings)["F1 by number of demonstrations"]
    assert table.header[-1] == "mean without flagged rows" and table.rows[0][-1]
    assert "Flagged: test inputs that share 13 words" in table.note


def test_tables_tell_what_models_wrote_and_why_it_was_dropped(findings) -> None:
    tables = tables_of(findings)
    (tasks,) = tables["Tasks that models wrote"].rows
    assert tasks[:2] == ("arm ss_r1_docs0", "word 25%, similar 12%")
    assert tasks[2].startswith("“name the” 100%") and tasks[3].startswith("“name ships” 100%")
    assert tasks[4:] == ("8", "62.5%")
    (row,) = tables["Their answers"].rows
    assert row == (
        *("arm ss_r1_docs0", "cut 40%", "4", "5", "3", "40.0%", "20.0%", "1.3", "1 min 15 s"),
    )
    blocks = [b for s in build_document(findings).sections for b in s.blocks]
    leaks = [b.text for b in blocks if isinstance(b, Paragraph) and "13 words" in b.text]
    assert len(leaks) == 1 and leaks[0].startswith("2 test inputs share")


@pytest.mark.parametrize("answered", [True, False])
def test_an_arm_without_usable_rows_is_named(tmp_path: Path, answered: bool) -> None:
    root = write_study(tmp_path / "study", generated={"r1_docs0": ROWS_KEY})
    write_generated(root)
    directory = root / "generated" / ROWS_KEY
    (directory / "train.jsonl").write_text("")
    if not answered:  # no task was kept
        (directory / "train.jsonl").unlink()
        (directory / "responses.jsonl").unlink()
    told = json.loads((directory / "made.json").read_text())
    told |= {"answers": {"kept": 0}, "flagged": []}
    (directory / "made.json").write_text(json.dumps(told))
    document = build_document(find(read_study(root)))
    section = next(s for s in document.sections if s.title.startswith("What models wrote"))
    assert section.blocks[0].text.startswith("No usable rows were written for “arm ss_r1_docs0”")
    (row,) = next(b for b in section.blocks if getattr(b, "caption", "") == "Their answers").rows
    assert row[2:5] == ("4", "5" if answered else "0", "0")


def test_labels_are_counted_over_all_sets(findings) -> None:
    caption = "Rows per task of “arm ss_supervised” that give the score of another arm"
    table = tables_of(findings)[caption]
    assert table.header[2:4] == ("mean: rows in all", "mean")
    row = next(row for row in table.rows if row[0] == "arm ss_r1_docs0")
    in_all, per_set = (cell.partition("\n")[0] for cell in row[2:4])
    assert 2 < float(per_set) < 8
    (found,) = (
        e for e in findings.equivalents if e.target.arm.name == "ss_r1_docs0" and not e.dataset
    )
    assert (in_all, per_set) == (f"{2 * found.rows:,.0f}", f"{found.rows:,.0f}")


def test_the_papers_means_stand_beside_ours(findings) -> None:
    table = tables_of(findings)["Means over ten sets: F1"]
    groups = ("0-shot", "1-shot", "5-shot", "worst", "mean", "best")
    assert table.groups == (("", 1), *((name, 2) for name in groups))
    base = table.rows[0]
    shots, row = find_shots(findings.scores), row_of(findings, "ss_base")
    ours = [shots.interval(row, name) for name in ("k0", "k5", "worst", "mean", "best")]
    assert [base[2 * place + 2] for place in (0, 2, 3, 4, 5)] == [f"{o.mean:.2f}" for o in ours]
    assert base[1:5:2] == ("19.34", "31.05") and base[4] == "–"  # no 1-shot here
    assert table.note.startswith("Paper: means over 10 sets. Here: means over 2 sets. With other")
    of_sets = tables_of(findings)["Published figures and ours"]
    assert "mean" not in of_sets.header and len(of_sets.header) == 1 + 2 * 3


def test_a_paper_that_does_not_say_of_how_many_sets_its_means_are(tmp_path: Path) -> None:
    path = tmp_path / "paper.json"
    row = {"label": "base", "arm": "ss_base", "scores": [1.5]}
    means = {"caption": "Means", "metric": "f1", "columns": ["k0"], "rows": [row]}
    for sets, note in (({}, "Here: means"), ({"sets": 1}, "Paper: means over 1 set. Here: means")):
        path.write_text(json.dumps(means | sets))
        table = means_table(read_means(Fields(epath.Path(path))), score_nothing())
        assert table.note.startswith(note)


def test_reports_are_written_and_counted_in_json(study_dir: Path) -> None:
    summary = report.write_report(study_dir)
    (made,) = summary["generated"]
    assert (made["asked"], made["flagged"], made["answers_at_limit"]) == (4, 2, 2)
    assert {each["measure"] for each in summary["shots"]} == {"f1", "f1_without_flagged"}
    text = (study_dir / "report" / "report.md").read_text()
    assert "| arm ss\\_base | 0 |" in text and "What models wrote for themselves" in text


def test_a_study_without_generated_data_or_with_damaged_says_so(tmp_path: Path) -> None:
    plain = find(read_study(write_study(tmp_path / "plain")))
    titles = [section.title for section in build_document(plain).sections]
    assert plain.clean is None and "What models wrote for themselves" not in titles
    root = write_study(tmp_path / "damaged", generated={"r1_docs0": ROWS_KEY})
    write_generated(root)
    made = root / "generated" / ROWS_KEY / "made.json"
    told = json.loads(made.read_text())
    for field, value in (("tasks", "../elsewhere"), ("flagged", [["a"]])):
        made.write_text(json.dumps(told | {field: value}))
        with pytest.raises(ConfigError, match=f"made.json: field '{field}'"):
            find(read_study(root))
    other = write_study(tmp_path / "other", generated={"r1_docs0": "../../etc"})
    with pytest.raises(ConfigError, match="generated.r1_docs0'.*the key of generated data"):
        read_study(other)


@pytest.mark.parametrize("domain", ["biomedicine", "finance"])
def test_published_means_are_those_of_the_papers_tables(domain: str) -> None:
    published = read_published(f"self_specialization_{domain}")
    tables = {means.metric: means for means in published.means}
    for means in tables.values():
        assert means_table(means, score_nothing()).header[0] == "model"
    for label, _, scores in tables["f1"].rows:
        by_shots, over = scores[:3], scores[3:]
        if None not in scores:  # the mean over demonstrations is that of the means
            assert np.mean(by_shots) == pytest.approx(over[1], abs=0.011), label
    if not PAPERS.is_file():
        pytest.skip(f"the paper's tables not found at {PAPERS}")
    paper = json.loads(PAPERS.read_text())
    first, last = tables["f1"].rows[0][2], tables["f1"].rows[-1][2]
    average, over = paper[f"table1_{domain}_average"], paper[f"table4_{domain}_average"]
    assert list(first) == [*average[::2], *over[::2]]
    assert list(last) == [*average[1::2], *over[1::2]]
    if domain == "biomedicine":
        rouge = tables["rougeL"].rows
        assert list(rouge[0][2]) == paper["table3_average"][::2]
        assert list(rouge[-1][2]) == paper["table3_average"][1::2]
        second = sorted(map(tuple, paper["table2_biomedicine_k0"].values()))
        ours = zip(tables["f1"].rows, rouge, strict=True)
        assert sorted((f1[2][0], rl[2][0]) for f1, rl in ours) == second


def score_nothing():
    """Scores of a study with other datasets than the paper's."""
    return DatasetScores((), (), (), ScoreGrid((), (), (), Resampler(1, 1)))


def test_rows_are_counted_in_all_and_per_task_where_these_are_fewer(findings) -> None:
    table = tables_of(findings)["F1 by number of demonstrations"]
    rows = {row[0]: row[1] for row in table.rows}
    assert rows["arm ss_supervised"] == "16\n(8 per task)"  # of two sets; the largest budget
    assert rows["arm ss_r1_docs0"].isdigit() and rows["the most frequent answer"] == ""


def test_each_set_has_its_own_table_in_which_the_highest_scores_stand_out(findings) -> None:
    scores = findings.scores
    tables = set_tables(scores)
    assert [table.caption for table in tables] == ["cargo", "ner"]
    for table in tables:
        assert [text for text, _ in table.groups] == ["", "0-shot", "5-shot"]
        for column in range(2, len(table.header)):
            cells = [row[column] for row in table.rows[: len(scores.rows)]]
            figures = [float(cell.split("\n")[0]) for cell in cells]
            strong = {row for row, at in table.strong_cells if at == column}
            expected = {i for i, each in enumerate(figures) if each == max(figures)}
            assert strong == (expected if min(figures) < max(figures) else set())
