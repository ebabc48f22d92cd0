"""Prompts of self-specialization, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

from mixtures.prompts import TEMPLATES, get_prompt
from mixtures.records import Example, Row
from mixtures.specialization_prompts import (
    INSTRUCTIONS_TEMPLATE,
    RESPONSE_TEMPLATE,
    Demonstration,
    few_shot,
    instructions_prompt,
    response_prompt,
)


def row(instruction: str, text: str, examples: tuple[Example, ...] = (), domain: str = "") -> Row:
    return Row("task", domain, "0", instruction, text, ("x",), examples, ())


def test_prompts_meet_the_goldens(specialization_dir: Path) -> None:
    goldens = (specialization_dir / "goldens" / "prompts.jsonl").read_text().splitlines()
    for golden in map(json.loads, goldens):
        task = (golden.get("instruction", ""), golden.get("input", ""))
        demos = golden.get("demos", ())
        if golden["template"] == "instruction_generation":
            text = instructions_prompt(golden["domain"], demos)
            examples = tuple(Example(input=c, output=i) for i, c in demos)
            named = row("", "", examples, golden["domain"]), "ss.instructions"
        elif golden["template"] == "response_generation":
            text = response_prompt(golden["domain"], *task, golden["document"])
            named = row(*task, domain=golden["domain"]), "ss.response"
        else:
            name = {"none": "ss.none", "alpaca": "alpaca"}[golden["template"]]
            shown = [Demonstration(*demo) for demo in demos]
            text = few_shot(*TEMPLATES[name], shown, *task)
            examples = tuple(Example(demo.input, demo.output) for demo in shown)
            named = row(*task, examples), name if not demos else f"{name}.pos5"
        assert text == golden["text"], golden["id"]
        if golden.get("document") is None:
            assert get_prompt(named[1]).render(named[0]) == golden["text"], golden["id"]
    assert len(goldens) == 8


def test_the_templates_are_the_given_files(specialization_dir: Path) -> None:
    for name, text in (
        ("instruction_generation", INSTRUCTIONS_TEMPLATE),
        ("response_generation", RESPONSE_TEMPLATE),
    ):
        given = (specialization_dir / "prompts" / f"{name}.txt").read_text()
        assert given.rstrip("\n") == text.rstrip("\n")


def test_one_shot_shows_one_example() -> None:
    examples = tuple(Example(f"in {n}", f"out {n}") for n in range(3))
    text = get_prompt("ss.none.pos1").render(row("Do it.", "here", examples))
    assert text == "Do it.\n\nInput: in 0\nOutput: out 0\n\nDo it.\n\nInput: here\nOutput:"
