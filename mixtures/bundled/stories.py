"""People, facts about them, and short texts: the inputs that most tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mixtures.bundled.draws import Draw
from mixtures.bundled.lexicon import CLAUSE_KINDS, CLAUSES, MEN, QUESTIONS, WOMEN, WORDS


@dataclass(frozen=True)
class Person:
    """Somebody in a story."""

    name: str
    pronoun: str


@dataclass(frozen=True)
class Fact:
    """One thing said about a person, e.g. 'lives in Oslo'.

    Attributes:
        kind: The kind of the clause, e.g. 'city'.
        values: The words in it by kind; two for a 'thing', which has a colour.
        verb: The verb as (base form, form after he or she, past).
        rest: What follows the verb, e.g. 'in Oslo'.
    """

    kind: str
    values: dict[str, str]
    verb: tuple[str, str, str]
    rest: str

    @property
    def value(self) -> str:
        """The word of the clause's kind."""
        return self.values[self.kind]

    def clause(self) -> str:
        """Returns e.g. 'lives in Oslo'."""
        return f"{self.verb[1]} {self.rest}"

    def said_of(self, subject: str) -> str:
        """Returns the fact as a sentence about a name or pronoun."""
        return f"{subject[0].upper()}{subject[1:]} {self.clause()}."

    def question(self, subject: str) -> str:
        """Returns the question that this fact answers."""
        return QUESTIONS[self.kind].format(s=subject, verb=self.verb[0])


@dataclass(frozen=True)
class Story:
    """Facts about one person: the first with the name, the others with a pronoun."""

    person: Person
    facts: tuple[Fact, ...]

    @property
    def sentences(self) -> list[str]:
        """The sentences of the text."""
        first, *others = self.facts
        return [
            first.said_of(self.person.name),
            *(fact.said_of(self.person.pronoun) for fact in others),
        ]

    @property
    def text(self) -> str:
        """The story as a text."""
        return " ".join(self.sentences)

    def about(self, kind: str) -> Fact:
        """Returns the fact that has a word of a kind."""
        return next(fact for fact in self.facts if kind in fact.values)

    def value(self, kind: str) -> str:
        """Returns the story's word of a kind."""
        return self.about(kind).values[kind]


def a(noun: str) -> str:
    """Returns the noun with 'a' or 'an'."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def person(draw: Draw) -> Person:
    """Returns a woman or a man."""
    return Person(draw.one(WOMEN), "she") if draw.coin() else Person(draw.one(MEN), "he")


def other_name(draw: Draw, who: Person) -> str:
    """Returns another name with the same pronoun."""
    names = WOMEN if who.pronoun == "she" else MEN
    return draw.one([name for name in names if name != who.name])


def two_people(draw: Draw) -> tuple[Person, Person]:
    """Returns a woman and a man in random order."""
    woman, man = Person(draw.one(WOMEN), "she"), Person(draw.one(MEN), "he")
    return (woman, man) if draw.coin() else (man, woman)


def fact(draw: Draw, kind: str = "") -> Fact:
    """Returns a random fact of a kind of clause, or of any."""
    kind = kind or draw.one(CLAUSE_KINDS)
    verb, third, past, rest = draw.one(CLAUSES[kind])
    values = {kind: draw.one(WORDS[kind])}
    if kind == "thing":
        values["colour"] = draw.one(WORDS["colour"])
    return Fact(kind, values, (verb, third, past), rest.format(**values))


def some_kinds(
    draw: Draw, count: int, with_: Sequence[str] = (), without: Sequence[str] = ()
) -> list[str]:
    """Returns different clause kinds in random order, some of them required or excluded."""
    required = list(dict.fromkeys(_clause_kind(kind) for kind in with_))
    excluded = {_clause_kind(kind) for kind in without}
    others = [kind for kind in CLAUSE_KINDS if kind not in required and kind not in excluded]
    return draw.mixed(required + draw.some(others, count - len(required)))


def _clause_kind(kind: str) -> str:
    return "thing" if kind == "colour" else kind


def story(
    draw: Draw, count: int = 3, with_: Sequence[str] = (), without: Sequence[str] = ()
) -> Story:
    """Returns a story of facts of different kinds about one person."""
    kinds = some_kinds(draw, count, with_, without)
    return Story(person(draw), tuple(fact(draw, kind) for kind in kinds))


def other_word(draw: Draw, kind: str, word: str) -> str:
    """Returns another word of the same kind."""
    return draw.one([other for other in WORDS[kind] if other != word])


@dataclass(frozen=True)
class Link:
    """A sentence that says why somebody is in a mood."""

    text: str
    cause: Fact
    effect: Fact
    cause_first: bool


def cause_and_effect(draw: Draw, kind: str = "", without: str = "") -> Link:
    """Returns a sentence with 'so' or 'because'; its cause is of a kind, or of any but one."""
    kinds = ("thing", "animal", "food", "vehicle", "instrument")
    who = person(draw)
    cause = fact(draw, kind or draw.one([other for other in kinds if other != without]))
    effect = fact(draw, "mood")
    if draw.coin():
        text = f"{who.name} {cause.clause()}, so {who.pronoun} {effect.clause()}."
        return Link(text, cause, effect, True)
    text = f"{who.name} {effect.clause()} because {who.pronoun} {cause.clause()}."
    return Link(text, cause, effect, False)


ACTS = ("question", "order", "statement")


def utterance(draw: Draw, act: str, to: str) -> str:
    """Returns what somebody says to a person of that name: one of the ACTS."""
    what = fact(draw, draw.one(("city", "animal", "food", "thing", "instrument", "vehicle")))
    if act == "question":
        asked = what.question("you").replace("does you", "do you")
        return f"{to}, {asked[0].lower()}{asked[1:]}"
    if act == "order":
        return f"{to}, {what.verb[0]} {what.rest} now!"
    return f"{to}, I {what.verb[0]} {what.rest}."
