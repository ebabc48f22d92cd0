"""Tokens of predictions, for metrics whose references are tokenised.

A model that was given natural text answers in natural text. Where its source is tokenised, the
answer is tokenised with the source's own tokens wherever it repeats the source, so that copying
proposes no edit. Answers that are tokenised already are split at white space as they are; which of
the two they are is decided once for all answers of a task.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mixtures.writing.tokens import retokenize, tokenize
from t5x_ext.metrics.predictions import Prediction


class Tokenized(NamedTuple):
    """Tokens of one row."""

    source: list[str]
    output: list[str]
    references: list[list[str]]


_SPACED = re.compile(r"(?<=\S)\s(?:[.,;:!?]+|n't|'\w\w?)(?=\s|$)")
# Not after a single letter, which may be an initial.
_ATTACHED = re.compile(r"\S*\w\w(?:[.,;:!?]+[\"')]*|(?<=\w)'\w\w?)(?=\s|$)")


def tokenize_outputs(rows: Sequence[Prediction]) -> list[list[str]]:
    """Tokens of the predictions of one task, comparable with those of sources and references."""
    return _tokenize(tuple(row.prediction for row in rows), tuple(row.source or "" for row in rows))


def tokenize_rows(rows: Sequence[Prediction]) -> list[Tokenized]:
    """Tokens of the rows of one task, of all texts in the same way.

    Sources in natural text are tokenised too, unless gold edits count their tokens as they are.
    """
    sources = [row.source or "" for row in rows]
    with_edits = any(row.edits is not None for row in rows)
    if not with_edits and natural_signs(sources) > 0:
        sources = [tokenize(source) for source in sources]
    outputs = _tokenize(tuple(row.prediction for row in rows), tuple(sources))
    pairs = [(text, i) for i, row in enumerate(rows) for text in row.references]
    references: list[list[list[str]]] = [[] for _ in rows]
    found = _tokenize(tuple(text for text, _ in pairs), tuple(sources[i] for _, i in pairs))
    for (_, i), tokens in zip(pairs, found, strict=True):
        references[i].append(tokens)
    split = map(str.split, sources)
    return [Tokenized(*each) for each in zip(split, outputs, references, strict=True)]


def mixed_tokens(rows: Sequence[Prediction]) -> dict[str, str]:
    """Tasks whose predictions are natural text while sources or references are tokenised, or the
    other way round: {task: what is seen}."""
    by_task: dict[str, list[Prediction]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(row)
    found = {}
    for task, own in by_task.items():
        output = natural_signs(row.prediction for row in own)
        others = {
            "sources": natural_signs(row.source or "" for row in own),
            "references": natural_signs(text for row in own for text in row.references),
        }
        apart = " and ".join(name for name, signs in others.items() if output * signs < 0)
        if apart:
            theirs, ours = ("tokens", "text") if output > 0 else ("text", "tokens")
            found[task] = f"{apart} look like {theirs}, predictions like {ours}"
    return found


def natural_signs(texts: Iterable[str], sources: Iterable[str] = itertools.repeat("")) -> int:
    """How much more often punctuation is attached to words, `a cat, a dog.`, than set apart.

    Args:
        texts: any texts; they are judged together, since a single one may hold no punctuation.
        sources: a source for each, whose own tokens, such as `etc.`, say nothing.

    Returns:
        More than 0 for natural text, less for tokens, and 0 where nothing tells.
    """
    found = 0
    for text, source in zip(texts, sources, strict=False):
        known = set(source.split())
        found += sum(word not in known for word in _ATTACHED.findall(text))
        found -= len(_SPACED.findall(text))
    return found


def letters(text: str) -> str:
    """A text without what tokenising changes: white space and the form of quotation marks."""
    return "".join(text.split()).replace("``", '"').replace("''", '"')


@functools.lru_cache(maxsize=4)  # six metrics compare the same tokens, which none changes
def _tokenize(texts: tuple[str, ...], sources: tuple[str, ...]) -> list[list[str]]:
    """Tokens of texts that answer these sources; natural ones are tokenised like the sources."""
    natural = natural_signs(texts, sources) if natural_signs(sources) <= 0 else -1
    found = []
    for text, source in zip(texts, sources, strict=True):
        words = text.split()
        is_copy = natural == 0 and letters(text) == letters(source)
        if natural > 0 or is_copy:
            words = retokenize(text, source).split()
        found.append(words)
    return found
