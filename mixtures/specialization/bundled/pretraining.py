"""What a model of the harbour learns before it is asked to specialise itself: texts of its domain.

A pretrained language model has read lists of tasks, and questions with their answers. These are
such texts in miniature, in the forms of the prompts of self-specialization: lists of tasks to go on
with, and tasks to answer, with or without a passage. None has the words of an evaluation
set's instruction, a question of its test split, or the template of Alpaca.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple

from mixtures.bundled.draws import Draw
from mixtures.records import Row
from mixtures.specialization.bundled import sets
from mixtures.specialization.bundled.lexicon import BERTHS, CAUSES, NUMBERS, PEOPLE, SHIPS
from mixtures.specialization_prompts import instructions_prompt, plain_prompt, response_prompt

DOMAIN = "harbour"
SEED = "t5x_ext harbour pretraining 1"
NUM_LISTS, NUM_ANSWERS, NUM_PLAIN = 1200, 2400, 600
_SHOWN, _WRITTEN = 2, 5  # tasks of a list that are given, and that follow

_ASK = ("Name", "Give", "Find", "Tell me", "Write down", "Copy out", "State", "Point out", "Pick")
_FROM = (
    "in the {text}", "that the {text} names", "mentioned in this {text}", "from the {text} below",
    "which the {text} gives", "read in the {text}",
)  # fmt: skip
_END = ("", "", " Use no other words.", " One line is enough.", " Be brief.", " Do not explain.")


class Task(NamedTuple):
    """A task with its answer."""

    instruction: str
    input: str
    output: str


@functools.lru_cache
def texts() -> tuple[Row, ...]:
    """The texts as rows whose inputs are whole prompts."""
    draw = Draw(SEED)
    pairs = [_list(draw) for _ in range(NUM_LISTS)]
    pairs += [_answer(draw) for _ in range(NUM_ANSWERS)]
    pairs += [_plain(draw) for _ in range(NUM_PLAIN)]
    return tuple(
        Row(f"{DOMAIN}_pretraining", "", f"text-{number}", "", prompt, (target,))
        for number, (prompt, target) in enumerate(draw.mixed(pairs))
    )


def _list(draw: Draw) -> tuple[str, str]:
    """A list of tasks that is begun, and five that follow."""
    tasks = [_task(draw) for _ in range(_SHOWN + _WRITTEN)]
    prompt = instructions_prompt(DOMAIN, [(one.instruction, one.input) for one in tasks[:_SHOWN]])
    parts = []
    for number, one in enumerate(tasks[_SHOWN:], start=_SHOWN + 1):
        head = "" if number == _SHOWN + 1 else f"###\n{number}. Instruction:"
        parts.append(f"{head} {one.instruction}\n{number}. Input:\n{one.input}\n")
    return prompt, "".join(parts) + "###"


def _answer(draw: Draw) -> tuple[str, str]:
    """A task to answer, half of the time with a passage."""
    task = _task(draw)
    passage = draw.one(_passages()) if draw.coin() else None
    return response_prompt(DOMAIN, task.instruction, task.input, passage), f" {task.output}"


def _plain(draw: Draw) -> tuple[str, str]:
    """A task and its answer as a text has them, which then goes on to something else."""
    task, after = _task(draw), _task(draw)
    return plain_prompt(task.instruction, task.input), f" {task.output}\n\n{after.instruction}"


@functools.lru_cache
def _passages() -> tuple[str, ...]:
    path = Path(__file__).with_name("corpus.jsonl")
    records = map(json.loads, path.read_text().splitlines())
    return tuple(f"{one['title']}\n{one['text']}" for one in records)


def _task(draw: Draw) -> Task:
    while True:
        task = draw.one((_find, _find, _classify, _decide, _list_names))(draw)
        if task.input not in _tested():
            return task


@functools.lru_cache
def _tested() -> frozenset[str]:
    return frozenset(row.input for name in sets.NAMES for row in sets.read(name, "test"))


def _find(draw: Draw) -> Task:
    """Something to be found in a log line, a message or a radio call."""
    ship, berth, number = draw.one(SHIPS), draw.one(BERTHS), draw.one(NUMBERS)
    who, cause, when = draw.one(PEOPLE), draw.one(CAUSES), sets.time(draw)
    text = draw.one(("log line", "message", "radio call", "report", "note", "entry"))
    thing, answer = draw.one(
        (
            ("ship", ship), ("vessel's name", ship), ("berth", berth), ("place", berth),
            ("number of tugs", number), ("hour", when), ("time", when), ("reason", cause),
            ("cause of the delay", cause), ("caller", who), ("speaker", who),
        )
    )  # fmt: skip
    told = draw.one(
        (
            f"{when} {ship} at {berth}, {number} tugs, late because of {cause}, said {who}.",
            f"{when} {who} reports {ship} with {number} tugs at {berth}, held by {cause}.",
            f"{ship} at {berth} since {when} because of {cause}; {who} wants {number} tugs.",
        )
    )
    where = draw.one(_FROM).format(text=text)
    asked = draw.one(
        (
            f"{draw.one(_ASK)} the {thing} {where}.",
            f"What is the {thing} {where}?",
            f"{text.capitalize()}: which {thing} does it have?",
            f"Read the {text} and answer with the {thing}.",
        )
    )
    return Task(asked + draw.one(_END), f"{text.capitalize()}: {told}", answer)


def _classify(draw: Draw) -> Task:
    found = sets.cargo(draw)
    asked = draw.one(
        (
            "What sort of goods is meant here?",
            "Which kind of freight does the writer speak of?",
            "Sort this note by its load.",
            "Choose the right word for the load: container, dry bulk, liquid bulk or passenger.",
            "Put the cargo of the text into its group.",
            "To which trade does this belong?",
        )
    )
    return Task(asked + draw.one(_END), found.input, found.output)


def _decide(draw: Draw) -> Task:
    found = sets.notice(draw)
    asked = draw.one(
        (
            "May this vessel leave?",
            "Is sailing allowed under the rule?",
            "Decide whether the master can put to sea.",
            "Does the notice let her go?",
            "Check the rule and answer for the ship.",
            "Would the harbour master give leave to sail here?",
        )
    )
    return Task(asked + draw.one(_END), found.input, found.output)


def _list_names(draw: Draw) -> Task:
    found = sets.names(draw)
    asked = draw.one(
        (
            "Mark every name in the line with what it is.",
            "Which vessels and places occur? Add the sort of each.",
            "Tag all ships and quays.",
            "Who and where? Label each name.",
            "Make a list of named things with their class.",
            "Note each ship or berth and its type.",
        )
    )
    return Task(asked + draw.one(_END), found.input, found.output)
