from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from mixtures.bundled import build
from mixtures.bundled.draws import Draw
from mixtures.prompts import get_prompt
from mixtures.records import TaskRecord, rows
from mixtures.release import Release
from mixtures.vocabularies import bundled_vocabulary

TEST_CATEGORIES = {
    "Textual Entailment",
    "Title Generation",
    "Coreference Resolution",
    "Answerability Classification",
    "Question Rewriting",
    "Data to Text",
    "Word Analogy",
    "Cause Effect Classification",
    "Dialogue Act Recognition",
    "Keyword Tagging",
    "Overlap Extraction",
    "Grammar Error Correction",
}


@pytest.fixture(scope="module")
def release() -> Release:
    return Release(build.SUITE, missing="refuse")


@pytest.fixture(scope="module")
def tracks(release: Release) -> dict[str, list[TaskRecord]]:
    return {
        track: [release.task(name) for name in release.names(track)] for track in ("train", "test")
    }


def test_draws_are_the_same_on_every_python_version():
    draw = Draw("a seed")
    assert [draw.below(100) for _ in range(8)] == [39, 3, 76, 40, 87, 90, 67, 1]
    assert draw.mixed("abcdef") == list("bacfed")


def test_script_reproduces_the_shipped_files(capsys: pytest.CaptureFixture[str]):
    assert build.main(["--check"]) == 0
    assert "files as built" in capsys.readouterr().out


def test_check_names_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    copy = shutil.copytree(build.SUITE, tmp_path / "suite")
    changed, missing = sorted((copy / "tasks").iterdir())[:2]
    changed.write_text(changed.read_text().replace("the", "a", 1))
    missing.unlink()
    (copy / "notes.txt").write_text("not part of the suite")
    assert build.main(["--out", str(copy), "--check"]) == 1
    message = capsys.readouterr().err
    assert f"{changed.name}: different" in message
    assert f"{missing.name}: missing" in message
    assert "notes.txt: superfluous" in message
    assert len(message.splitlines()) == 3


def test_shipped_files_are_small():
    sizes = [path.stat().st_size for path in build.SUITE.rglob("*") if path.is_file()]
    assert max(sizes) < 1_000_000
    assert sum(sizes) < 6_000_000


def test_tracks_share_no_category_and_no_definition(tracks: dict[str, list[TaskRecord]]):
    train, test = tracks["train"], tracks["test"]
    assert len(train) >= 40
    assert {record.category for record in test} == TEST_CATEGORIES
    assert not {record.category for record in train} & TEST_CATEGORIES
    definitions = Counter(record.definition for record in train + test)
    assert max(definitions.values()) == 1


def test_instances_are_enough_and_different(tracks: dict[str, list[TaskRecord]]):
    for track, count in (("train", build.TRAIN_INSTANCES), ("test", build.TEST_INSTANCES)):
        for record in tracks[track]:
            assert len(record.instances) == count, record.name
            examples = record.positive_examples + record.negative_examples
            inputs = [item.input for item in (*record.instances, *examples)]
            assert len(set(inputs)) == len(inputs), record.name


def test_examples_show_two_outputs_and_a_wrong_one(tracks: dict[str, list[TaskRecord]]):
    for record in tracks["train"] + tracks["test"]:
        first, second = record.positive_examples
        assert first.output != second.output, record.name
        assert first.explanation and second.explanation, record.name
        for example in record.negative_examples:
            assert not example.explanation.endswith(f": {example.output}"), record.name


def test_no_label_is_a_good_guess(tracks: dict[str, list[TaskRecord]]):
    for record in tracks["test"]:
        counts = Counter(instance.references[0] for instance in record.instances[:100])
        assert max(counts.values()) <= 60, record.name


def test_vocabulary_knows_every_word(tracks: dict[str, list[TaskRecord]]):
    vocabulary = bundled_vocabulary()
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
    assert vocabulary.vocab_size == build.VOCABULARY_SIZE
    for record in tracks["train"] + tracks["test"]:
        lines = [f"{item.input} {item.references[0]}" for item in record.instances]
        text = " ".join([record.definition, *lines])
        ids = vocabulary.encode(text)
        assert vocabulary.unk_id not in ids, record.name
        assert vocabulary.decode(ids) == text, record.name
        assert len(ids) < 2 * len(text.split()), record.name


@pytest.mark.parametrize(("prompt", "limit"), [("ql.io", 40), ("tk.def", 64), ("ql.def_pos2", 128)])
def test_prompts_are_short(prompt: str, limit: int, tracks: dict[str, list[TaskRecord]]):
    vocabulary, render = bundled_vocabulary(), get_prompt(prompt).render
    for record in tracks["train"] + tracks["test"]:
        longest = max(rows(record, record.instances), key=lambda row: len(row.input))
        assert len(vocabulary.encode(render(longest))) < limit, record.name
