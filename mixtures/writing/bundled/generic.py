"""Generic instructions in many wordings, some without an input, none of them a writing task's."""

from __future__ import annotations

from collections.abc import Callable

from mixtures.bundled.draws import Draw
from mixtures.bundled.lexicon import WORDS
from mixtures.bundled.stories import fact, person, story
from mixtures.writing.bundled.edits import in_other_words, sentence_with_synonyms
from mixtures.writing.bundled.lexicon import SYNONYMS
from mixtures.writing.layouts import Item


def generic(draw: Draw) -> Item:
    """One instruction with its answer, of about ten kinds."""
    return draw.one(_KINDS)(draw)


def _another_word(draw: Draw) -> Item:
    word = draw.one(list(SYNONYMS))
    wording = draw.one(
        (
            "Give another word for '{}'.",
            "Which word means the same as '{}'?",
            "What is a synonym of '{}'?",
            "Find a word with the same meaning as '{}'.",
        )
    )
    return _answered(wording.format(word), "", SYNONYMS[word])


def _other_words(draw: Draw) -> Item:
    text = sentence_with_synonyms(draw)
    wording = draw.one(
        (
            "Give a paraphrase of this sentence.",
            "Say the sentence in other words.",
            "Write the same thing with different words.",
            "Paraphrase it.",
            "Replace words by synonyms.",
        )
    )
    return _answered(wording, text, in_other_words(text))


def _sentence(draw: Draw) -> Item:
    who, said = person(draw), fact(draw)
    wording = draw.one(
        (
            "Make a sentence with {} and {}.",
            "Write a sentence about {} with the words {}.",
            "Tell me something about {} that has the words {}.",
        )
    )
    words = f"'{said.verb[0]} {said.rest}'"
    return _answered(wording.format(who.name, words), "", said.said_of(who.name))


def _kind_of_word(draw: Draw) -> Item:
    kind = draw.one(list(WORDS))
    wording = draw.one(
        ("What is '{}': {}?", "Is '{}' {}?", "Which of these is '{}': {}?", "Sort '{}' into {}.")
    )
    other = draw.one([name for name in WORDS if name != kind])
    choice = " or ".join(f"a {name}" for name in draw.mixed([kind, other]))
    return _answered(wording.format(draw.one(WORDS[kind]), choice), "", f"a {kind}")


def _past(draw: Draw) -> Item:
    who, said = person(draw), fact(draw)
    wording = draw.one(("Write it in the past.", "Put the sentence into the past tense."))
    return _answered(wording, said.said_of(who.name), f"{who.name} {said.verb[2]} {said.rest}.")


def _question(draw: Draw) -> Item:
    who, said = person(draw), fact(draw)
    wording = draw.one(("Which question does this answer?", "Turn the answer into a question."))
    return _answered(wording, said.said_of(who.name), said.question(who.name))


def _first_sentence(draw: Draw) -> Item:
    told = story(draw, 2)
    place = draw.below(2)
    wording = draw.one(("Copy the {} sentence.", "Give only the {} sentence of the text."))
    name = ("first", "last")[place]
    return _answered(wording.format(name), told.text, told.sentences[place])


def _who(draw: Draw) -> Item:
    told = story(draw, 2)
    wording = draw.one(("Who is the text about?", "Name the person in the text."))
    return _answered(wording, told.text, told.person.name)


def _list(draw: Draw) -> Item:
    kind = draw.one(("animal", "food", "city", "job", "vehicle"))
    words = draw.some(WORDS[kind], 3)
    wording = draw.one(("Write these words as a list: {}.", "List them one after the other: {}."))
    return _answered(wording.format(" and ".join(words)), "", ", ".join(words))


def _answered(instruction: str, text: str, answer: str) -> Item:
    return Item(text, (answer,), instruction=instruction)


_KINDS: tuple[Callable[[Draw], Item], ...] = (
    _another_word,
    _other_words,
    _other_words,
    _sentence,
    _kind_of_word,
    _past,
    _question,
    _first_sentence,
    _who,
    _list,
)
