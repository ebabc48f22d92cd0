"""Gold edits of an M2 file for a predictions file."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import os
from collections.abc import Sequence

from mixtures.writing.m2 import Sentence, read_m2
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.metrics.tokens import letters, natural_signs


def with_gold_edits(rows: Sequence[Prediction], path: str | os.PathLike[str]) -> list[Prediction]:
    """The rows with the sources and edits of an M2 file, which has a sentence for each, in order.

    Rows without a source take the file's. Sources that are there have to have the same tokens, or
    to be the same text not yet tokenised: edits are positions of tokens.

    Raises:
        ConfigError: another number of sentences, or a source that differs; names the first
            prediction or line that has no partner, or another text.
        DataError: the file is not an M2 file.
    """
    sentences = read_m2(path)
    difference = _difference(rows, sentences) or _unpaired(rows, sentences)
    if len(sentences) != len(rows):
        raise ConfigError(
            f"{path}: {len(sentences)} sentences for {len(rows)} predictions{difference}; "
            "allowed: a sentence for each prediction, in the same order"
        )
    if difference:
        raise ConfigError(
            f"{path}: sources differ{difference}; allowed: the sources of the predictions"
        )
    pairs = zip(rows, sentences, strict=True)
    return [dataclasses.replace(row, source=s.source, edits=s.edits) for row, s in pairs]


def _difference(rows: Sequence[Prediction], sentences: Sequence[Sentence]) -> str:
    """Where a prediction's source first differs from the file's, or ''."""
    are_tokens = natural_signs(row.source or "" for row in rows) < 0
    for number, (row, sentence) in enumerate(zip(rows, sentences, strict=False), start=1):
        if row.source is None:
            continue
        here = f"prediction {number}, id '{row.id}'"
        if letters(row.source) != letters(sentence.source):
            return (
                f" (first in {here}: {row.source[:60]!r}; line {sentence.line}: "
                f"{sentence.source[:60]!r})"
            )
        place = _other_token(row.source, sentence.source, are_tokens)
        if place is not None:
            position, own, other = place
            return (
                f" (first in {here}: token {position} is {own!r}; line {sentence.line}: {other!r})"
            )
    return ""


def _other_token(source: str, sentence: str, are_tokens: bool) -> tuple[int, str, str] | None:
    """The first token of a source that a sentence of the same letters does not have, if any.

    Args:
        source: of a prediction.
        sentence: tokens of an M2 file.
        are_tokens: whether the source is tokenised. Of natural text, a word may become several
            tokens; but no token holds a space.

    Returns:
        Its place from 1, itself, and the sentence's token that stands there.
    """
    words, tokens = source.split(), sentence.split()
    ends = list(itertools.accumulate(map(_length, tokens)))
    end = 0
    for position, word in enumerate(words, start=1):
        start, end = end, end + _length(word)
        if start == end:
            continue
        first = bisect.bisect_right(ends, start)  # the token with the word's first letter
        if end not in ends[first:] or (are_tokens and ends[first] != end):
            return position, word, tokens[first]
    return None


def _length(token: str) -> int:
    """Characters but for quotation marks, of which one may stand for two."""
    return sum(character not in "\"'`" for character in token)


def _unpaired(rows: Sequence[Prediction], sentences: Sequence[Sentence]) -> str:
    """The first prediction without a sentence, or the other way round; or ''."""
    count = min(len(rows), len(sentences))
    if count < len(rows):
        row = rows[count]
        text = f": {row.source[:60]!r}" if row.source is not None else ""
        return f" (prediction {count + 1}, id '{row.id}'{text} has no sentence)"
    if count < len(sentences):
        sentence = sentences[count]
        return f" (line {sentence.line}: {sentence.source[:60]!r} has no prediction)"
    return ""
