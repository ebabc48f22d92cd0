"""Task files: what is kept, and the line that each malformed file gets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mixtures.errors import DataError
from mixtures.records import Example, Instance, read_split_list, read_task, rows


def task_json(**changes) -> dict:
    """A well-formed task file's object, with some fields replaced."""
    value = {
        "Source": ["made_up"],
        "Categories": ["Title Generation", "Summarization"],
        "Definition": ["Write a title."],
        "Positive Examples": [{"input": "a", "output": "b", "explanation": ""}],
        "Negative Examples": [{"input": "a", "output": "", "explanation": "says nothing"}],
        "Instances": [
            {"id": "t-0", "input": "x", "output": ["y", "z"]},
            {"id": "t-1", "input": "x", "output": ["y"]},
        ],
    }
    value.update(changes)
    return value


def write(directory: Path, value: object) -> Path:
    path = directory / "task001_titles.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_fields_of_a_task(tmp_path):
    record = read_task(write(tmp_path, task_json()))
    assert record.name == "task001_titles"
    assert record.category == "Title Generation"
    assert record.categories == ("Title Generation", "Summarization")
    assert record.sources == ("made_up",)
    assert record.licenses == ()
    assert record.negative_examples == (Example("a", "", "says nothing"),)
    assert record.instances[0] == Instance("t-0", "x", ("y", "z"))


def test_row_joins_instance_and_instruction(tmp_path):
    record = read_task(write(tmp_path, task_json()))
    (row,) = rows(record, record.instances[1:])
    assert (row.task, row.category, row.id) == ("task001_titles", "Title Generation", "t-1")
    assert (row.definition, row.input, row.references) == ("Write a title.", "x", ("y",))
    assert row.positive_examples is record.positive_examples


def test_control_characters_survive(tmp_path):
    text = " a\rb\r\nc\0d\u2028e\ufeff "
    instances = [{"id": "i", "input": text, "output": [text]}]
    record = read_task(write(tmp_path, task_json(Instances=instances, Definition=[text])))
    assert record.instances[0] == Instance("i", text, (text,))
    assert record.definition == text


def instance(**changes) -> dict:
    return {"Instances": [{"id": "t-0", "input": "x", "output": ["y"], **changes}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Instances": []}, "field 'Instances': empty list; allowed: a list of objects"),
        ({"Instances": {}}, "field 'Instances': is an object; allowed: a list"),
        ({"Instances": ["x"]}, "field 'Instances[0]': is a string; allowed: an object"),
        (instance(output=[]), "field 'Instances[0].output': empty list; allowed: a list of 1"),
        (instance(output="y"), "field 'Instances[0].output': is a string; allowed: a list"),
        (instance(output=["y", " "]), "field 'Instances[0].output[1]': blank; allowed: a string"),
        (instance(output=["y", None]), "field 'Instances[0].output[1]': is null; allowed"),
        (instance(input="\n"), "field 'Instances[0].input': blank; allowed: a string that is not"),
        (instance(input=3), "field 'Instances[0].input': is a number; allowed: a string"),
        (instance(input=True), "field 'Instances[0].input': is a boolean; allowed: a string"),
        (instance(input="a\ud800"), "field 'Instances[0].input': half of a surrogate pair at"),
        (instance(id=""), "field 'Instances[0].id': blank; allowed"),
        ({"Definition": []}, "field 'Definition': empty list; allowed: a list of 1 or more"),
        ({"Definition": "Write."}, "field 'Definition': is a string; allowed: a list"),
        ({"Categories": [""]}, "field 'Categories[0]': blank; allowed: a string"),
        ({"Source": "x"}, "field 'Source': is a string; allowed: a list of 0 or more strings"),
        (
            {"Positive Examples": [{"input": "a", "output": "b"}]},
            "field 'Positive Examples[0].explanation': missing; allowed: a string",
        ),
        (
            {"Positive Examples": [{"input": "a", "output": "", "explanation": ""}]},
            "field 'Positive Examples[0].output': blank; allowed: a string that is not blank",
        ),
    ],
)
def test_wrong_field(tmp_path, changes, message):
    path = write(tmp_path, task_json(**changes))
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read_task(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "field", ["Categories", "Definition", "Positive Examples", "Negative Examples", "Instances"]
)
def test_missing_field(tmp_path, field):
    value = task_json()
    del value[field]
    with pytest.raises(DataError, match=f"field '{field}': missing; allowed: a list"):
        read_task(write(tmp_path, value))


@pytest.mark.parametrize("key", ["id", "input", "output"])
def test_missing_field_of_an_instance(tmp_path, key):
    value = task_json()
    del value["Instances"][1][key]
    with pytest.raises(DataError, match=rf"field 'Instances\[1\].{key}': missing; allowed: a"):
        read_task(write(tmp_path, value))


def test_repeated_id(tmp_path):
    value = task_json()
    value["Instances"][1]["id"] = "t-0"
    message = r"field 'Instances\[1\].id': 't-0' is also the id of Instances\[0\]; allowed"
    with pytest.raises(DataError, match=message):
        read_task(write(tmp_path, value))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON (Expecting value: column 1)"),
        (b'{"Definition": [', "not JSON (Expecting value: column 17)"),
        (b"[]", "the file is a list; allowed: one JSON object"),
        (b"null", "the file is null; allowed: one JSON object"),
        (b'{"Definition": ["\xff"]}', "not UTF-8 at byte 17; allowed: UTF-8 text"),
        (b"[" * 100_000, "not JSON (maximum recursion depth"),
        (b"1" * 10_000, "not JSON (Exceeds the limit"),
        (b'{"Source": [], "Source": []}', "key 'Source' occurs 2 times in one object; allowed"),
        (b'{"Instances": [{"id": "a", "id": "b"}]}', "key 'id' occurs 2 times in one object"),
    ],
)
def test_no_json_object(tmp_path, content, message):
    path = tmp_path / "task.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read_task(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_unreadable_file(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\)"):
        read_task(tmp_path / "absent.json")
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        read_task(tmp_path)


def test_split_list(tmp_path):
    path = tmp_path / "train_tasks.txt"
    path.write_text("task2_b\r\n\n task1_a \n", encoding="utf-8")
    assert read_split_list(path) == ["task2_b", "task1_a"]
    path.write_text("task2_b\ntask1_a\ntask2_b\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 3: 'task2_b' is also on line 1; allowed: each task"):
        read_split_list(path)


def test_real_control_characters_survive(superni_dir):
    """The files whose JSON escapes control characters give exactly the texts that JSON says."""
    found = set()
    for path in sorted((superni_dir / "tasks").glob("*.json")):
        raw = path.read_bytes()
        if rb"\r" not in raw and rb"\u00" not in raw:
            continue
        record = read_task(path)
        expected = json.loads(raw)["Instances"]
        assert [(i.id, i.input, list(i.references)) for i in record.instances] == [
            (i["id"], i["input"], i["output"]) for i in expected
        ]
        texts = "".join(i.input + "".join(i.references) for i in record.instances)
        found |= {character for character in texts if character < " "} - {"\n", "\t"}
    assert found == {"\r", "\x13"}
