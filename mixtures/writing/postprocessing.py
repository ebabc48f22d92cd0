"""From what a model wrote to the answer that is scored.

The paper does not describe this. The steps, in this order, each counted where it changed something:

    heading     what comes after the answer begins: cut at a "###" after a blank line, or at the
                next "### Instruction"
    space       white space at either end is dropped
    lines       line breaks become one space, where answers are single lines
    quotes      one pair of quotes around the answer is dropped, if the input had none

The decoder gives new tokens only, so nothing is searched for where an answer begins. An empty
answer stays empty: falling back to the input would hide failures, since copies score well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from mixtures.writing.tokens import straight_quotes

STEPS = ("heading", "space", "lines", "quotes")

_NEXT_HEADING = re.compile(r"\n\n###|### Instruction")
_LINE_BREAKS = re.compile(r"\s*[\n\r\v\f\x85\u2028\u2029]\s*")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "'"}


class Answer(NamedTuple):
    """A cleaned answer and the names of the steps that changed it."""

    text: str
    steps: tuple[str, ...]


def clean_answer(text: str, source: str = "") -> Answer:
    """Applies the steps to one answer.

    Args:
        text: what the model wrote after its prompt.
        source: the text it was asked to rewrite.
    """
    cut = _NEXT_HEADING.split(text, maxsplit=1)[0]
    stripped = cut.strip()
    folded = _LINE_BREAKS.sub(" ", stripped)
    plain = _without_quotes(folded, source)
    stages = (text, cut, stripped, folded, plain)
    changed = [before != after for before, after in zip(stages, stages[1:], strict=False)]
    steps = tuple(step for step, was_changed in zip(STEPS, changed, strict=True) if was_changed)
    return Answer(plain, steps)


def clean_answers(texts: Sequence[str], sources: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Applies the steps to the answers of a set.

    Returns:
        The answers; and in how many of them each step changed something, and how many are empty
        ("empty"), zeros included.
    """
    answers = [clean_answer(text, source) for text, source in zip(texts, sources, strict=True)]
    counts = Counter(step for answer in answers for step in answer.steps)
    counts["empty"] = sum(not answer.text for answer in answers)
    return [answer.text for answer in answers], {name: counts[name] for name in (*STEPS, "empty")}


def _without_quotes(text: str, source: str) -> str:
    """`text` without a pair of quotes around all of it, unless the source has such marks."""
    closing = _QUOTES.get(text[:1])
    if closing is None or len(text) < 2 or text[-1] != closing:
        return text
    source = straight_quotes(source)
    inside = text[1:-1]
    marks = {text[0], closing}
    if text[0] == "'":  # an apostrophe too: either text may hold some
        is_no_pair = source.strip().startswith("'") or ("' " in inside and " '" in inside)
    else:  # the outer marks of "a" and "b" are not a pair
        is_no_pair = bool(marks & set(source) or marks & set(inside))
    return text if is_no_pair else inside.strip()
