"""The bundled writing suite: always the same rows, right answers, nothing shared between splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixtures.prompts import get_prompt
from mixtures.vocabularies import writing_vocabulary
from mixtures.writing.__main__ import main
from mixtures.writing.bundled.lexicon import EASY_WORDS, PRAISE_AND_BLAME, SYNONYMS
from mixtures.writing.bundled.rows import SIZES, bundled_items
from mixtures.writing.m2 import Edit, apply_edits
from mixtures.writing.names import WritingName
from mixtures.writing.rows import rows_of
from mixtures.writing.sets import GENERIC, INSTRUCTIONS, SPLITS, TASKS

EXPECTED = [
    ("Leo makes the decision to feed a dog.", "Leo decides to feed a dog."),
    ("The big driver cleans the sofa on Tuesday.", "The large driver cleans the couch on Tuesday."),
]


@pytest.mark.parametrize("task", [*TASKS, GENERIC])
def test_splits_share_no_input(task: str) -> None:
    seen: set[tuple[str, str]] = set()
    for split in SPLITS:
        items = bundled_items(task, split)
        assert len(items) >= SIZES[split]
        assert len({item.id for item in items}) == len(items)
        inputs = {(item.instruction, item.source) for item in items}
        assert not seen & inputs
        seen |= inputs


@pytest.mark.parametrize("task", TASKS)
def test_most_rows_change_and_a_changed_row_is_english(task: str) -> None:
    items = bundled_items(task, "train")
    changed = [item for item in items if item.source != item.references[0]]
    assert len(changed) > 0.85 * len(items)
    for item in items:
        (reference,) = item.references
        assert reference[0].isupper()
        assert reference.endswith(".")
        assert "  " not in item.source + reference


def test_the_rows_stay_what_they_are() -> None:
    shown = {task: bundled_items(task, "test")[0] for task in ("clarity", "paraphrasing")}
    assert [(item.source, *item.references) for item in shown.values()] == EXPECTED


def test_answers_of_tables_are_those_of_the_tables() -> None:
    for item in bundled_items("simplification", "test"):
        assert not set(item.references[0].replace(".", "").split()) & set(EASY_WORDS)
    for item in bundled_items("neutralization", "test"):
        assert not set(item.references[0].replace(".", "").split()) & set(PRAISE_AND_BLAME)
    for item in bundled_items("paraphrasing", "test"):
        assert not set(item.references[0].replace(".", "").split()) & set(SYNONYMS)


def test_the_command_writes_every_row(tmp_path: Path) -> None:
    assert main([f"--out={tmp_path}"]) == 0
    lines = (tmp_path / "clarity.test.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == SIZES["test"]
    row = json.loads(lines[0])
    assert (row["input"], *row["references"]) == EXPECTED[0]
    assert len(list(tmp_path.iterdir())) == len(SPLITS) * (len(TASKS) + 1)


def test_gold_edits_make_the_reference() -> None:
    for item in bundled_items("grammaticality", "test"):
        edits = [Edit(a, b, tuple(c), t) for a, b, c, t in json.loads(item.edits)["0"]]
        assert " ".join(apply_edits(item.source.split(), edits)) == item.references[0]


def test_generic_rows_have_no_instruction_of_a_writing_task_and_some_have_no_input() -> None:
    items = bundled_items(GENERIC, "train")
    assert not {item.instruction for item in items} & set(INSTRUCTIONS.values())
    assert 0.1 < sum(not item.source for item in items) / len(items) < 0.6


def test_a_row_takes_about_seventy_tokens() -> None:
    vocabulary, render = writing_vocabulary(), get_prompt("alpaca_lora").render
    for task in (*TASKS, GENERIC):
        rows = rows_of(WritingName(task), "test", None)[task]
        lengths = [len(vocabulary.encode(render(row) + row.references[0])) for row in rows]
        assert max(lengths) <= 96
        assert not any(vocabulary.unk_id in vocabulary.encode(render(row)) for row in rows)
