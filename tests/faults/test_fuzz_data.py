"""Data files of every kind, mutated: a result that loses nothing, or one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fuzzing import damaged, fuzz, mutated, outcome, texts, to_json, with_a_repeated_key
from hypothesis import given
from hypothesis import strategies as st

from mixtures.own_data import read_jsonl
from mixtures.prompts import PROMPTS
from mixtures.records import TaskRecord, read_split_list, read_task, rows
from mixtures.release import Release
from mixtures.splits import split_instances
from t5x_ext.metrics import aggregate
from t5x_ext.metrics.predictions import (
    Answer,
    Prediction,
    PredictionLog,
    read_predictions,
    write_predictions,
)
from t5x_ext.metrics.scoring import measure

TASK: dict[str, Any] = {
    "Contributors": ["a"],
    "Source": ["s"],
    "Categories": ["Textual Entailment"],
    "Definition": ["Say yes or no."],
    "Input_language": ["English"],
    "Positive Examples": [{"input": "a", "output": "b", "explanation": ""}] * 2,
    "Negative Examples": [{"input": "c", "output": "", "explanation": "d"}],
    "Instances": [{"id": f"t-{i}", "input": f"in {i}", "output": ["yes", "no"]} for i in range(3)],
}
LINES = [
    {"instruction": "Say it in French.", "input": "good day", "output": "bonjour"},
    {"instruction": "Sum.", "input": "", "output": ["3", "three"], "id": 7, "category": "c"},
    {"instruction": "Sum.", "input": "1 2", "output": "3", "id": "x", "task": "sums"},
]
PREDICTIONS = [
    {
        "task": "t",
        "category": "c",
        "id": f"{i}",
        "inputs": "in",
        "references": ["a", "b"],
        "prediction": "a",
        "truncated": False,
        "score": {"rougeL": 1.0},
    }
    for i in range(3)
]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def check_task(record: TaskRecord | str, value: Any) -> None:
    """Nothing of a task file is lost, and every prompt can be made of it."""
    if isinstance(record, str):
        return
    found = [(item.id, item.input, list(item.references)) for item in record.instances]
    assert found == [(item["id"], item["input"], item["output"]) for item in value["Instances"]]
    assert record.definition == value["Definition"][0]
    assert len(record.positive_examples) == len(value["Positive Examples"])
    splits = split_instances(record, "train")
    assert len(splits.train) + len(splits.validation) == len(found)
    row = rows(record, record.instances[:1])[0]
    for prompt in PROMPTS.values():
        if prompt.is_chat:  # needs a model's template
            continue
        for render in prompt.formats:
            assert render(row).encode("utf-8")


@fuzz
@given(value=mutated(TASK))
def test_fuzz_task_fields(scratch: Path, value: Any) -> None:
    path = scratch / "task.json"
    path.write_bytes(to_json(value))
    check_task(outcome(lambda: read_task(path)), value)


@fuzz
@given(data=damaged(to_json(TASK)))
def test_fuzz_task_bytes(scratch: Path, data: bytes) -> None:
    path = scratch / "task.json"
    path.write_bytes(data)
    record = outcome(lambda: read_task(path))
    if not isinstance(record, str):
        check_task(record, json.loads(data.decode("utf-8-sig")))


@fuzz
@given(repeated=with_a_repeated_key(TASK))
def test_fuzz_repeated_keys_of_a_task(scratch: Path, repeated: tuple[bytes, str]) -> None:
    data, key = repeated
    path = scratch / "task.json"
    path.write_bytes(data)
    message = outcome(lambda: read_task(path))
    assert message == f"{path}: key {key!r} occurs 2 times in one object; allowed: each key once"


@fuzz
@given(repeated=st.sampled_from(LINES).flatmap(with_a_repeated_key))
def test_fuzz_repeated_keys_of_own_rows(scratch: Path, repeated: tuple[bytes, str]) -> None:
    data, key = repeated
    path = scratch / "own.jsonl"
    path.write_bytes(to_json(LINES[0]) + b"\n" + data)
    message = outcome(lambda: read_jsonl(path))
    assert message.startswith(f"{path}: line 2: key {key!r} occurs 2 times in one object")


@fuzz
@given(lines=mutated(LINES))
def test_fuzz_own_rows(scratch: Path, lines: list[Any]) -> None:
    path = scratch / "own.jsonl"
    path.write_bytes(b"\n".join(map(to_json, lines)))
    found = outcome(lambda: read_jsonl(path))
    if isinstance(found, str):
        return
    assert [row.input for row in found] == [line["input"] for line in lines]
    for row, line in zip(found, lines, strict=True):
        output = line["output"]
        assert row.references == ((output,) if isinstance(output, str) else tuple(output))
        assert str(row).encode("utf-8")


@fuzz
@given(data=damaged(b"\r\n".join(map(to_json, LINES))))
def test_fuzz_own_bytes(scratch: Path, data: bytes) -> None:
    path = scratch / "own.jsonl"
    path.write_bytes(data)
    found = outcome(lambda: read_jsonl(path))
    if not isinstance(found, str):
        assert len(found) == sum(bool(line.strip()) for line in data.decode().split("\n"))


@fuzz
@given(
    names=st.lists(st.sampled_from(("task1", "task2", "gone")) | texts, max_size=5),
    end=st.sampled_from(("\n", "\r\n", "\r")),
    tail=st.sampled_from((b"", b"\xff", b"\0", b"\xef\xbb\xbf")),
)
def test_fuzz_split_lists(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], end: str, tail: bytes
) -> None:
    directory = tmp_path_factory.mktemp("release")
    (directory / "tasks").mkdir()
    (directory / "splits" / "default").mkdir(parents=True)
    for name in ("task1", "task2"):
        (directory / "tasks" / f"{name}.json").write_bytes(to_json(TASK))
    lists = directory / "splits" / "default"
    listed = end.join(names).encode("utf-8", "surrogatepass") + tail
    (lists / "test_tasks.txt").write_bytes(listed)
    (lists / "train_tasks.txt").write_text("task2\n" if "task2" not in names else "")
    for policy in ("report", "refuse"):
        release = Release(directory, missing=policy)
        found = outcome(lambda release=release: release.names("test"))
        if isinstance(found, str):
            continue
        every = read_split_list(lists / "test_tasks.txt")
        assert set(found) | set(release.missing("test")) == set(every)
        assert policy == "report" or set(found) == set(every)
        for name in found:
            assert release.task(name).instances


@fuzz
@given(lines=mutated(PREDICTIONS))
def test_fuzz_predictions(scratch: Path, lines: list[Any]) -> None:
    path = scratch / "predictions.jsonl"
    path.write_bytes(b"\n".join(map(to_json, lines)))
    found = outcome(lambda: read_predictions(path))
    if isinstance(found, str):
        return
    assert [row.prediction for row in found] == [line["prediction"] for line in lines]
    scored = measure(found)
    assert 0 <= aggregate.over_tasks(scored).means["rougeL"].mean <= 100
    write_predictions(scratch / "scored.jsonl", scored.rows)
    assert read_predictions(scratch / "scored.jsonl") == scored.rows


@fuzz
@given(data=damaged(b"\n".join(map(to_json, PREDICTIONS))))
def test_fuzz_prediction_bytes(scratch: Path, data: bytes) -> None:
    path = scratch / "predictions.jsonl"
    path.write_bytes(data)
    outcome(lambda: read_predictions(path))


@fuzz
@given(data=st.data())
def test_fuzz_what_a_killed_run_left_of_its_predictions(scratch: Path, data: st.DataObject) -> None:
    path, partial = scratch / "log.jsonl", scratch / "log.jsonl.partial"
    partial.unlink(missing_ok=True)
    inputs = [Prediction("t", "c", str(i), "", ("a",), "") for i in range(4)]
    with PredictionLog(path, inputs, "sig") as log:
        log.append([(2, Answer("two", "eos")), (0, Answer("zero\r\0é"))])
    partial.write_bytes(data.draw(damaged(partial.read_bytes())))
    with PredictionLog(path, inputs, "sig") as log:
        log.append((index, Answer(f"text {index}")) for index in log.missing)
        finished = log.finish()
    assert read_predictions(path) == finished
    assert [row.id for row in finished] == ["0", "1", "2", "3"]
