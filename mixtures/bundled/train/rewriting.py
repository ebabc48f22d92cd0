"""Write the sentence about a kind of word again, changed in the respect that is named."""

from __future__ import annotations

from collections.abc import Callable

from mixtures.bundled.draws import Draw
from mixtures.bundled.specs import Item, Make, TaskSpec
from mixtures.bundled.stories import Fact, Person, fact, other_name, person, story

Change = Callable[[Person, Fact], str]


def with_name(who: Person, what: Fact) -> str:
    """Returns e.g. 'Ann eats soup.'"""
    return what.said_of(who.name)


def with_pronoun(who: Person, what: Fact) -> str:
    """Returns e.g. 'She eats soup.'"""
    return what.said_of(who.pronoun)


def in_the_past(who: Person, what: Fact) -> str:
    """Returns e.g. 'Ann ate soup.'"""
    return f"{who.name} {what.verb[2]} {what.rest}."


def negated(who: Person, what: Fact) -> str:
    """Returns e.g. 'Ann does not eat soup.'"""
    return f"{who.name} does not {what.verb[0]} {what.rest}."


def as_question(who: Person, what: Fact) -> str:
    """Returns e.g. 'Which food does Ann eat?'"""
    return what.question(who.name)


# The change, the category of its tasks, the definition, and the kinds of which there is a task.
CHANGES: tuple[tuple[Change, str, str, tuple[str, ...]], ...] = (
    (
        with_name,
        "Text Simplification",
        "Write the sentence about the {kind} with the name.",
        ("city", "food", "vehicle", "job", "day", "instrument"),
    ),
    (
        with_pronoun,
        "Style Transfer",
        "Write the sentence about the {kind} with the pronoun.",
        ("animal", "mood", "thing", "city", "food"),
    ),
    (
        in_the_past,
        "Style Transfer",
        "Write the sentence about the {kind} in the past.",
        ("animal", "city", "vehicle", "thing", "day", "job"),
    ),
    (
        negated,
        "Sentence Perturbation",
        "Write the sentence about the {kind} with 'does not'.",
        ("food", "instrument", "animal", "mood", "vehicle", "job"),
    ),
    (
        as_question,
        "Question Generation",
        "Write a question about the {kind} with the name.",
        ("city", "animal", "vehicle", "food", "instrument", "day"),
    ),
)


def tasks() -> list[TaskSpec]:
    """Returns the tasks of this module."""
    changed = [
        TaskSpec(
            f"{kind}_sentence_{change.__name__}",
            category,
            definition.format(kind=kind),
            sentence_about(kind, change),
        )
        for change, category, definition, kinds in CHANGES
        for kind in kinds
    ]
    return [
        *changed,
        TaskSpec(
            "sentence_with_other_name",
            "Sentence Perturbation",
            "Write the sentence with the other name.",
            _with_other_name,
        ),
        TaskSpec(
            "word_order",
            "Sentence Ordering",
            "Write the words in the correct order, with the name first.",
            _word_order,
        ),
    ]


def sentence_about(kind: str, change: Change) -> Make:
    """Draws stories in which the sentence about a kind must be changed."""

    def make(draw: Draw) -> Item:
        told = story(draw, with_=[kind])
        about = told.about(kind)
        other = next(fact for fact in told.facts if fact is not about)
        answer, wrong = change(told.person, about), change(told.person, other)
        return Item(told.text, answer, f"It is about the {kind}.", wrong)

    return make


def _with_other_name(draw: Draw) -> Item:
    who, what = person(draw), fact(draw)
    name = other_name(draw, who)
    said = what.said_of(who.name)
    return Item(f"{said} Name: {name}", what.said_of(name), f"It is about {name}.", said)


def _word_order(draw: Draw) -> Item:
    name, what = person(draw).name, fact(draw)
    text = f"{what.clause()} {name}"
    return Item(text, what.said_of(name), "The name comes first.", f"{text}.")
