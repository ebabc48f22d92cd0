"""Our tasks, read from their rows, give what SeqIO gives of them, without importing it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import seqio

import mixtures
from mixtures import lookup, on_demand, prompts, vocabularies
from mixtures.context import current_context
from mixtures.records import Row
from mixtures.seqio_tasks import as_seqio
from mixtures.tasks import RowTask
from t5x_ext.data import row_examples, seqio_examples
from t5x_ext.data.records import Example

REPO = Path(__file__).resolve().parents[2]
NAMES = {
    "superni.tk.def_pos2.held_in.n10": "train",
    "superni.ql.io.task152_food_analogy.all": "validation",
    "writing.fluency": "validation",  # several references, which are tokens
    "writing.grammaticality": "test",  # gold edits
    "writing.mixed.generic_20.simplification_20": "train",
    "self.harbour.seeds": "train",
}


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    yield
    mixtures.configure()


def fields(example: Example) -> tuple:
    texts = (example.id, example.task, example.category, example.inputs_pretokenized)
    scored = (example.references, example.source, example.edits, example.truncated)
    targets = [(target.dtype, target.tolist()) for target in example.targets]
    return texts, scored, (example.inputs.dtype, example.inputs.tolist()), targets


def assert_same(name: str, split: str, lengths: dict[str, int]) -> list[Example]:
    ours = lookup.find(mixtures.resolve(name))
    assert isinstance(ours, RowTask)
    task = seqio.get_mixture_or_task(ours.name)
    found = list(row_examples.read_examples(ours, split, lengths))
    through_seqio = list(seqio_examples.read_examples(task, split, lengths))
    assert [fields(one) for one in found] == [fields(one) for one in through_seqio]
    assert found
    return found


@pytest.mark.parametrize(("joined", "trim"), [(False, "keep_question"), (True, "right")])
def test_examples_of_rows_are_those_that_seqio_gives(joined: bool, trim: str) -> None:
    mixtures.configure(joined=joined, trim=trim)
    for name, split in NAMES.items():
        found = assert_same(name, split, {"inputs": 60, "targets": 12})
        assert any(one.truncated for one in found) or "seeds" in name or "io" in name


@pytest.mark.parametrize("vocabulary", [vocabularies.ByteVocabulary(), "llama"])
def test_so_are_those_of_a_file_with_several_answers_and_edge_cases(
    tmp_path: Path, vocabulary: object
) -> None:
    if vocabulary == "llama":
        vocabulary = vocabularies.SentencePieceVocabulary(vocabularies.harbour_vocabulary().path)
    rows = [
        {"instruction": "Say it.", "input": "good day\x00\r\n", "output": ["bonjour", "salut ü"]},
        {"instruction": "Name one.", "input": "", "output": "<extra_id_0> 🧀 <unk>", "id": 7},
        {"instruction": "Mend it.", "input": "a", "output": "b", "source": "a ."},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for joined in (False, True):
        mixtures.configure(vocabulary=vocabulary, joined=joined)
        found = assert_same(str(path), "train", {"inputs": 40, "targets": 8})
        assert [len(one.targets) for one in found] == [2, 1, 1]
        assert [one.source for one in found] == ["", "", "a ."]


def test_a_prompt_sees_all_of_a_row_through_seqio_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "PROMPTS", dict(prompts.PROMPTS))
    prompts.register_prompt("whole_row")(repr)
    whole = Row("t", "c", "0", "Mend it.", "a", ("b .",), source="a .", targets=("b",))
    rows = {
        "all": [dataclasses.replace(whole, edits='{"0": []}', document="d1"), whole],
        "documents": [Row("t", "c", "0", "Say it.", "a", ("b",), document="d1")],
        "plain": [Row("t", "c", "0", "Say it.", "a", ("b",))],
    }
    for name, each in rows.items():
        each = [dataclasses.replace(row, id=str(place)) for place, row in enumerate(each)]
        task = RowTask(
            f"seen_{name}", ("train",), lambda _, e=each: e, "whole_row", current_context()
        )
        lengths = {"inputs": 600, "targets": 8}
        ours = row_examples.read_examples(task, "train", lengths)
        theirs = seqio_examples.read_examples(as_seqio(task), "train", lengths)
        shown = [one.inputs_pretokenized for one in ours]
        assert shown == [one.inputs_pretokenized for one in theirs] == list(map(repr, each))


def test_a_mixture_of_ours_is_read_from_rows_and_a_plain_name_is_left_to_seqio() -> None:
    name = "superni.ql.io.task152_food_analogy.n10"
    task = on_demand.find(name)
    assert task is on_demand.find(name)
    assert task.name in seqio.TaskRegistry.names()
    assert on_demand.find("held_in") is None
    seqio.TaskRegistry._REGISTRY["self.of_another"] = plain = object()
    try:
        assert on_demand.find("self.of_another") is None
        assert lookup.find("self.of_another") is plain
    finally:
        del seqio.TaskRegistry._REGISTRY["self.of_another"]


READ = """
import sys, mixtures
from t5x_ext.configs import DatasetConfig
from t5x_ext.data import datasets, task_metrics
from mixtures.vocabularies import bundled_vocabulary
mixtures.configure()
for name, split in {names!r}.items():
    cfg = DatasetConfig(name, {{"inputs": 64, "targets": 16}}, split, 8)
    assert datasets.has_split(cfg) and datasets.load_flat(cfg)
    task_metrics.own_metrics(cfg, [])
print([name for name in ("seqio", "tensorflow", "tensorflow_datasets") if name in sys.modules])
"""


def test_reading_them_imports_no_tensorflow() -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ.format(names=NAMES)], cwd=REPO, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
