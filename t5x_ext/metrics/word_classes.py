"""Parts of speech and lemmas without a model: word lists, suffixes and the word before.

Good enough to align and merge edits as ERRANT does (`metrics.edit_extraction`), where most
decisions rest on function words; not a tagger for other ends. Classes are those of Universal
Dependencies; the lists are in word_classes.json.
"""

from __future__ import annotations

import json
import re
import string
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple


class Word(NamedTuple):
    """A token with what ERRANT asks about it."""

    text: str
    lower: str
    lemma: str
    pos: str
    is_possessive: bool = False


_LISTS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
_LEXICON = {
    word: pos for pos, lines in _LISTS["classes"].items() for word in " ".join(lines).split()
}
_LEMMAS = {form: lemma for lemma, forms in _LISTS["lemmas"].items() for form in forms.split()}

_SUFFIXES = (
    ("ADV", ("ly",)),
    ("VERB", ("ing", "ed", "ize", "ise", "ify", "izes", "ises", "ifies")),
    (
        "ADJ",
        ("able", "ible", "ical", "ful", "ic", "ive", "less", "ous", "ish", "ial", "ional", "ant"),
    ),
)
_MODALS = frozenset(
    "will would can could may might shall should must 'll ca wo do does did".split()
)
_SUBJECTS = frozenset("i you he she we they who".split())
_CLITIC_HOSTS = frozenset(
    "it he she that there what who here where how let this everything everyone".split()
)
_NUMBER = re.compile(r"[+-]?\d[\d.,:/]*(st|nd|rd|th|s)?$")


@lru_cache(maxsize=1 << 12)  # a source is compared with its output and with every reference
def classify(tokens: tuple[str, ...]) -> tuple[Word, ...]:
    """Words of a sentence with their classes."""
    words: list[Word] = []
    for i, text in enumerate(tokens):
        lower = text.lower()
        before = words[-1] if words else None
        pos = _class_of(text, lower, first=i == 0)
        possessive = lower in ("'s", "'") and before is not None
        if possessive and lower == "'s":
            possessive = before is not None and before.lower not in _CLITIC_HOSTS
        if possessive:
            pos = "PART"
        elif before is not None:
            pos = _in_context(
                pos, lower, before, tokens[i + 1].lower() if i + 1 < len(tokens) else ""
            )
        words.append(Word(text, lower, _lemma(lower), pos, possessive))
    return tuple(words)


@lru_cache(maxsize=1 << 16)
def _class_of(text: str, lower: str, first: bool) -> str:
    if lower in _LEXICON:
        return _LEXICON[lower]
    if all(character in string.punctuation or not character.isalnum() for character in text):
        return "SYM" if text in ("$", "%", "+", "=", "#") else "PUNCT"
    if _NUMBER.match(text):
        return "NUM"
    if text[0].isupper() and not first:
        return "PROPN"
    for pos, endings in _SUFFIXES:
        if lower.endswith(endings) and len(lower) > 4:
            return pos
    return "NOUN"


def _in_context(pos: str, lower: str, before: Word, after: str) -> str:
    """The class that the word before (and after) makes likely."""
    if lower == "to":
        return "PART" if _class_of(after, after, False) in ("VERB", "AUX") else "ADP"
    if pos == "NOUN" and (before.lower in _MODALS or before.lower in _SUBJECTS):
        return "VERB"
    if pos == "NOUN" and before.lower == "to" and before.pos == "PART":
        return "VERB"
    if pos == "VERB" and before.pos == "DET":
        return "NOUN"
    return pos


@lru_cache(maxsize=1 << 16)
def _lemma(lower: str) -> str:
    return _LEMMAS.get(lower) or _stemmer().stem(lower)


@cache
def _stemmer() -> Any:
    # nltk imports scipy.stats, more than a second that those who extract nothing do not need.
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
