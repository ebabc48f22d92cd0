"""ROUGE-1 and ROUGE-L as `rouge_score` computes them with its stemmer, with the slow parts cached.

Tokens come from `rouge_score` itself, so that the scores are the same to the last digit. Two things
are faster: a word is stemmed once and a reference tokenised once per process, and the longest
common subsequence is found with one machine integer per word instead of a table of the size of both
texts. The tokeniser keeps only [a-z0-9]: text in other scripts scores 0, as in the reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache

from rouge_score import tokenize as rouge_tokenize


class _CachedStemmer:
    """The Porter stemmer behind a memory of words, in the form `rouge_score` calls it."""

    def __init__(self) -> None:
        # nltk imports scipy.stats, more than a second that `--help` and the models do not need.
        from nltk.stem.porter import PorterStemmer

        self.stem = lru_cache(maxsize=1 << 17)(PorterStemmer().stem)


_stemmer = cache(_CachedStemmer)


@lru_cache(maxsize=1 << 15)
def tokens(text: str) -> tuple[str, ...]:
    """Lower-cased, stemmed words of `text`: `"The dogs ran"` -> `("the", "dog", "ran")`."""
    return tuple(rouge_tokenize.tokenize(text, _stemmer()))


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, in tokens.

    Bit i of `row` is 0 where the table's row steps up at column i (Hyyrö 2004, "Bit-parallel
    LCS-length computation revisited"); one addition moves a whole row at once.
    """
    places: dict[str, int] = {}
    for i, token in enumerate(first):
        places[token] = places.get(token, 0) | (1 << i)
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        matches = row & places.get(token, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(first) - row.bit_count()


def _f_measure(hits: int, reference_length: int, prediction_length: int) -> float:
    if not hits:
        return 0.0
    precision, recall = hits / prediction_length, hits / reference_length
    return 2 * precision * recall / (precision + recall)


def rouge_1(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-1 F-measure of one prediction, 0..1: the maximum over the references."""
    predicted = tokens(prediction)
    best = 0.0
    for reference in references:
        expected = tokens(reference)
        overlap = sum((Counter(expected) & Counter(predicted)).values())
        best = max(best, _f_measure(overlap, len(expected), len(predicted)))
    return best


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F-measure of one prediction, 0..1: the maximum over the references."""
    predicted = tokens(prediction)
    best = 0.0
    for reference in references:
        expected = tokens(reference)
        common = longest_common_subsequence(expected, predicted)
        best = max(best, _f_measure(common, len(expected), len(predicted)))
    return best
