"""Scores of predictions with demonstrations, by numbers that can be counted on the fingers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mixtures.records import Row
from mixtures.specialization.rows import metrics_of_kind
from t5x_ext.generation import read_evaluation
from t5x_ext.generation.overlap import rows_with
from t5x_ext.generation.records import bundled, evaluation_files
from t5x_ext.generation.scores import over_shots, score_file, table
from t5x_ext.metrics import measure, resampling
from t5x_ext.metrics.predictions import read_predictions

REPO = Path(__file__).resolve().parents[2]


def row(task: str, number: int, prediction: str, references: list[str], **more: object) -> str:
    fields = {
        "task": task,
        "category": "",
        "id": f"{task}-{number}",
        "inputs": "",
        "references": references,
        "prediction": prediction,
        "labels": [],
        "finish": "eos",
    }
    return json.dumps(fields | more) + "\n"


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    labels = {"labels": ["yes", "no", "maybe"]}
    lines = [
        row("colour", 0, "red tug", ["red", "blue tug boat"]),
        row("colour", 1, "", ["red"], finish="length"),
        row("colour", 2, "the red", ["red, green"], finish="stop"),
        row("asked", 0, "Yes.", ["yes"], **labels),
        row("asked", 1, "No", ["yes"], **labels),
        row("asked", 2, "perhaps so", ["maybe"], **labels),
        row("names", 0, "Tansy <ship>, Heron <ship>", ["Tansy <ship>"], category="ner"),
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(lines))
    return path


def test_each_task_is_scored_by_what_fits_it(predictions: Path) -> None:
    tasks = score_file(predictions).scores["tasks"]
    third = 100 / 3
    assert tasks["colour"]["f1"] == pytest.approx((2 / 3 + 0 + 2 / 3) * third)
    assert tasks["colour"]["squad_em"] == 0 and "f1_box" not in tasks["colour"]
    assert tasks["colour"]["stopped"] == pytest.approx(2 * third)
    assert tasks["colour"]["words"] == pytest.approx(4 / 3)
    assert "label_validity" not in tasks["colour"] and "pairs_f1" not in tasks["colour"]
    assert tasks["asked"]["label_accuracy"] == pytest.approx(third)
    assert tasks["asked"]["label_validity"] == pytest.approx(2 * third)
    assert tasks["asked"]["majority_f1"] == pytest.approx(2 * third)
    assert tasks["names"]["pairs_f1"] == pytest.approx(2 * third)
    assert (tasks["names"]["pairs_precision"], tasks["names"]["pairs_recall"]) == (50, 100)
    # The best piece of "Tansy <ship>" is all of it: two words of four.
    assert tasks["names"]["f1_box"] == tasks["names"]["f1"] == pytest.approx(2 * third)


def test_letters_are_scored_by_accuracy_and_have_no_part_in_f1(
    predictions: Path, tmp_path: Path
) -> None:
    choice = {"category": "multiple_choice"}
    lines = [
        row("letters", 0, "A", ["A"], **choice),
        row("letters", 1, "", ["A"], **choice),
        row("letters", 2, "(B)", ["B"], **choice),
        row("letters", 3, "The third", ["A"], **choice),
    ]
    path = tmp_path / "more.jsonl"
    path.write_text(predictions.read_text() + "".join(lines))
    scored, without = score_file(path), score_file(predictions)
    letters = scored.scores["tasks"]["letters"]
    assert (letters["label_accuracy"], letters["label_validity"]) == (50, 50)
    assert letters["majority_label_accuracy"] == 75 and "f1" not in letters
    assert scored.scores["mean"]["f1"] == without.scores["mean"]["f1"]
    assert set(scored.draws) == set(without.draws)
    assert over_shots({0: scored}) == over_shots({0: without})
    page = table({"base": {0: scored.scores}}, {"base": over_shots({0: scored})})
    assert "| letters (label_accuracy) | 50.0 [" in page and "have no F1" in page
    path.write_text("".join(lines))
    alone = score_file(path)
    assert over_shots({0: alone}) == {} and alone.scores["without_flagged"] == {"rows": 0}
    page = table({"base": {0: alone.scores}}, {"base": {}})
    assert "| **mean** | - |" in page and "| base | - | - | - |" in page


def test_each_item_of_a_list_is_a_label_or_not(tmp_path: Path) -> None:
    many = {"category": "classification_multi", "labels": ["Adult", "Aged", "Animals"]}
    path = tmp_path / "lists.jsonl"
    lines = [
        row("mesh", 0, "Adult, Aged", ["Adult, Aged"], **many),
        row("mesh", 1, "Aged, Robots", ["Aged, Adult"], **many),
        row("mesh", 2, "", ["Animals"], **many),
    ]
    path.write_text("".join(lines))
    mesh = score_file(path).scores["tasks"]["mesh"]
    assert mesh["label_validity"] == pytest.approx(100 * (1 + 0.5 + 0) / 3)
    assert mesh["pairs_recall"] == pytest.approx(100 * 3 / 5)
    assert "label_accuracy" not in mesh  # of a list the order is no part of the answer


def test_means_are_over_the_tasks_that_have_a_metric(predictions: Path) -> None:
    scores = score_file(predictions).scores
    tasks = scores["tasks"].values()
    assert scores["mean"]["f1"] == pytest.approx(sum(task["f1"] for task in tasks) / 3)
    assert scores["mean"]["pairs_f1"] == scores["tasks"]["names"]["pairs_f1"]


def test_flagged_rows_can_be_left_out(predictions: Path) -> None:
    scores = score_file(predictions, flagged={("colour", "colour-1"), ("names", "names-0")}).scores
    asked = scores["tasks"]["asked"]["f1"]
    assert scores["without_flagged"]["rows"] == 5
    assert scores["without_flagged"]["f1"] == pytest.approx((200 / 3 + asked) / 2)


def test_the_mean_has_an_interval_narrower_than_its_tasks(predictions: Path) -> None:
    scored = score_file(predictions)
    low, high = scored.scores["mean"]["f1_interval"]
    assert low < scored.scores["mean"]["f1"] < high
    widths = [
        high - low for low, high in (t["f1_interval"] for t in scored.scores["tasks"].values())
    ]
    assert high - low < max(widths)
    again = score_file(predictions)
    assert all((again.draws[task] == draws).all() for task, draws in scored.draws.items())


def test_the_worst_and_the_best_are_taken_task_by_task(predictions: Path, tmp_path: Path) -> None:
    """One task is better without demonstrations, another with them."""
    lines = predictions.read_text().splitlines(keepends=True)
    swapped = json.loads(lines[3]) | {"prediction": "no"}
    better = json.loads(lines[1]) | {"prediction": "red"}
    other = tmp_path / "k5.jsonl"
    lines[3], lines[1] = json.dumps(swapped) + "\n", json.dumps(better) + "\n"
    other.write_text("".join(lines))
    none, five = score_file(predictions), score_file(other)
    found = over_shots({0: none, 5: five})
    f1 = [{task: t["f1"] for task, t in each.scores["tasks"].items()} for each in (none, five)]
    assert f1[0]["asked"] > f1[1]["asked"] and f1[0]["colour"] < f1[1]["colour"]
    for name, of_two in (("worst", min), ("best", max)):
        expected = sum(of_two(f1[0][task], f1[1][task]) for task in f1[0]) / 3
        assert found[name]["f1"] == pytest.approx(expected)
        low, high = found[name]["f1_interval"]
        assert low <= found[name]["f1"] <= high
    assert found["mean"]["f1"] == pytest.approx((sum(f1[0].values()) + sum(f1[1].values())) / 6)


def test_the_table_has_a_column_for_each_model_and_number_of_shots(predictions: Path) -> None:
    scored = score_file(predictions)
    scores = scored.scores
    spread = {name: over_shots({0: scored}) for name in ("base", "round1")}
    page = table({"base": {0: scores, 5: scores}, "round1": {0: scores}}, spread)
    assert "“0-shot” means that the prompt has no demonstration" in page
    wide, narrow, means, _ = page.split("\n\n")[1:]
    lines = wide.splitlines()
    assert lines[0] == "| F1 | base, k=0 | base, k=5 | round1, k=0 |"
    assert lines[2].startswith("| colour | 44.4 [")
    low, high = scores["mean"]["f1_interval"]
    assert f"| **mean** | {scores['mean']['f1']:.1f} [{low:.1f}, {high:.1f}] |" in lines[-1]
    assert {line.count("|") for line in (*lines, *narrow.splitlines())} == {5}
    assert narrow.splitlines()[0] == "| F1, each task's over k | worst | mean | best |"
    assert "| pairs_recall | 100.0 |" in means


# BoX's script compares with single items of a list: the whole list is none of them.
NOT_OF_WHOLE_LISTS = {"f1_box"}


def evaluation_sets() -> list[Path]:
    directory = os.environ.get("SPECIALIZATION_DIR", REPO.parent / "shared" / "specialization")
    given = sorted((Path(directory) / "data" / "eval").glob("*/*.jsonl"))
    return [*given, *evaluation_files(bundled("evaluation"))]


@pytest.mark.parametrize("file", evaluation_sets(), ids=lambda file: Path(file).stem)
def test_right_answers_score_100_by_every_metric_of_their_set(file: Path, tmp_path: Path) -> None:
    asked = read_evaluation(file)
    path = tmp_path / "predictions.jsonl"
    lines = [
        row(one.task, n, one.references[0], list(one.references), category=one.category,
            labels=list(one.labels))
        for n, one in enumerate(asked)
    ]  # fmt: skip
    path.write_text("".join(lines))
    scores = score_file(path).scores
    shape = ("rows", "words", *NOT_OF_WHOLE_LISTS)
    for found in (scores["mean"], scores["tasks"][asked[0].task]):
        values = {
            name: value
            for name, value in found.items()
            if isinstance(value, float) and name not in shape and not name.startswith("majority_")
        }
        assert values == dict.fromkeys(values, 100.0) and len(values) >= 3
    # Studies: the metrics that the set names.
    names = [name for name in metrics_of_kind(asked[0].category) if name not in shape]
    for column in measure(read_predictions(path), names).columns:
        total = resampling.total(column.statistics)
        assert float(column.metric.finish(total)) == 1.0, column.metric.name


def test_rows_that_were_tuned_on_in_part_are_found() -> None:
    words = [f"word{number}" for number in range(20)]
    rows = [
        Row("t", "", "a", "Do.", " ".join(words), ("x",)),
        Row("t", "", "b", "Do.", "short", (" ".join(words[5:18]),)),
        Row("t", "", "c", "Do.", " ".join(words[:12]), ("x",)),
    ]
    assert rows_with([" ".join(["so", *words[4:19]])], rows) == {("t", "a"), ("t", "b")}
    assert rows_with(["nothing of it"], rows) == set()
