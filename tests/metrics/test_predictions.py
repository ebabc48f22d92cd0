"""Reading, checking, writing and resuming predictions files."""

from __future__ import annotations

import json

import pytest

from t5x_ext.errors import ConfigError
from t5x_ext.metrics.predictions import (
    Answer,
    Prediction,
    PredictionLog,
    parse_prediction,
    read_predictions,
    write_predictions,
)

GOOD = {
    "task": "task1_x",
    "category": "C",
    "id": "task1-0",
    "inputs": "Say é\n",
    "references": ["é", "e"],
    "prediction": "é",
    "truncated": True,
}


def rows(n: int) -> list[Prediction]:
    return [Prediction("t", "C", f"t-{i}", f"in {i}", ("out",), "") for i in range(n)]


def test_round_trip_keeps_every_field(tmp_path):
    row = Prediction(**{**GOOD, "references": ("é", "e")})
    write_predictions(tmp_path / "p.jsonl", [row])
    assert json.loads((tmp_path / "p.jsonl").read_text()) == GOOD
    assert read_predictions(tmp_path / "p.jsonl") == [row]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"references": []}, "field 'references': empty list; allowed: at least one string"),
        ({"references": "yes"}, "field 'references': \"yes\"; allowed: a list of strings"),
        ({"references": ["a", 1]}, "field 'references': [\"a\", 1]; allowed: a list of strings"),
        ({"prediction": None}, "field 'prediction': null; allowed: a string"),
        ({"truncated": 1}, "field 'truncated': 1; allowed: true or false"),
        (
            {"source": "a b", "edits": {"0": [[1, 2, ["x"]], [5, 9, ["x"]]]}},
            "field 'edits': '[5, 9, [\"x\"], \"\"]'; allowed: 0 <= start <= end <= 2, the tokens "
            "of the source",
        ),
        (
            {"source": "a b", "edits": {"0": [], "00": [[0, 1, ["x"]]]}},
            "field 'edits': '[\"0\", \"00\"]'; allowed: each annotator once",
        ),
        (
            {"source": "a b", "edits": {"0": [[0, 1, ["x \ud83d"]]]}},
            "field 'edits': \"x \\ud83d\"; allowed: text that UTF-8 can encode",
        ),
        (
            {"source": "a b", "edits": {"0": [[0, 1]]}},
            "field 'edits': '{\"0\": [[0, 1]]}'; allowed: for each annotator a list of [start, "
            'end, [correction, ...]], as in {"0": [[1, 2, ["a"]]]}',
        ),
    ],
)
def test_malformed_field_is_one_line_with_its_place(change, message):
    with pytest.raises(ConfigError) as error:
        parse_prediction(json.dumps({**GOOD, **change}), "p.jsonl: line 7")
    assert str(error.value) == f"p.jsonl: line 7: {message}"


@pytest.mark.parametrize("field", ["task", "category", "id", "prediction", "references"])
def test_missing_field_is_named(field):
    fields = {name: value for name, value in GOOD.items() if name != field}
    with pytest.raises(ConfigError, match=f"field '{field}': missing"):
        parse_prediction(json.dumps(fields), "p.jsonl: line 1")


def test_a_repeated_key_is_refused_in_one_line(tmp_path):
    path = tmp_path / "p.jsonl"
    twice = json.dumps(GOOD)[:-1] + ', "prediction": "e"}'
    path.write_text(json.dumps(GOOD) + "\n" + twice + "\n")
    with pytest.raises(ConfigError) as error:
        read_predictions(path)
    expected = (
        f"{path}: line 2: key 'prediction' occurs 2 times in one object; allowed: each key once"
    )
    assert str(error.value) == expected
    inner = json.dumps(GOOD)[:-1] + ', "score": {"rougeL": 1.0, "rougeL": 0.0}}'
    with pytest.raises(ConfigError, match="line 1: key 'rougeL' occurs 2 times"):
        parse_prediction(inner, "p.jsonl: line 1")


def test_line_number_counts_blank_lines(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n{oops\n")
    with pytest.raises(ConfigError, match="p.jsonl: line 3: not JSON"):
        read_predictions(path)


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="none.jsonl: cannot be read"):
        read_predictions(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="empty.jsonl: no predictions"):
        read_predictions(tmp_path / "empty.jsonl")


def test_log_restores_input_order(tmp_path):
    path = tmp_path / "p.jsonl"
    with PredictionLog(path, rows(3), "weights-a") as log:
        log.append([(2, Answer("two", "length")), (0, Answer("zero", "eos"))])
        log.append([(1, Answer("one"))])
        finished = log.finish()
    assert [row.prediction for row in finished] == ["zero", "one", "two"]
    assert [row.finish for row in finished] == ["eos", None, "length"]
    assert read_predictions(path) == finished
    assert list(tmp_path.iterdir()) == [path]


def test_killed_run_goes_on_after_its_last_whole_line(tmp_path):
    path = tmp_path / "p.jsonl"
    with PredictionLog(path, rows(4), "weights-a") as log:
        log.append([(3, Answer("three", "stop")), (1, Answer("one\u2028é"))])
    partial = tmp_path / "p.jsonl.partial"
    partial.write_bytes(partial.read_bytes() + b'{"index": 0, "predic')
    with PredictionLog(path, rows(4), "weights-a") as log:
        assert log.missing == [0, 2]
        log.append([(0, Answer("zero")), (2, Answer("two"))])
        finished = log.finish()
    assert [row.prediction for row in finished] == ["zero", "one\u2028é", "two", "three"]
    assert finished[3].finish == "stop"


def test_other_weights_start_over(tmp_path):
    path = tmp_path / "p.jsonl"
    with PredictionLog(path, rows(2), "weights-a") as log:
        log.append([(0, Answer("old"))])
    with PredictionLog(path, rows(2), "weights-b") as log:
        assert log.missing == [0, 1]


def test_finishing_early_is_refused(tmp_path):
    with PredictionLog(tmp_path / "p.jsonl", rows(2), "a") as log:
        with pytest.raises(ValueError, match="2 rows have no prediction"):
            log.finish()
