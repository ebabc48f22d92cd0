"""Own files and rows, and docs/your_own_tasks.md, whose examples are run here as they stand."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import re
import shlex
import shutil
import tracemalloc
from pathlib import Path

import pytest
import seqio

import mixtures
from mixtures.errors import DataError
from mixtures.own_data import read_jsonl
from mixtures.records import Example, Row
from mixtures.vocabularies import ByteVocabulary
from t5x_ext import show_batch

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "your_own_tasks.md"
LENGTHS = {"inputs": 400, "targets": 32}
LINE = {"instruction": "Say it in French.", "input": "cat", "output": "chat"}


@pytest.fixture(autouse=True)
def byte_vocabulary():
    """Tasks are built with a vocabulary that needs no file."""
    mixtures.configure(vocabulary=ByteVocabulary())
    yield
    mixtures.configure()


def write_jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    return path


def read(name: str, split: str) -> list[dict]:
    dataset = seqio.get_mixture_or_task(name).get_dataset(LENGTHS, split, shuffle=False)
    return list(dataset.as_numpy_iterator())


def blocks() -> list[tuple[str, str]]:
    """The fenced blocks of the guide: what stands after the fence, and the text."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def test_a_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "large.jsonl"
    unused = "x" * 200_000
    write_jsonl(path, *(LINE | {"input": str(i), "notes": unused} for i in range(100)))
    tracemalloc.start()
    try:
        rows = read_jsonl(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [row.input for row in rows] == [str(i) for i in range(100)]
    assert peak < path.stat().st_size / 4


def test_only_a_line_feed_ends_a_line_and_the_line_at_fault_is_named(tmp_path):
    path = tmp_path / "lines.jsonl"
    good = json.dumps(LINE | {"input": "a\u2028b\x85c"}, ensure_ascii=False).encode()
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\n" + good)
    assert [row.input for row in read_jsonl(path)] == ["a\u2028b\x85c"] * 2
    path.write_bytes(good + b"\n\xff\n")
    with pytest.raises(DataError, match="lines.jsonl: line 2: not UTF-8 at byte 0; allowed"):
        read_jsonl(path)


def test_the_guide_runs_and_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    printed, runs = "", 0
    for kind, text in blocks():
        if kind.startswith(("jsonl file=", "csv file=")):
            Path(kind.partition("=")[2]).write_text(text)
        elif kind == "python run":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(text, str(GUIDE), "exec"), namespace)
            printed, runs = output.getvalue(), runs + 1
        elif kind == "bash" and "t5x_ext.show_batch" in text:
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                assert show_batch.main(shlex.split(text.replace("\\\n", ""))[3:]) == 0
            printed = output.getvalue()
        elif kind == "text output":
            # The end of a line is not compared: editors strip it.
            assert [line.rstrip() for line in printed.splitlines()] == text.rstrip().split("\n")
        elif kind.startswith("text error="):
            Path("wrong.jsonl").write_text(kind.removeprefix("text error="))
            with pytest.raises(DataError) as caught:
                read_jsonl("wrong.jsonl")
            assert str(caught.value) == f"wrong.jsonl: {text.strip()}"
    assert runs == 4
    converted = [row for name in ("words", "words.test") for row in read_jsonl(f"{name}.jsonl")]
    assert {(row.input, *row.references) for row in converted} == {
        ("tree", "arbre"),
        ("fish", "poisson"),
        ("", "Loire"),
    }


def test_a_file_beside_others_has_their_splits(tmp_path):
    train = write_jsonl(tmp_path / "a b-c.jsonl", LINE, LINE | {"input": "dog"})
    write_jsonl(tmp_path / "a b-c.test.jsonl", LINE | {"output": ["un", "deux"], "id": 7})
    name = mixtures.resolve(str(train), prompt="ql.io")
    assert re.fullmatch(r"own\.a_b_c\.[0-9a-f]{8}", name)
    assert mixtures.resolve(str(train), prompt="ql.io") == name
    assert mixtures.resolve(str(train), prompt="ql.def_pos2") != name
    assert list(seqio.get_mixture_or_task(name).splits) == ["train", "test"]
    (example,) = read(name, "test")
    assert example["references"].tolist() == [b"un", b"deux"]
    assert (example["id"], example["task"]) == (b"7", b"a b-c")
    assert [row["inputs_pretokenized"] for row in read(name, "train")] == [
        b"input: cat\noutput: ",
        b"input: dog\noutput: ",
    ]
    only_test = mixtures.resolve(str(tmp_path / "a b-c.test.jsonl"))
    assert list(seqio.get_mixture_or_task(only_test).splits) == ["test"]


def test_texts_survive_unchanged_and_lines_end_at_line_feeds_only(tmp_path):
    odd = "a\u2028b\x85c\r\nd\te  ‘f’"
    path = write_jsonl(tmp_path / "odd.jsonl", LINE | {"input": odd}, LINE)
    path.write_text(path.read_text().replace("\n", "\n\n"))
    assert [row.input for row in read_jsonl(path)] == [odd, "cat"]
    (example, _) = read(mixtures.resolve(str(path), "ql.io"), "train")
    assert example["inputs_pretokenized"].decode() == f"input: {odd}\noutput: "
    assert (
        bytes(token - 3 for token in example["inputs"][:-1]).decode() == f"input: {odd}\noutput: "
    )


def test_a_task_file_is_divided_like_a_test_task(superni_dir, tmp_path):
    task = "task1344_glue_entailment_classification"
    path = shutil.copy(superni_dir / "tasks" / f"{task}.json", tmp_path)
    name = mixtures.resolve(str(path), "ql.def_pos2", 50)
    provider = seqio.get_mixture_or_task(name)
    assert [provider.num_input_examples(split) for split in provider.splits] == [50, 10, 100]
    mixtures.configure(superni_dir, ByteVocabulary())
    from_release = read(f"superni.ql.def_pos2.{task}.n50", "test")
    assert [row["inputs"].tolist() for row in read(name, "test")] == [
        row["inputs"].tolist() for row in from_release
    ]


def test_registered_rows_keep_examples_and_follow_the_configuration():
    row = Row(
        task="own",
        category="",
        id="1",
        definition="Add.",
        input="1 + 1",
        references=("2", "two"),
        positive_examples=(Example("0 + 0", "0", "nothing"),),
        negative_examples=(),
    )
    mixtures.register("rows_with_examples", [row], prompt="ql.def_pos2")
    (example,) = read("rows_with_examples", "train")
    assert b"Positive example 1-\ninput: 0 + 0\noutput: 0\n" in example["inputs_pretokenized"]
    mixtures.configure(vocabulary=ByteVocabulary(extra_ids=5))
    features = seqio.get_mixture_or_task("rows_with_examples").output_features
    assert features["inputs"].vocabulary.vocab_size == 264


def test_budgets_hold_for_each_task_of_a_file_and_nest(tmp_path):
    rows = [LINE | {"input": str(n), "task": "even" if n % 2 == 0 else "odd"} for n in range(50)]
    path = write_jsonl(tmp_path / "two_tasks.jsonl", *rows)
    write_jsonl(tmp_path / "two_tasks.validation.jsonl", *rows[:3])
    chosen = []
    for budget in (5, "n20", "all"):
        name = mixtures.resolve(str(path), "ql.io", budget)
        examples = read(name, "train")
        counts = collections.Counter(example["task"] for example in examples)
        assert counts[b"even"] == counts[b"odd"]
        chosen.append({example["id"] for example in examples})
        assert len(read(name, "validation")) == 3
    assert chosen[0] < chosen[1] < chosen[2]
    assert list(map(len, chosen)) == [10, 40, 50]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2: not JSON \(Expecting property name .*: column 2\)"),
        ("[]", "line 2: not an object"),
        ('{"input": "a", "input": "b"}', "line 2: key 'input' occurs 2 times in one object"),
        (LINE | {"output": []}, r"line 2: field 'output': \[\]; allowed: a string or a list"),
        (LINE | {"output": ["a", 1]}, "line 2: field 'output': 1; allowed"),
        (
            LINE | {"output": " "},
            "line 2: field 'output': ' '; allowed: a string that is not blank",
        ),
        (LINE | {"instruction": ""}, "line 2: field 'instruction': ''"),
        (
            LINE | {"input": None},
            "line 2: field 'input': missing; allowed: a string, which may be empty .*"
            "; found: instruction, output\\)$",
        ),
        (
            {"prompt": "a", "response": "b"},
            "line 2: field 'output': missing; allowed: .*; found: prompt, response\\)$",
        ),
        (
            LINE | {"input": "\ud800"},
            "line 2: .* is half of a surrogate pair; allowed: text that UTF-8",
        ),
        (LINE | {"id": "file-0"}, "id 'file-0' occurs twice"),
    ],
)
def test_wrong_lines_are_refused_with_their_number(tmp_path, line, message):
    wrong = line if isinstance(line, str) else json.dumps(line)
    path = tmp_path / "file.jsonl"
    path.write_text(f"{json.dumps(LINE)}\n{wrong}\n")
    with pytest.raises(DataError, match=message) as caught:
        read_jsonl(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_registrations_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="holds no row"):
        read_jsonl(tmp_path / "empty.jsonl")
    mixtures.register("taken_name", [LINE])
    (tmp_path / "now.jsonl").touch()
    for call, message in (
        (lambda: mixtures.register("taken_name", [LINE]), "'taken_name' is registered already"),
        (lambda: mixtures.register("a/b", [LINE]), "name 'a/b'; allowed: letters"),
        (lambda: mixtures.register("superni.x", [LINE]), "not starting with 'superni.'"),
        (lambda: mixtures.register("x1", [LINE], prompt="ql.oi"), "did you mean 'ql.io'"),
        (lambda: mixtures.register("x2", [LINE], budget="few"), "budget 'few'"),
        (lambda: mixtures.register("x3", {"dev": [LINE]}), "split 'dev'; allowed: train"),
        (lambda: mixtures.register("x4", [{"input": "a"}]), "task 'x4': row 0: field 'output'"),
        (lambda: mixtures.register("x5", tmp_path / "other.jsonl"), "data file .* not found; "),
        (
            lambda: mixtures.register("x6", [Row("t", "", "1", "d", "i", (), (), ())]),
            r"task 'x6': row 0: field 'references': \(\); allowed: one or more strings",
        ),
        (
            lambda: mixtures.register(
                "x7", [Row("t", "", "1", "d", "i", ("a",), (Example("i", "o", None),), ())]
            ),
            "task 'x7': row 0: field 'example explanation': missing",
        ),
        (
            lambda: mixtures.resolve(str(tmp_path / "no.jsonl")),
            r"data file .* not found; allowed: a .*; did you mean 'now.jsonl'\?",
        ),
    ):
        with pytest.raises(DataError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_told_from_a_scope(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").touch()
    (tmp_path / "odd").touch()
    for name, message in (
        ("mine", r"file 'mine'; allowed: a .jsonl file, .* task; did you mean 'mine.jsonl'\?$"),
        ("mine.csv", "file 'mine.csv'; allowed: a .jsonl file, one object with instruction, "),
        ("data/mine", "file 'data/mine'; allowed: a .jsonl file"),
        ("odd", "file 'odd'; allowed: a .jsonl file"),
        ("held_on", "scope 'held_on' is unknown; allowed: a task, .*; did you mean 'held_in'?"),
    ):
        with pytest.raises(DataError, match=f"MIXTURE_OR_TASK_NAME: {message}"):
            mixtures.resolve(name)


@pytest.mark.parametrize("name", ["~nobody-here/x.jsonl", "a" * 400 + ".jsonl", "a\0b.json"])
def test_a_name_that_no_file_can_have_is_one_line(name):
    with pytest.raises(DataError, match="allowed: a path") as caught:
        mixtures.resolve(name)
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value)


def test_a_very_long_scope_is_cut_in_the_message():
    with pytest.raises(DataError, match="MIXTURE_OR_TASK_NAME: scope 'xxx.*' is unknown") as caught:
        mixtures.resolve("x" * 5000)
    assert len(str(caught.value)) < 500


def test_a_source_comes_along_for_metrics_of_rewriting(tmp_path):
    file = tmp_path / "mine.jsonl"
    lines = [
        {"instruction": "Simplify.", "input": "It is arduous.", "output": "It is hard."},
        {
            "instruction": "Simplify.",
            "input": "Say: Go hence.",
            "output": "Go.",
            "source": "Go hence.",
        },
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = seqio.get_mixture_or_task(mixtures.resolve(str(file), prompt="ql.io"))
    rows = list(task.get_dataset({"inputs": 32, "targets": 8}, "train", shuffle=False))
    assert [row["source"].numpy() for row in rows] == [b"", b"Go hence."]
