"""Prompts: the golden texts of both reference implementations, and the registry."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from mixtures.errors import DataError
from mixtures.prompts import (
    PROMPTS,
    Prompt,
    choose_reference,
    draw,
    get_prompt,
    register_prompt,
)
from mixtures.records import Example, Row, rows
from mixtures.release import Release
from mixtures.splits import split_instances

ROW = Row(
    task="task001_titles",
    category="Title Generation",
    id="i0",
    definition="Write a title",
    input="Some {text}",
    references=("a", "b", "c"),
    positive_examples=(
        Example("p1", "o1", "e1"),
        Example("p2.", "o2.", ""),
        Example("p3", "o3", "e3"),
    ),
    negative_examples=(Example("n1", "m1", "f1"),),
)


@pytest.fixture(scope="module")
def release(superni_dir) -> Release:
    return Release(superni_dir)


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_quick_learners_golden(release):
    golden = read_jsonl(release.path / "golden" / "quick_learners_prompts.jsonl")
    assert len(golden) == 66
    for expected in golden:
        record = release.task(expected["task"])
        splits = split_instances(record, "test", "paper")
        part = {"test": splits.test, "val": splits.validation, "hundred": splits.train}
        row = rows(record, part[expected["split"]])[expected["row"]]
        assert get_prompt("ql.def_pos2").render(row) == expected["inputs_with_instruction"]
        assert get_prompt("ql.io").render(row) == expected["inputs_without_instruction"]
        assert expected["target"] in row.references


# Tk-Instruct's flags: (task name, definition, positives, negatives, explanations).
TK_NAMES = {
    (True, False, 0, 0, False): "tk.name",
    (False, True, 0, 0, False): "tk.def",
    (False, False, 2, 0, False): "tk.pos2",
    (False, True, 2, 0, False): "tk.def_pos2",
    (False, True, 2, 2, False): "tk.def_pos2_neg2",
    (False, True, 2, 0, True): "tk.def_pos2_expl",
}


def test_tk_instruct_golden(release):
    golden = read_jsonl(release.path / "golden" / "tk_instruct_prompts.jsonl")
    seen = Counter()
    for expected in golden:
        record = release.task(expected["task"])
        (row,) = rows(record, [i for i in record.instances if i.id == expected["id"]])
        flags = (
            expected["add_task_name"],
            expected["add_task_definition"],
            expected["num_pos_examples"],
            expected["num_neg_examples"],
            expected["add_explanation"],
        )
        assert get_prompt(TK_NAMES[flags]).render(row) == expected["inputs"]
        seen[TK_NAMES[flags]] += 1
    assert seen == dict.fromkeys(TK_NAMES.values(), 28)


def test_tk_mix_draws_its_five_encodings_by_seed_and_id():
    mix = get_prompt("tk.mix")
    names = ("tk.def", "tk.pos2", "tk.def_pos2", "tk.def_pos2_neg2", "tk.def_pos2_expl")
    encodings = {get_prompt(name).formats[0]: name for name in names}
    assert {encodings[format] for format in mix.formats} == set(names)
    seen = Counter()
    for k in range(1000):
        row = Row(**{**vars(ROW), "id": f"i{k}"})
        text = mix.render(row, seed=3)
        assert text == mix.render(row, seed=3)
        seen[next(name for name in names if get_prompt(name).render(row) == text)] += 1
    assert set(seen) == set(names)
    assert all(150 < count < 250 for count in seen.values())
    assert len({mix.render(ROW, seed) for seed in range(50)}) == 5


def test_alpaca():
    assert get_prompt("alpaca").render(ROW) == (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nWrite a title\n\n### Input:\nSome {text}\n\n### Response:"
    )
    assert get_prompt("alpaca").render(Row(**{**vars(ROW), "input": ""})) == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nWrite a title\n\n### Response:"
    )


def test_flan_draws_one_of_ten_templates():
    flan = get_prompt("flan")
    texts = {flan.render(ROW, seed) for seed in range(200)}
    assert len(texts) == 10
    assert "Definition: Write a title\nInput: Some {text}\nOutput:" in texts
    assert all("Write a title" in text and "Some {text}" in text for text in texts)


def test_ni_v1():
    assert get_prompt("ni_v1").render(ROW) == (
        "Definition: Write a title\n"
        "Negative Example1- \ninput: n1\noutput: m1\nreason: f1\n"
        "Positive Example1- \ninput: p1\noutput: o1\nreason: e1\n"
        "Positive Example2- \ninput: p2.\noutput: o2.\n"
        "input: Some {text}\noutput:"
    )


def test_cot():
    assert get_prompt("cot").render(ROW) == (
        "Write a title\n\n"
        "Q: p1\nA: Let's think step by step. e1 The answer is o1.\n\n"
        "Q: p2.\nA: Let's think step by step. The answer is o2.\n\n"
        "Q: Some {text}\nA: Let's think step by step."
    )


def test_every_prompt_has_a_version():
    for name, prompt in PROMPTS.items():
        assert prompt.versioned_name == f"{name}.v{prompt.version}"
        assert prompt.version >= 1


def test_unknown_prompt():
    message = r"prompt 'tk.def_pos' is unknown; allowed: alpaca, .*; did you mean 'tk.def_pos2'\?$"
    with pytest.raises(DataError, match=message):
        get_prompt("tk.def_pos")


def test_registering(monkeypatch):
    monkeypatch.setattr("mixtures.prompts.PROMPTS", dict(PROMPTS))

    @register_prompt("mine.shout", version=2)
    def shout(row: Row) -> str:
        return row.input.upper()

    assert get_prompt("mine.shout") == Prompt("mine.shout", 2, (shout,))
    assert get_prompt("mine.shout").render(ROW) == "SOME {TEXT}"
    with pytest.raises(DataError, match="'mine.shout' is registered already; allowed: a new name"):
        register_prompt("mine.shout")(shout)
    with pytest.raises(DataError, match="prompt name 'a/b'; allowed: letters, digits"):
        register_prompt("a/b")(shout)


def test_reference_is_a_pure_function_of_seed_id_epoch():
    by_epoch = [choose_reference(ROW, 0, epoch) for epoch in range(300)]
    assert by_epoch == [choose_reference(ROW, 0, epoch) for epoch in range(300)]
    assert all(70 < by_epoch.count(reference) < 130 for reference in ROW.references)
    assert by_epoch != [choose_reference(ROW, 1, epoch) for epoch in range(300)]
    single = Row(**{**vars(ROW), "references": ("only",)})
    assert choose_reference(single, 5, 7) == "only"


def test_draw_never_changes():
    """Runs of other versions must stay comparable: these values are fixed for good."""
    assert [draw(5, "format", 0, f"i{k}") for k in range(8)] == [4, 3, 3, 1, 1, 3, 2, 3]
    assert draw(10**9, "a", 12) != draw(10**9, "a1", 2)
