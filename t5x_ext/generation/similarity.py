"""The nearest of many texts by ROUGE-L, without comparing with each of them.

A common subsequence is no longer than the number m of words that both texts have (a word that
occurs twice in both counts twice), so F <= 2 m / (|a| + |b|). One pass over lists of texts by word
gives m for all texts at once. Only those whose bound reaches the best F found are compared: 5,000
texts against 5,000 take seconds, with the scores that comparing all of them gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from rouge_score import tokenize as rouge_tokenize

from t5x_ext.metrics.rouge import longest_common_subsequence

_ROUNDING = 1e-9  # the bound and F are rounded in different ways


class SimilarTexts:
    """A growing collection of texts."""

    def __init__(self, texts: Iterable[str] = ()):
        self._texts: list[str] = []
        self._words: list[tuple[str, ...]] = []
        self._lengths = _Growing()
        # (word, how many of it came before in the text) -> texts that have it.
        self._having: dict[tuple[str, int], _Growing] = {}
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> None:
        """Adds a text."""
        words = _words(text)
        for key in _numbered(words):
            self._having.setdefault(key, _Growing()).append(len(self._texts))
        self._texts.append(text)
        self._words.append(words)
        self._lengths.append(len(words))

    def nearest(self, text: str) -> tuple[float, str | None]:
        """ROUGE-L F (no stemmer, 0 to 1) of the nearest text, and that text.

        Of equally near ones it is the first that was added; None if no text shares a word.
        """
        words = _words(text)
        shared: np.ndarray = np.zeros(len(self._texts), np.int32)
        for key in _numbered(words):
            if key in self._having:
                shared[self._having[key].values] += 1
        candidates = np.flatnonzero(shared)
        bounds = 2 * shared[candidates] / (len(words) + self._lengths.values[candidates])
        order = np.argsort(-bounds, kind="stable")
        best, found = 0.0, len(self._texts)
        for place, bound in zip(candidates[order].tolist(), bounds[order].tolist(), strict=True):
            if bound < best - _ROUNDING:
                break
            score = _f_measure(words, self._words[place])
            if score > best or (score == best and place < found):
                best, found = score, place
        return best, self._texts[found] if best else None


class _Growing:
    """Integers, as an array that grows by doubling."""

    def __init__(self) -> None:
        self._array: np.ndarray = np.zeros(4, np.int32)
        self._size = 0

    def append(self, value: int) -> None:
        if self._size == len(self._array):
            self._array = np.concatenate([self._array, np.zeros_like(self._array)])
        self._array[self._size] = value
        self._size += 1

    @property
    def values(self) -> np.ndarray:
        return self._array[: self._size]


def _words(text: str) -> tuple[str, ...]:
    return tuple(rouge_tokenize.tokenize(text, None))


def _numbered(words: Iterable[str]) -> Iterable[tuple[str, int]]:
    """(a, b, a) -> (a, 0), (b, 0), (a, 1): as many of them are shared as words are."""
    seen: Counter[str] = Counter()
    for word in words:
        yield word, seen[word]
        seen[word] += 1


def _f_measure(first: tuple[str, ...], second: tuple[str, ...]) -> float:
    """As rouge_score rounds it: texts at exactly the limit must fall on its side."""
    common = longest_common_subsequence(first, second)
    if not common:
        return 0.0
    precision, recall = common / len(second), common / len(first)
    return 2 * precision * recall / (precision + recall)
