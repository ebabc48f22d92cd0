"""The evaluation sets of the harbour: a few rows written by hand, the others drawn from patterns.

Each set has rows to train on, so that rows written by people can be compared with a model's own.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mixtures.bundled.draws import Draw
from mixtures.errors import DataError
from mixtures.records import Row
from mixtures.specialization.bundled.lexicon import (
    BERTHS,
    CAUSES,
    GOODS,
    KINDS,
    NUMBERS,
    PEOPLE,
    SHIPS,
)

SEED = "t5x_ext harbour 1"
SIZES = {"test": 100, "validation": 20, "train": 250}  # in the order in which they are drawn


class Question(NamedTuple):
    """An input and its answer."""

    input: str
    output: str


def time(draw: Draw) -> str:
    """A time of day."""
    return f"{draw.below(24):02}:{draw.below(12) * 5:02}"


def cargo(draw: Draw) -> Question:
    """A message about goods of one class."""
    kind = draw.one(tuple(GOODS))
    goods, count = draw.one(GOODS[kind]), 10 * (3 + draw.below(90))
    ship = draw.one(SHIPS)
    text = draw.one(
        (
            f"{count} {goods} wait for the {ship} since this morning.",
            f"Please make room for {count} {goods} from the {ship}.",
            f"The {ship} brings {count} {goods} on the evening tide.",
            f"We count {count} {goods}, not the number that the {ship} gave.",
            f"Who looks after the {count} {goods} of the {ship} tonight?",
        )
    )
    return Question(f"Message: {text}", kind)


def names(draw: Draw) -> Question:
    """A log line with ships and berths."""
    ship, other = draw.some(SHIPS, 2)
    berth, second = draw.some(BERTHS, 2)
    text, entities = draw.one(
        (
            (f"{ship} shifted from {berth} to {second} with one tug.", (ship, berth, second)),
            (f"{ship} left {berth} in light rain.", (ship, berth)),
            (f"{ship} and {other} both asked for {berth}.", (ship, other, berth)),
            (f"pilot boarded {ship} off the outer buoy.", (ship,)),
            (f"{berth} closed for repair of two bollards.", (berth,)),
            (f"{ship} fast at {berth}, astern of {other}.", (ship, berth, other)),
        )
    )
    types = (f"{name} <{'Ship' if name in SHIPS else 'Berth'}>" for name in entities)
    return Question(f"Log: {time(draw)} {text}", ", ".join(types))


def notice(draw: Draw) -> Question:
    """A rule of the harbour master's and a ship that it allows to sail or not."""
    ship, kind, other = draw.one(SHIPS), *draw.some(KINDS, 2)
    limit, sails = 2 + draw.below(8), draw.coin()
    length, force = 10 * (6 + draw.below(9)), limit + 1 + draw.below(3)
    rule, facts = draw.one(
        (
            (
                f"No ship sails in winds above force {limit}.",
                f"{length} metres. Wind: force {limit - draw.below(2) if sails else force}.",
            ),
            (f"Today only a {kind} may sail.", f"a {kind if sails else other}."),
            (
                f"Ships above {length} metres stay in port.",
                f"{length - 10 if sails else length + 10} metres.",
            ),
            (
                "Ships without a pilot on board wait at their berth.",
                f"a {kind}. Pilot: {'on board' if sails else 'not yet on board'}.",
            ),
        )
    )
    return Question(f"Notice: {rule}\nShip: {ship}, {facts}", "yes" if sails else "no")


def log(draw: Draw) -> Question:
    """A question whose answer is a part of a log line."""
    ship, berth, cause = draw.one(SHIPS), draw.one(BERTHS), draw.one(CAUSES)
    number, who, when = draw.one(NUMBERS), draw.one(PEOPLE), time(draw)
    question, text, answer = draw.one(
        (
            (f"What delayed the {ship}?", f"{ship} late because of {cause}.", cause),
            (f"How many tugs met the {ship}?", f"{ship} met by {number} tugs.", number),
            (f"Where did the {ship} lie?", f"{ship} lay at {berth} for {number} hours.", berth),
            (f"Who called the {ship}?", f"{ship} called by {who} at {berth}.", who),
            (f"When did the {ship} sail?", f"{ship} ready at {berth}.", when),
        )
    )
    return Question(f"Question: {question}\nLog: {when} {text}", answer)


_MAKERS: dict[str, Callable[[Draw], Question]] = {
    "harbour_cargo": cargo,
    "harbour_ner": names,
    "harbour_notice": notice,
    "harbour_log": log,
}

NAMES = tuple(_MAKERS)


@functools.lru_cache
def read(name: str, split: str) -> tuple[Row, ...]:
    """A split of a set; no question is in two of them.

    Raises:
        DataError: there is no such set.
    """
    if name not in _MAKERS:
        raise DataError(f"evaluation set 'harbour.{name}'; allowed: {', '.join(_MAKERS)}")
    by_hand = _written_by_hand(name)
    drawn = _different(name, sum(SIZES.values()) - len(by_hand))
    first = by_hand[0]
    found = [
        Row(
            name,
            first.category,
            f"{name}-drawn-{number}",
            first.definition,
            one.input,
            (one.output,),
        )
        for number, one in enumerate(drawn)
    ]
    start = sum(SIZES[earlier] for earlier in list(SIZES)[: list(SIZES).index(split)])
    return tuple([*by_hand, *found][start : start + SIZES[split]])


@functools.lru_cache
def _different(name: str, count: int) -> tuple[Question, ...]:
    draw = Draw(f"{SEED}/{name}")
    known = {row.input for row in _written_by_hand(name)}
    found: dict[str, Question] = {}
    while len(found) < count:
        question = _MAKERS[name](draw)
        if question.input not in known:
            found.setdefault(question.input, question)
    return tuple(found.values())


@functools.lru_cache
def _written_by_hand(name: str) -> tuple[Row, ...]:
    path = Path(__file__).with_name("evaluation") / f"{name}.jsonl"
    records = map(json.loads, path.read_text().splitlines())
    return tuple(
        Row(
            name,
            one["kind"],
            one["id"],
            one["instruction"],
            one["input"],
            tuple(one["references"]),
        )
        for one in records
    )
