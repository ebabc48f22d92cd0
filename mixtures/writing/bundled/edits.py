"""Draws one text of an edit task and what it is to become."""

from __future__ import annotations

import json
from collections.abc import Callable

from mixtures.bundled.draws import Draw
from mixtures.bundled.lexicon import GOOD_MOODS, WORDS
from mixtures.bundled.stories import Fact, fact, person, some_kinds, story
from mixtures.writing.bundled.lexicon import (
    ACTIONS,
    BEFORE_NOUNS,
    EASY_WORDS,
    NEUTRAL_ADJECTIVES,
    PRAISE_AND_BLAME,
    SAD_MOODS,
    SYNONYMS,
    UNWELCOME,
    WELCOME,
)
from mixtures.writing.layouts import Item

# Of this many texts one is right as it is: what a system does to those is over-correction.
_ONE_IN = 10

_HARD_WORDS = {easy: hard for hard, easy in EASY_WORDS.items()}


def grammaticality(draw: Draw) -> Item:
    """Verbs in a wrong form; tokenised, with gold edits."""
    told = story(draw, 2 + draw.below(2))
    subjects = [told.person.name] + [told.person.pronoun.capitalize()] * (len(told.facts) - 1)
    wrong = set(draw.some(range(len(told.facts)), 1 + draw.below(2)))
    if draw.below(_ONE_IN) == 0:
        wrong = set()
    source: list[str] = []
    target: list[str] = []
    edits = []
    for number, (subject, said) in enumerate(zip(subjects, told.facts, strict=True)):
        base, right, _ = said.verb
        form = right
        if number in wrong:
            form = draw.one((base, _ing(base)))
            edits.append((len(source) + 1, len(source) + 2, [right], "R:VERB:SVA"))
        source += [subject, form, *said.rest.split(), "."]
        target += [subject, right, *said.rest.split(), "."]
    return Item(
        " ".join(source), (" ".join(target),), edits=json.dumps({"0": edits}), tokenized=True
    )


def fluency(draw: Draw) -> Item:
    """One or two words written twice; tokenised."""
    sentences = [sentence.removesuffix(".").split() for sentence in story(draw, 2).sentences]
    target = [word for sentence in sentences for word in (*sentence, ".")]
    twice = set() if draw.below(_ONE_IN) == 0 else set(draw.some(range(len(target)), 2))
    source = []
    for place, word in enumerate(target):
        source += [word, word] if place in twice and word != "." else [word]
    return Item(" ".join(source), (" ".join(target),), tokenized=True)


def clarity(draw: Draw) -> Item:
    """A wordy phrase in the place of a short one."""
    who = person(draw)
    kind, other = some_kinds(draw, 2, without=["mood", "thing"])  # nobody decides to lose a hat
    one, two = fact(draw, kind), fact(draw, other)
    base, clause = f"{two.verb[0]} {two.rest}", one.clause()
    short, wordy = draw.one(
        (
            ("Because {n} {c}, {p} {t}.", "Due to the fact that {n} {c}, {p} {t}."),
            ("{n} can {b}.", "{n} has the ability to {b}."),
            ("{n} {c} to {b}.", "{n} {c} in order to {b}."),
            ("Now {n} {c}.", "At this point in time {n} {c}."),
            ("{n} {c} daily.", "{n} {c} on a daily basis."),
            ("{n} decides to {b}.", "{n} makes the decision to {b}."),
            ("If it rains, {n} {c}.", "In the event that it rains, {n} {c}."),
            ("Soon {n} will {b}.", "In the near future {n} will {b}."),
            ("Although {n} {c}, {p} {t}.", "In spite of the fact that {n} {c}, {p} {t}."),
            ("After {n} {c}, {p} {t}.", "Subsequent to the time when {n} {c}, {p} {t}."),
        )
    )
    words = {"n": who.name, "p": who.pronoun, "c": clause, "t": two.clause(), "b": base}
    before = (
        "" if draw.coin() else f"{fact(draw, 'mood').said_of(draw.one(('Max', 'Eva', 'Leo')))} "
    )
    return Item(before + wordy.format(**words), (before + short.format(**words),))


def coherence(draw: Draw) -> Item:
    """Two sentences to be joined: by "so" where a mood is to be expected, else by "but"."""
    who = person(draw)
    is_welcome, is_good = draw.coin(), draw.coin()
    words = {kind: draw.one(WORDS[kind]) for kind in WORDS}
    event = draw.one(WELCOME if is_welcome else UNWELCOME).format(**words)
    mood = draw.one(GOOD_MOODS if is_good else SAD_MOODS)
    first = f"{who.name} {event}"
    link = "so" if is_welcome == is_good else "but"
    after = "" if draw.coin() else f" {_said(draw, who.pronoun)}"
    return Item(
        f"{first}. {who.pronoun.capitalize()} feels {mood}.{after}",
        (f"{first}, {link} {who.pronoun} feels {mood}.{after}",),
    )


def simplification(draw: Draw) -> Item:
    """Hard words in the place of easy ones."""
    while True:
        easy = story(draw, 2).text
        words = [word for word in _HARD_WORDS if f" {word}" in easy.replace(".", " ")]
        chosen = [word for word in words if word in easy.replace(".", "").split()]
        if chosen:
            break
    hard = easy
    for word in draw.some(chosen, 1 + draw.below(len(chosen))):
        hard = _replace_word(hard, word, _HARD_WORDS[word])
    return Item(hard, (easy,))


def neutralization(draw: Draw) -> Item:
    """Adjectives of praise and blame to be dropped; others stay."""
    kinds = draw.some(list(NEUTRAL_ADJECTIVES), 2)
    who = person(draw)
    facts = [fact(draw, kind) for kind in kinds]
    loaded = {draw.below(2)} if draw.coin() else {0, 1}
    source, target = [], []
    for number, (subject, said) in enumerate(zip((who.name, who.pronoun), facts, strict=True)):
        if number in loaded:
            source.append(_with_adjective(subject, said, draw.one(PRAISE_AND_BLAME)))
            target.append(said.said_of(subject))
        else:
            kept = _with_adjective(subject, said, draw.one(NEUTRAL_ADJECTIVES[said.kind]))
            source.append(kept)
            target.append(kept)
    return Item(" ".join(source), (" ".join(target),))


def paraphrasing(draw: Draw) -> Item:
    """Words to be said by others of the same meaning."""
    text = sentence_with_synonyms(draw)
    return Item(text, (in_other_words(text),))


def sentence_with_synonyms(draw: Draw) -> str:
    """A sentence with one to three words that have a synonym."""
    who = f"The {draw.one(BEFORE_NOUNS)} {draw.one(WORDS['job'])}" if draw.coin() else _name(draw)
    when = "" if draw.coin() else f" on {draw.one(WORDS['day'])}"
    return f"{who} {draw.one(ACTIONS)}{when}."


def in_other_words(text: str) -> str:
    """The text with every word that has a synonym replaced."""
    for word, other in SYNONYMS.items():
        text = _replace_word(text, word, other)
    return text


EDIT_TASKS: dict[str, Callable[[Draw], Item]] = {
    "grammaticality": grammaticality,
    "fluency": fluency,
    "clarity": clarity,
    "coherence": coherence,
    "simplification": simplification,
    "neutralization": neutralization,
    "paraphrasing": paraphrasing,
}


def _name(draw: Draw) -> str:
    return person(draw).name


def _said(draw: Draw, pronoun: str) -> str:
    return fact(draw, draw.one(("city", "day", "instrument", "vehicle"))).said_of(pronoun)


def _with_adjective(subject: str, said: Fact, adjective: str) -> str:
    """The fact with an adjective before its noun."""
    noun = said.value
    return said.said_of(subject).replace(f" {noun}", f" {adjective} {noun}")


def _replace_word(text: str, word: str, other: str) -> str:
    found = [
        part.replace(word, other) if part.rstrip(".,") == word else part for part in text.split(" ")
    ]
    return " ".join(found)


def _ing(base: str) -> str:
    """The form in -ing of a verb of the stories."""
    return f"{base[:-1]}ing" if base.endswith("e") and base != "see" else f"{base}ing"
