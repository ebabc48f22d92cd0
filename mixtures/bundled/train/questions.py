"""Answer questions and understand them."""

from __future__ import annotations

from mixtures.bundled.draws import Draw
from mixtures.bundled.lexicon import CLAUSE_KINDS
from mixtures.bundled.specs import Item, TaskSpec
from mixtures.bundled.stories import a, fact, other_word, person, story


def tasks() -> list[TaskSpec]:
    """Returns the tasks of this module."""
    return [
        TaskSpec(
            "story_question",
            "Question Answering",
            "Read the text and answer the question with one word.",
            _story_question,
        ),
        TaskSpec(
            "story_question_sentence",
            "Question Answering",
            "Answer the question with a sentence.",
            _story_question_sentence,
        ),
        TaskSpec(
            "yes_no_question",
            "Question Answering",
            "Answer the question with 'yes' or 'no'.",
            _yes_no,
        ),
        TaskSpec(
            "question_kind",
            "Question Understanding",
            "Which kind of word answers the question? Give the kind.",
            _kind_asked,
        ),
        TaskSpec(
            "question_person",
            "Question Understanding",
            "Give the name in the question.",
            _person_asked,
        ),
    ]


def _story_question(draw: Draw) -> Item:
    told = story(draw)
    asked, other, _ = draw.mixed(told.facts)
    name = told.person.name
    text = f"{told.text} Question: {asked.question(name)}"
    return Item(text, asked.value, asked.said_of(name), other.value)


def _story_question_sentence(draw: Draw) -> Item:
    told = story(draw)
    asked, other, _ = draw.mixed(told.facts)
    name = told.person.name
    text = f"{told.text} Question: {asked.question(name)}"
    return Item(text, asked.said_of(name), f"{asked.value} answers it.", other.said_of(name))


def _yes_no(draw: Draw) -> Item:
    told = story(draw, 2)
    asked, name = draw.one(told.facts), told.person.name
    text = f"{told.text} Question: Does {name} {asked.verb[0]} {asked.rest}?"
    if draw.coin():
        return Item(text, "yes", asked.said_of(name), "no")
    other = other_word(draw, asked.kind, asked.value)
    return Item(text.replace(f"{asked.value}?", f"{other}?"), "no", asked.said_of(name), "yes")


def _kind_asked(draw: Draw) -> Item:
    asked = fact(draw)
    wrong = draw.one([kind for kind in CLAUSE_KINDS if kind != asked.kind])
    why = f"{a(asked.kind).capitalize()} answers it."
    return Item(asked.question(person(draw).name), asked.kind, why, wrong)


def _person_asked(draw: Draw) -> Item:
    asked, who = fact(draw), person(draw)
    return Item(asked.question(who.name), who.name, f"It asks about {who.name}.", asked.kind)
