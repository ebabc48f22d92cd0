"""`self.*` names: domains with seeds, corpus and evaluation sets as SeqIO tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import seqio

import mixtures
from mixtures import files
from mixtures.errors import DataError
from mixtures.specialization.bundled import pretraining, sets, vocabulary
from mixtures.specialization.names import parse_name, with_settings
from mixtures.specialization.records import read_evaluation
from mixtures.specialization.rows import rows_of, set_names
from mixtures.specialization.tasks import fingerprint
from mixtures.task_metrics import metrics_of
from mixtures.vocabularies import harbour_vocabulary

LONG = {"inputs": 2000, "targets": 100}


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPECIALIZATION_DIR", raising=False)
    mixtures.configure(vocabulary=harbour_vocabulary())


def read(name: str, split: str, lengths: dict = LONG) -> list[dict]:
    task = seqio.get_mixture_or_task(mixtures.resolve(name))
    return list(task.get_dataset(lengths, split, shuffle=False).as_numpy_iterator())


def text(row: dict) -> str:
    return row["inputs_pretokenized"].decode()


@pytest.mark.parametrize(
    "name",
    [
        "self.harbour.harbour_ner",
        "self.ss.none.harbour.harbour_ner.k5",
        "self.alpaca.harbour.harbour_ner:harbour_log.n50",
        "self.harbour.seeds.n8",
    ],
)
def test_names_are_read_and_written(name: str) -> None:
    assert str(parse_name(name)) == name


def test_prompt_and_budget_are_added_to_a_name() -> None:
    assert with_settings("self.harbour.seeds", "ss.none", "n5") == "self.ss.none.harbour.seeds.n5"
    with pytest.raises(DataError, match="prompt 'alpaca' with MIXTURE_OR_TASK_NAME"):
        with_settings("self.ss.none.harbour.seeds", "alpaca", None)


@pytest.mark.parametrize(
    "name", ["self.harbour", "self.harbour.a:a", "self.harbour.seeds:a", "self.harbour.a.k"]
)
def test_malformed_names_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="allowed:"):
        parse_name(name)


def test_shots_are_the_first_seeds_of_the_task_in_the_prompts_own_template() -> None:
    seeds = [row for row in read("self.harbour.seeds", "train") if "ships and berths" in text(row)]
    row = read("self.ss.none.harbour.harbour_ner.k5", "test")[0]
    parts = text(row).split("\n\n")  # an instruction, and its input with the answer, in turn
    assert len(parts) == 12 and parts[-1].endswith("Output:")
    outputs = [part.rpartition("Output: ")[2] for part in parts[1:-1:2]]
    assert outputs == [seed["targets_pretokenized"].decode() for seed in seeds]
    assert text(read("self.harbour.harbour_ner.k1", "test")[0]).count("### Response:") == 2


def test_a_prompt_that_does_not_fit_loses_demonstrations_from_the_front() -> None:
    name = "self.harbour.harbour_log.k5"
    whole = text(read(name, "test")[0])
    row = read(name, "test", {"inputs": 250, "targets": 100})[0]
    assert row["truncated"] == 1
    assert whole.endswith(text(row)) and 1 < text(row).count("### Response:") < 6


def test_train_rows_of_several_sets_are_counted_for_each_and_nest() -> None:
    def inputs(name: str) -> set[str]:
        return {text(row) for row in read(name, "train")}

    few = inputs("self.harbour.harbour_cargo:harbour_log.n10")
    many = inputs("self.harbour.harbour_cargo:harbour_log.n50")
    assert (len(few), len(many)) == (20, 100) and few < many
    assert fingerprint("self.harbour.seeds.n5", "train") != fingerprint(
        "self.harbour.seeds.n6", "train"
    )


def test_no_text_that_is_learnt_first_has_a_question_of_a_test() -> None:
    tested = {row.input for name in sets.NAMES for row in sets.read(name, "test")}
    assert len(tested) == 400
    for row in pretraining.texts():
        assert "### Response:" not in row.input
        for question in (row.input, row.references[0]):
            assert not any(one in question for one in tested)


def test_the_vocabulary_is_trained_the_same_again() -> None:
    assert vocabulary.build_vocabulary() == vocabulary.MODEL.read_bytes()


def test_a_directory_of_ones_own_is_read(tmp_path: Path) -> None:
    row = {"id": "1", "task": "colour", "instruction": "Say.", "input": "Sky?", "output": "blue"}
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "sky.jsonl").write_text(json.dumps(row))
    (tmp_path / "eval" / "sky").mkdir(parents=True)
    asked = row | {"references": ["blue", "azure"], "kind": "classification", "split": "test"}
    (tmp_path / "eval" / "sky" / "colour.jsonl").write_text(json.dumps(asked))
    (tmp_path / "eval" / "sky" / "colour_labels.json").write_text('["blue", "red"]')
    mixtures.configure(data_dir=tmp_path, vocabulary=harbour_vocabulary())
    (found,) = read("self.sky.colour.k1", "test")
    assert found["references"].tolist() == [b"blue", b"azure"]
    assert metrics_of("self.sky.colour.k1") == ("f1", "label_accuracy", "label_validity")
    assert set_names("sky", files.path(tmp_path)) == ("colour",)
    with pytest.raises(DataError, match="evaluation set 'color'.* did you mean 'colour'"):
        read("self.sky.color", "test")
    with pytest.raises(DataError, match="task 'colour' has 1 seeds; allowed: 5"):
        read("self.sky.colour.k5", "test")
    with pytest.raises(DataError, match="domain 'harbour': not in .*; allowed: sky"):
        read("self.harbour.harbour_ner", "test")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"references": ["blue", None]}, "line 1: field 'references': .'blue', None.; allowed"),
        ({"split": 1}, "line 1: field 'split': 1; allowed: text"),
        ({"kind": None}, "line 1: field 'kind': missing; allowed: text"),
        ({"input": "\ud800"}, r"line 1: '\\ud800' is half of a surrogate pair"),
    ],
)
def test_a_row_of_other_types_is_refused(tmp_path: Path, fields: dict, message: str) -> None:
    row = {"id": "1", "instruction": "Say.", "input": "Sky?", "references": ["blue"]}
    (tmp_path / "eval" / "sky").mkdir(parents=True)
    (tmp_path / "eval" / "sky" / "colour.jsonl").write_text(json.dumps(row | fields))
    mixtures.configure(data_dir=tmp_path, vocabulary=harbour_vocabulary())
    with pytest.raises(DataError, match=message):
        read("self.sky.colour", "test")


def test_a_row_without_a_split_is_a_test_row_to_every_reader(tmp_path: Path) -> None:
    (tmp_path / "eval" / "sky").mkdir(parents=True)
    file = tmp_path / "eval" / "sky" / "colour.jsonl"
    row = {"instruction": "Say.", "references": ["blue"], "meta": {"label_set": "colour"}}
    splits = {"a": {}, "b": {"split": "train"}, "c": {"split": "test"}}
    lines = [json.dumps(row | {"id": n, "input": n} | split) for n, split in splits.items()]
    file.write_text("\n".join(lines))
    (tmp_path / "eval" / "colour_labels.json").write_text('["blue", "red"]')
    for split, ids in (("test", ["a", "c"]), ("train", ["b"])):
        one = rows_of(parse_name("self.sky.colour"), split, files.path(tmp_path))
        assert [each.id for each in one] == ids
        assert one == read_evaluation(file, split)
        assert {each.labels for each in one} == {("blue", "red")}
    file.write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(DataError, match="colour.jsonl: id 'a' occurs twice"):
        read_evaluation(file, "test")
