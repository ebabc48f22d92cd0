"""People, facts about them, and short stories: the inputs that most tasks share."""

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
    def text(self) -> str:
        first, *others = self.facts
        return " ".join(
            [first.said_of(self.person.name), *(f.said_of(self.person.pronoun) for f in others)]
        )

    def value(self, kind: str) -> str:
        """Returns the story's word of a kind."""
        return next(fact.values[kind] for fact in self.facts if kind in fact.values)


def person(draw: Draw) -> Person:
    """Returns a woman or a man."""
    return Person(draw.one(WOMEN), "she") if draw.coin() else Person(draw.one(MEN), "he")


def two_people(draw: Draw) -> tuple[Person, Person]:
    """Returns a woman and a man in random order."""
    woman, man = Person(draw.one(WOMEN), "she"), Person(draw.one(MEN), "he")
    return (woman, man) if draw.coin() else (man, woman)


def fact(draw: Draw, kind: str) -> Fact:
    """Returns a random fact of a kind of clause."""
    base, third, past, rest = draw.one(CLAUSES[kind])
    values = {kind: draw.one(WORDS[kind])}
    if kind == "thing":
        values["colour"] = draw.one(WORDS["colour"])
    return Fact(kind, values, (base, third, past), rest.format(**values))


def clause_kind(kind: str) -> str:
    """Returns the kind of the clause in which a word of this kind occurs."""
    return "thing" if kind == "colour" else kind


def some_kinds(
    draw: Draw, k: int, with_: Sequence[str] = (), without: Sequence[str] = ()
) -> list[str]:
    """Returns k different clause kinds in random order, some of them required or excluded."""
    required = list(dict.fromkeys(clause_kind(kind) for kind in with_))
    excluded = {clause_kind(kind) for kind in without}
    others = [kind for kind in CLAUSE_KINDS if kind not in required and kind not in excluded]
    return draw.mixed(required + draw.some(others, k - len(required)))


def story(draw: Draw, k: int = 3, with_: Sequence[str] = (), without: Sequence[str] = ()) -> Story:
    """Returns a story of k facts of different kinds about one person."""
    kinds = some_kinds(draw, k, with_, without)
    return Story(person(draw), tuple(fact(draw, kind) for kind in kinds))


def other_word(draw: Draw, kind: str, word: str) -> str:
    """Returns another word of the same kind."""
    return draw.one([other for other in WORDS[kind] if other != word])
