"""Lists of words: the word of a kind, at a place, found twice; and the kinds of words."""

from __future__ import annotations

from mixtures.bundled.draws import Draw
from mixtures.bundled.lexicon import WORDS
from mixtures.bundled.specs import Item, Make, TaskSpec
from mixtures.bundled.stories import a, other_word, story

CATEGORY = "Program Execution"
KINDS_CATEGORY = "Word Semantics"

KINDS = ("city", "animal", "vehicle", "colour", "job", "thing")
KIND_PHRASINGS = (
    "Find the {kind} in the list of words.",
    "Give the word of the list that is {a_kind}.",
    "One word of the list is {a_kind}. Answer with this word.",
)


def tasks() -> list[TaskSpec]:
    """Returns the tasks of this module."""
    of_kind = [
        TaskSpec(
            f"list_{kind}_extraction",
            CATEGORY,
            phrasing.format(kind=kind, a_kind=a(kind)),
            _of_kind(kind),
        )
        for kind, phrasing in zip(KINDS, KIND_PHRASINGS * 2, strict=True)
    ]
    return [
        *of_kind,
        TaskSpec("first_word", CATEGORY, "Give the first word of the list.", _at(0)),
        TaskSpec("last_word", CATEGORY, "Write the last word of the list.", _at(-1)),
        TaskSpec(
            "word_twice",
            CATEGORY,
            "Which word is in the list twice? Give this word.",
            _twice,
        ),
        TaskSpec(
            "word_in_both_lists",
            CATEGORY,
            "Give the word that is in both lists.",
            _in_both,
        ),
        TaskSpec(
            "word_in_list",
            CATEGORY,
            "Answer 'yes' if the word is in the list, and 'no' if not.",
            _is_in_list("yes", "no"),
        ),
        TaskSpec(
            "word_not_in_list",
            CATEGORY,
            "If the word is in the list, write 'false'. If not, write 'true'.",
            _is_in_list("false", "true"),
        ),
        TaskSpec(
            "kinds_of_two_words",
            KINDS_CATEGORY,
            "Give the kind of the first and the kind of the second word.",
            _both_kinds,
        ),
        TaskSpec(
            "kind_of_first_word",
            KINDS_CATEGORY,
            "Which kind is the first word? Answer with the kind.",
            _kind_at(0),
        ),
        TaskSpec(
            "kind_of_last_word",
            KINDS_CATEGORY,
            "Give the kind of the last word.",
            _kind_at(-1),
        ),
        TaskSpec(
            "kind_of_word_in_story",
            KINDS_CATEGORY,
            "Write the kind of this word of the story.",
            _kind_in_story,
        ),
        TaskSpec(
            "same_kind",
            KINDS_CATEGORY,
            "Write 'yes' if both words are of the same kind, and 'no' if not.",
            _same_kind("yes", "no"),
        ),
        TaskSpec(
            "other_kind",
            KINDS_CATEGORY,
            "If the words are of the same kind, write 'bad'. If not, write 'good'.",
            _same_kind("bad", "good"),
        ),
    ]


def _words(draw: Draw, count: int = 4) -> list[str]:
    return [draw.one(WORDS[kind]) for kind in draw.some(list(WORDS), count)]


def _of_kind(kind: str) -> Make:
    def make(draw: Draw) -> Item:
        others = draw.some([other for other in WORDS if other != kind], 3)
        words = {which: draw.one(WORDS[which]) for which in draw.mixed([kind, *others])}
        word = words[kind]
        return Item(", ".join(words.values()), word, f"{word} is {a(kind)}.", words[others[0]])

    return make


def _at(place: int) -> Make:
    def make(draw: Draw) -> Item:
        words = _words(draw)
        wrong = words[2 if place == 0 else 1]
        return Item(", ".join(words), words[place], "It is at this place.", wrong)

    return make


def _twice(draw: Draw) -> Item:
    words = _words(draw)
    word = words[draw.below(3)]
    return Item(", ".join([*words, word]), word, f"{word} is there twice.", words[3])


def _in_both(draw: Draw) -> Item:
    word, *others = _words(draw, 5)
    first, second = draw.mixed([word, *others[:2]]), draw.mixed([word, *others[2:]])
    text = f"{', '.join(first)}; {', '.join(second)}"
    return Item(text, word, f"{word} is in both.", others[0])


def _is_in_list(yes: str, no: str) -> Make:
    def make(draw: Draw) -> Item:
        word, *words = _words(draw, 5)
        text = ", ".join(words)
        if draw.coin():
            return Item(f"{text}. Word: {draw.one(words)}", yes, "It is in the list.", no)
        return Item(f"{text}. Word: {word}", no, "It is not in the list.", yes)

    return make


def _two_kinds(draw: Draw) -> tuple[str, str, str]:
    """Returns a list of two words, and the kind of each."""
    first, second = draw.some(list(WORDS), 2)
    return f"{draw.one(WORDS[first])}, {draw.one(WORDS[second])}", first, second


def _both_kinds(draw: Draw) -> Item:
    text, first, second = _two_kinds(draw)
    why = f"The first is {a(first)}, the second {a(second)}."
    return Item(text, f"{first}, {second}", why, f"{second}, {first}")


def _kind_at(place: int) -> Make:
    def make(draw: Draw) -> Item:
        text, *kinds = _two_kinds(draw)
        return Item(text, kinds[place], f"It is {a(kinds[place])}.", kinds[place + 1])

    return make


def _kind_in_story(draw: Draw) -> Item:
    told = story(draw, 2)
    asked, other = draw.mixed(told.facts)
    text = f"{told.text} Word: {asked.value}"
    return Item(text, asked.kind, f"{asked.value} is {a(asked.kind)}.", other.kind)


def _same_kind(yes: str, no: str) -> Make:
    def make(draw: Draw) -> Item:
        text, first, second = _two_kinds(draw)
        if draw.coin():
            return Item(text, no, f"One is {a(first)}, one {a(second)}.", yes)
        word = draw.one(WORDS[first])
        return Item(f"{word}, {other_word(draw, first, word)}", yes, f"Both are {a(first)}.", no)

    return make
