"""Write a short text out of a story or a record, in the form that the definition gives."""

from __future__ import annotations

from mixtures.bundled.draws import Draw
from mixtures.bundled.specs import Item, Make, TaskSpec
from mixtures.bundled.stories import fact, person, story
from mixtures.bundled.train.rewriting import Change, with_name

# A kind, and what stands between the name and the word.
SUMMARIES = (
    ("city", "in"),
    ("day", "on"),
    ("food", "and the"),
    ("instrument", "with the"),
    ("job", "the"),
    ("thing", "and the"),
    ("mood", "is"),
    ("animal", "with the"),
    ("vehicle", "in the"),
    ("food", "with the"),
    ("job", "and the"),
    ("instrument", "and the"),
    ("thing", "with the"),
    ("animal", "in the"),
)
SUMMARY_PHRASINGS = (
    "Write the name and the {kind}, with '{link}' between them.",
    "Write the name, then '{link}', then the {kind}.",
)
RECORDS = ("city", "food", "vehicle", "mood", "day", "instrument")
RECORD_PHRASINGS = (
    "Write a sentence about the {kind}.",
    "Write a sentence with the name and the {kind}.",
)


def tasks() -> list[TaskSpec]:
    """Returns the tasks of this module."""
    summaries = [
        TaskSpec(
            f"name_{link.replace(' ', '_')}_{kind}",
            "Summarization",
            phrasing.format(kind=kind, link=link),
            summary(kind, link),
        )
        for (kind, link), phrasing in zip(SUMMARIES, SUMMARY_PHRASINGS * 7, strict=True)
    ]
    records = [
        TaskSpec(
            f"record_{kind}_sentence",
            "Sentence Composition",
            phrasing.format(kind=kind),
            sentence_from_record(kind),
        )
        for kind, phrasing in zip(RECORDS, RECORD_PHRASINGS * 3, strict=True)
    ]
    return [
        *summaries,
        TaskSpec(
            "colour_and_thing",
            "Summarization",
            "Write 'the', then the colour, then the thing.",
            _colour_and_thing,
        ),
        *records,
        TaskSpec(
            "missing_verb",
            "Fill in The Blank",
            "Give the verb that is missing.",
            _missing_verb,
        ),
        TaskSpec(
            "sentence_with_verb",
            "Text Completion",
            "Write the correct sentence with the verb.",
            _with_verb,
        ),
    ]


def summary(kind: str, link: str) -> Make:
    """Draws stories to be summed up by the name and the word of a kind."""

    def make(draw: Draw) -> Item:
        told = story(draw, with_=[kind])
        name = told.person.name
        wrong = next(fact.value for fact in told.facts if kind not in fact.values)
        short = f"{name} {link} {told.value(kind)}"
        return Item(told.text, short, f"It gives the {kind}.", f"{name} {link} {wrong}")

    return make


def sentence_from_record(kind: str, change: Change = with_name) -> Make:
    """Draws records of a person; one of the fields is to become a sentence."""

    def make(draw: Draw) -> Item:
        told = story(draw, with_=[kind])
        name = told.person.name
        fields = [f"{field.kind}: {field.clause()}" for field in told.facts]
        wrong = next(fact for fact in told.facts if fact.kind != kind)
        return Item(
            ", ".join([f"name: {name}", *fields]),
            change(told.person, told.about(kind)),
            f"It is about the {kind}.",
            change(told.person, wrong),
        )

    return make


def _colour_and_thing(draw: Draw) -> Item:
    about = (told := story(draw, with_=["thing"])).about("thing")
    colour, thing = about.values["colour"], about.values["thing"]
    return Item(told.text, f"the {colour} {thing}", "It has the form asked for.", thing)


def _missing_verb(draw: Draw) -> Item:
    name, what = person(draw).name, fact(draw)
    return Item(f"{name} _ {what.rest}.", what.verb[1], what.said_of(name), what.verb[0])


def _with_verb(draw: Draw) -> Item:
    name, what = person(draw).name, fact(draw)
    return Item(
        f"{name} _ {what.rest}. Verb: {what.verb[0]}",
        what.said_of(name),
        f"After a name '{what.verb[0]}' is '{what.verb[1]}'.",
        f"{name} {what.verb[0]} {what.rest}.",
    )
