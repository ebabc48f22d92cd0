"""Find in a text the word, the words or the part that the definition asks for."""

from __future__ import annotations

from mixtures.bundled.draws import Draw
from mixtures.bundled.lexicon import WORDS
from mixtures.bundled.specs import Item, Make, TaskSpec
from mixtures.bundled.stories import cause_and_effect, fact, other_word, story, two_people

CATEGORY = "Information Extraction"
NAMES_CATEGORY = "Named Entity Recognition"

KIND_PHRASINGS = (
    "Find the {kind} in the text.",
    "Give the {kind}.",
    "Which {kind} does the text name? Give the {kind}.",
    "Answer with the {kind} of the text.",
)
PAIRS = (
    ("city", "job"),
    ("vehicle", "food"),
    ("day", "city"),
    ("colour", "animal"),
    ("mood", "instrument"),
    ("job", "vehicle"),
    ("animal", "day"),
    ("food", "mood"),
    ("thing", "vehicle"),
    ("city", "animal"),
    ("instrument", "food"),
    ("vehicle", "day"),
    ("animal", "instrument"),
    ("food", "thing"),
    ("job", "colour"),
    ("mood", "city"),
)
PAIR_PHRASINGS = (
    "Give the {a} and the {b}.",
    "Answer with the {a} and the {b} of the text.",
    "Find the {a} and the {b} in the text.",
)


def tasks() -> list[TaskSpec]:
    """Returns the tasks of this module."""
    single = [
        TaskSpec(f"{kind}_extraction", CATEGORY, phrasing.format(kind=kind), _one(kind))
        for kind, phrasing in zip(WORDS, KIND_PHRASINGS * 3, strict=False)
    ]
    pairs = [
        TaskSpec(f"{a}_and_{b}_extraction", CATEGORY, phrasing.format(a=a, b=b), two_words(a, b))
        for (a, b), phrasing in zip(PAIRS, PAIR_PHRASINGS * 6, strict=False)
    ]
    return [
        *single,
        *pairs,
        TaskSpec(
            "name_and_city_extraction",
            NAMES_CATEGORY,
            "Find the name and the city in the text.",
            _name_and_city,
        ),
        TaskSpec(
            "name_of_woman",
            NAMES_CATEGORY,
            "Give the name of the woman.",
            _name_of("she"),
        ),
        TaskSpec(
            "name_of_man",
            NAMES_CATEGORY,
            "Which person is a man? Answer with the name.",
            _name_of("he"),
        ),
        TaskSpec(
            "cause_extraction",
            CATEGORY,
            "Give the part of the sentence that is the cause.",
            _cause,
        ),
        TaskSpec(
            "effect_extraction",
            CATEGORY,
            "Which part of the sentence is the effect? Write this part.",
            _effect,
        ),
    ]


def two_words(a: str, b: str) -> Make:
    """Draws stories with words of both kinds, which are asked for."""

    def make(draw: Draw) -> Item:
        told = story(draw, with_=[a, b])
        first, second = told.value(a), told.value(b)
        why = f"{first} is the {a}, {second} the {b}."
        return Item(told.text, f"{first}, {second}", why, second)

    return make


def _one(kind: str) -> Make:
    def make(draw: Draw) -> Item:
        told = story(draw, with_=[kind])
        word = told.value(kind)
        return Item(told.text, word, f"{word} is the {kind}.", other_word(draw, kind, word))

    return make


def _name_and_city(draw: Draw) -> Item:
    told = story(draw, with_=["city"])
    name, city = told.person.name, told.value("city")
    return Item(told.text, f"{name}, {city}", f"{city} is the city of {name}.", city)


def _name_of(pronoun: str) -> Make:
    def make(draw: Draw) -> Item:
        first, second = two_people(draw)
        shared, own = fact(draw), fact(draw)
        text = (
            f"{first.name} and {second.name} {shared.verb[0]} {shared.rest}. "
            f"{own.said_of(draw.one((first, second)).pronoun)}"
        )
        name, other = first.name, second.name
        if first.pronoun != pronoun:
            name, other = other, name
        return Item(text, name, f"For {name} one says '{pronoun}'.", other)

    return make


def _cause(draw: Draw) -> Item:
    told = cause_and_effect(draw)
    return Item(told.text, told.cause.clause(), "The rest is the effect.", told.effect.clause())


def _effect(draw: Draw) -> Item:
    told = cause_and_effect(draw)
    return Item(told.text, told.effect.clause(), "The rest is the cause.", told.cause.clause())
