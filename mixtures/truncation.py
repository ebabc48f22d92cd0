"""Makes a prompt fit a length without losing its question.

A row is shortened in a fixed order, and no further than needed: negative examples, explanations,
positive examples (each from the last to the first), the definition from its end, the middle of the
input. Under "keep_last_example", for few-shot prompts, positive examples go from the first to the
last. What stays to the last is the end of the input and the words after it that ask for the output.
Each step renders the shortened row again, so every prompt of the registry is treated alike and
numbering and punctuation stay right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mixtures.errors import DataError
from mixtures.records import Example, Row

TRIMS = ("keep_question", "keep_last_example", "right")

# Stands where the middle of the input was.
GAP = " ... "


@dataclass(frozen=True)
class Fitted:
    """A prompt after `fit`.

    Attributes:
        text: what to tokenize.
        tokens_before: tokens of the untouched prompt.
        truncated: the untouched prompt had more tokens than allowed.
        dropped: what was shortened, in order: negative_example_2, explanations,
            positive_example_1, definition, input; "end" under trim "right".
    """

    text: str
    tokens_before: int
    truncated: bool
    dropped: tuple[str, ...] = ()


def fit(
    row: Row,
    render: Callable[[Row], str],
    max_tokens: int,
    count: Callable[[str], int],
    trim: str = "keep_question",
) -> Fitted:
    """Renders `row` in at most `max_tokens` tokens.

    Where not even one character of the input fits next to the prompt's fixed words, the text is the
    shortest form there is, and longer than `max_tokens`.

    Args:
        row: the row; never changed.
        render: a pure function from a row to its prompt.
        max_tokens: the most tokens allowed, EOS not among them.
        count: tokens of a text. Called once if the prompt fits as it is.
        trim: "keep_question", "keep_last_example", or "right" to leave the text as it is for a
            tokenizer that cuts off the end, as the reference code does.

    Raises:
        DataError: another trim.
    """
    if trim not in TRIMS:
        raise DataError(f"trim '{trim}'; allowed: {', '.join(TRIMS)}")
    text = render(row)
    tokens_before = count(text)
    if tokens_before <= max_tokens:
        return Fitted(text, tokens_before, truncated=False)
    if trim == "right":
        return Fitted(text, tokens_before, truncated=True, dropped=("end",))

    def fits(candidate: Row) -> bool:
        return count(render(candidate)) <= max_tokens

    dropped = []
    for name, shorter in _without_examples(row, trim == "keep_last_example"):
        shorter_text = render(shorter)
        if shorter_text == text:  # This prompt does not show that part.
            continue
        row, text = shorter, shorter_text
        dropped.append(name)
        if count(text) <= max_tokens:
            return Fitted(text, tokens_before, True, tuple(dropped))

    # A row without input (an instruction from the user's data) has its question in the definition.
    question = "input" if row.input.strip() else "definition"
    if question == "input" and render(replace(row, definition="")) != text:
        dropped.append("definition")
        row, done = _shorten_definition(row, fits)
        if done:
            return Fitted(render(row), tokens_before, True, tuple(dropped))
    dropped.append(question)
    row = _shorten_middle(row, question, fits)
    return Fitted(render(row), tokens_before, True, tuple(dropped))


def _without_examples(row: Row, keep_last: bool) -> Iterator[tuple[str, Row]]:
    """Rows with ever fewer examples, each with the name of what it lacks more than the last."""
    for number in range(len(row.negative_examples), 0, -1):
        row = replace(row, negative_examples=row.negative_examples[: number - 1])
        yield f"negative_example_{number}", row
    row = replace(row, positive_examples=tuple(map(_without_explanation, row.positive_examples)))
    yield "explanations", row
    count = len(row.positive_examples)
    for number in range(1, count + 1) if keep_last else range(count, 0, -1):
        kept = row.positive_examples[1:] if keep_last else row.positive_examples[:-1]
        row = replace(row, positive_examples=kept)
        yield f"positive_example_{number}", row


def _without_explanation(example: Example) -> Example:
    return replace(example, explanation=None)


def _shorten_definition(row: Row, fits: Callable[[Row], bool]) -> tuple[Row, bool]:
    """Keeps as many whole words of the definition's start as fit.

    Returns:
        The row, and whether it fits; if not, its definition is empty.
    """
    ends = [0] + [match.end() for match in re.finditer(r"\S+", row.definition)]

    def keep(words: int) -> Row:
        return replace(row, definition=row.definition[: ends[words]])

    words = largest_fitting(len(ends) - 1, lambda words: fits(keep(words)))
    return keep(words or 0), words is not None


def _shorten_middle(row: Row, field: str, fits: Callable[[Row], bool]) -> Row:
    """Keeps as much as fits of the start and of the end of the question's text, half and half."""
    text = getattr(row, field).strip()

    def keep(characters: int) -> Row:
        change: dict[str, Any] = {field: cut_middle(text, characters)}
        return replace(row, **change)

    characters = largest_fitting(len(text), lambda characters: fits(keep(characters)), lowest=1)
    return keep(characters or 1)


def cut_middle(text: str, characters: int) -> str:
    """About `characters` characters of `text`, half from each end, with `GAP` between them.

    A word that the cut falls into is left out whole, unless it is so long that this would lose
    much (a language without spaces, an address).
    """
    head = text[: characters // 2]
    tail = text[len(head) - characters :]
    head = re.sub(r"(?<=\s)\S{1,20}\Z", "", head).rstrip()
    tail = re.sub(r"\A\S{1,20}(?=\s)", "", tail).lstrip()
    return f"{head}{GAP}{tail}" if head else tail


def largest_fitting(highest: int, fits: Callable[[int], bool], lowest: int = 0) -> int | None:
    """By bisection, a size in [lowest, highest) that fits while the next one tried did not.

    `highest` is known not to fit. Token counts rise with size but for a token here and there, so
    this is the largest size or very near it; what it returns was itself seen to fit.

    Returns:
        The size, or None if `lowest` does not fit.
    """
    if not fits(lowest):
        return None
    low, high = lowest, highest
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
