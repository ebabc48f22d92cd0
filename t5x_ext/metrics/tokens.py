"""Tokens of predictions, for metrics whose references are tokenised.

A model that was given natural text answers in natural text. Where its source is tokenised, the
answer is tokenised with the source's own tokens wherever it repeats the source, so that copying
proposes no edit. Answers that are tokenised already are split at white space as they are. Which of
the two the answers of a task are is told by its prompts, or else by a vote of all answers.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mixtures.writing.tokens import detokenize, retokenize, straight_quotes, tokenize
from t5x_ext.metrics.predictions import Prediction


class Tokenized(NamedTuple):
    """Tokens of one row."""

    source: list[str]
    output: list[str]
    references: list[list[str]]


_SPACED = re.compile(r"(?<=\S)\s(?:[.,;:!?]+|n't|'\w\w?)(?=\s|$)")
# Not after a single letter, which may be an initial. From the beginning of a word: tried from each
# of its letters, an answer that repeats one of them for 20,000 takes a quarter of a minute.
_ATTACHED = re.compile(r"(?<!\S)\S*\w\w(?:[.,;:!?]+[\"')]*|(?<=\w)'\w\w?)(?=\s|$)")


def tokenize_outputs(rows: Sequence[Prediction]) -> list[list[str]]:
    """Tokens of the predictions of one task, comparable with those of sources and references."""
    texts, sources = (row.prediction for row in rows), (row.source or "" for row in rows)
    return _tokenize(tuple(texts), tuple(sources), were_natural(rows))


def texts_like_sources(rows: Sequence[Prediction]) -> list[str]:
    """The predictions of one task, for metrics with a tokeniser of their own.

    Where the prompts held the sources in natural text, answers get the tokens of the sources: no
    tokeniser undoes that difference, and an unchanged source has to score what a copy scores.
    Other texts stay as they are.
    """
    if not were_natural(rows):
        return [row.prediction for row in rows]
    return list(map(" ".join, tokenize_outputs(rows)))


def were_natural(rows: Sequence[Prediction]) -> bool:
    """Whether the prompts of one task are known to show tokenised sources in natural text."""
    for row in rows:
        source = (row.source or "").strip()
        if row.inputs and source and source not in row.inputs:
            natural = detokenize(source)
            if natural != source and natural in row.inputs:
                return True
    return False


def tokenize_rows(rows: Sequence[Prediction]) -> list[Tokenized]:
    """Tokens of the rows of one task, of all texts in the same way.

    Sources in natural text are tokenised too, unless gold edits count their tokens as they are.
    """
    sources = [row.source or "" for row in rows]
    with_edits = any(row.edits is not None for row in rows)
    if not with_edits and natural_signs(sources) > 0:
        sources = [tokenize(source) for source in sources]
    texts = tuple(row.prediction for row in rows)
    outputs = _tokenize(texts, tuple(sources), were_natural(rows))
    pairs = [(text, i) for i, row in enumerate(rows) for text in row.references]
    references: list[list[list[str]]] = [[] for _ in rows]
    found = _tokenize(tuple(text for text, _ in pairs), tuple(sources[i] for _, i in pairs))
    for (_, i), tokens in zip(pairs, found, strict=True):
        references[i].append(tokens)
    split = map(str.split, sources)
    return [Tokenized(*each) for each in zip(split, outputs, references, strict=True)]


def mixed_tokens(rows: Sequence[Prediction]) -> dict[str, str]:
    """Tasks whose predictions stay natural text (`texts_like_sources`) while sources or references
    are tokenised, or the other way round: {task: what is seen}."""
    by_task: dict[str, list[Prediction]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(row)
    found = {}
    for task, own in by_task.items():
        output = natural_signs(texts_like_sources(own))
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
    """How many more texts attach punctuation to words, `a cat, a dog.`, than set it apart.

    Args:
        texts: any texts; they are judged together, since a single one may hold no punctuation, or
            be an answer that repeats a full stop without end.
        sources: a source for each, whose own tokens, such as `etc.`, say nothing.

    Returns:
        More than 0 for natural text, less for tokens, and 0 where nothing tells.
    """
    found = 0
    for text, source in zip(texts, sources, strict=False):
        known = set(source.split())
        attached = sum(word not in known for word in _ATTACHED.findall(text))
        apart = len(_SPACED.findall(text))
        found += (attached > apart) - (attached < apart)
    return found


def letters(text: str) -> str:
    """A text without what tokenising changes: white space and the form of quotation marks."""
    return straight_quotes("".join(text.split()))


@functools.lru_cache(maxsize=4)  # six metrics compare the same tokens, which none changes
def _tokenize(
    texts: tuple[str, ...], sources: tuple[str, ...], known_natural: bool = False
) -> list[list[str]]:
    """Tokens of texts that answer these sources; natural ones are tokenised like the sources."""
    natural = 1
    if not known_natural:
        natural = natural_signs(texts, sources) if natural_signs(sources) <= 0 else -1
    found = []
    for text, source in zip(texts, sources, strict=True):
        words = text.split()
        is_copy = natural == 0 and letters(text) == letters(source)
        if natural > 0 or is_copy:
            words = retokenize(text, source).split()
        found.append(words)
    return found
