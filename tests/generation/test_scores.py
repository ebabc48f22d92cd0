"""Scores of predictions with demonstrations, by numbers that can be counted on the fingers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from t5x_ext.generation import EvaluationRow
from t5x_ext.generation.overlap import rows_with
from t5x_ext.generation.scores import over_shots, score_file, table


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
    assert tasks["colour"]["f1_box"] == pytest.approx((2 / 3 + 0 + 1) * third)
    assert tasks["colour"]["stopped"] == pytest.approx(2 * third)
    assert tasks["colour"]["words"] == pytest.approx(4 / 3)
    assert "label_validity" not in tasks["colour"] and "pairs_f1" not in tasks["colour"]
    assert tasks["asked"]["label_accuracy"] == pytest.approx(third)
    assert tasks["asked"]["label_validity"] == pytest.approx(2 * third)
    assert tasks["asked"]["majority_f1"] == pytest.approx(2 * third)
    assert tasks["names"]["pairs_f1"] == pytest.approx(2 * third)
    assert (tasks["names"]["pairs_precision"], tasks["names"]["pairs_recall"]) == (50, 100)


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


def test_rows_that_were_tuned_on_in_part_are_found() -> None:
    words = [f"word{number}" for number in range(20)]
    rows = [
        EvaluationRow("a", "", "t", "", "Do.", " ".join(words), ("x",)),
        EvaluationRow("b", "", "t", "", "Do.", "short", (" ".join(words[5:18]),)),
        EvaluationRow("c", "", "t", "", "Do.", " ".join(words[:12]), ("x",)),
    ]
    assert rows_with([" ".join(["so", *words[4:19]])], rows) == {("t", "a"), ("t", "b")}
    assert rows_with(["nothing of it"], rows) == set()
