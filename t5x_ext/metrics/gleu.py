"""GLEU of grammatical error correction (Napoles et al. 2015, 2016), neither Google's nor NLTK's.

N-gram precision against a reference, in which n-grams of the source that the reference replaced
count against the output. Of several references one is drawn per sentence, 500 times; the score is
the mean over these draws. The published figures were made with Python 2's random numbers, which
differ a little from today's, and the closed form takes the mean over references in place of draws:

    gleu            draws of Python 3
    gleu_python2    draws of Python 2
    gleu_closed     no draws: expected counts
    gleu_sentence   no draws: the mean over rows of each row's own, smoothed score

Tokens are separated by white space and keep their case. References are tokenised, so predictions
in natural text are tokenised like their sources first (`metrics.tokens`).
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from t5x_ext.metrics.metric import Metric, mean_of, with_ones
from t5x_ext.metrics.ngrams import ORDERS, ngrams
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.metrics.tokens import tokenize_outputs

ITERATIONS = 500
_SEED_STEP = 101  # iteration j draws with seed 101 * j
_COUNTS = 2 + 2 * ORDERS  # lengths of output and reference; matches and n-grams of each order

Draws = Literal["python3", "python2", "closed form"]


class Gleu(Metric):
    """Corpus GLEU; see the module.

    The statistics hold the ten counts of every iteration, so that a bootstrap sample is scored as
    the corpus is. They are whole numbers, which float32 adds exactly up to 16 million words.
    """

    needs = ("source",)

    def __init__(self, draws: Draws = "python3"):
        """Takes how a sentence's reference is chosen."""
        self._draws = draws
        suffix = {"python3": "", "python2": "_python2", "closed form": "_closed"}[draws]
        self.name = f"gleu{suffix}"
        self.key = f"gleu[gec,{draws}]"

    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """[rows, 500 * 10], or [rows, 10] in closed form."""
        counts = _count(rows)
        if self._draws == "closed form":
            return np.array([each.mean(axis=0) for each in counts])
        drawn = draw_references(tuple(map(len, counts)), self._draws)
        result = np.empty((len(rows), ITERATIONS, _COUNTS), np.float32)
        for i, each in enumerate(counts):
            result[i] = each[drawn[:, i]]
        return result.reshape(len(rows), -1)

    def finish(self, totals: np.ndarray) -> np.ndarray:
        """Mean over the iterations."""
        return self.iterations(totals).mean(axis=-1)

    def iterations(self, totals: np.ndarray) -> np.ndarray:
        """The score under each iteration's references, [..., k] -> [..., iterations]."""
        return _gleu(totals.reshape(*totals.shape[:-1], -1, _COUNTS).astype(float))

    @property
    def variant(self) -> str:
        """See `Metric`."""
        how = {"closed form": "expected counts instead of drawn references"}.get(
            self._draws, f"{ITERATIONS} draws of a reference by {self._draws}'s random numbers"
        )
        return f"GLEU of GEC, {how}"


class SentenceGleu(Metric):
    """Mean over rows of sentence GLEU, each the mean over the row's references."""

    name = "gleu_sentence"
    key = "gleu_sentence[gec,smoothed]"
    needs = ("source",)

    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """(value, 1) of each row."""
        return with_ones(np.array([_smoothed(each).mean() for each in _count(rows)]))

    def finish(self, totals: np.ndarray) -> np.ndarray:
        """Sum of the values over the number of rows."""
        return mean_of(totals)

    @property
    def variant(self) -> str:
        """See `Metric`."""
        return "GLEU of GEC of single sentences, counts of 0 taken as 1, mean over references, rows"


def _smoothed(counts: np.ndarray) -> np.ndarray:
    return _gleu(np.where(counts == 0, 1, counts))


@functools.lru_cache(maxsize=8)
def draw_references(reference_counts: tuple[int, ...], draws: Draws) -> np.ndarray:
    """Index of the reference of each sentence in each iteration, [iterations, sentences]."""
    drawn = np.empty((ITERATIONS, len(reference_counts)), np.int16)
    for j in range(ITERATIONS):
        rng = random.Random(_SEED_STEP * j)
        if draws == "python2":  # its randint, whose generator is today's
            drawn[j] = [int(rng.random() * count) for count in reference_counts]
        else:
            drawn[j] = _randints(rng, reference_counts)
    return drawn


def _randints(rng: random.Random, counts: Sequence[int]) -> list[int]:
    """`[rng.randint(0, count - 1) for count in counts]`, in a third of the time."""
    getrandbits = rng.getrandbits
    bits = {count: count.bit_length() for count in set(counts)}
    drawn = []
    for count in counts:
        number = getrandbits(bits[count])
        while number >= count:
            number = getrandbits(bits[count])
        drawn.append(number)
    return drawn


def _gleu(counts: np.ndarray) -> np.ndarray:
    """[..., 10] -> [...]; 0 where any count is 0."""
    # One logarithm of the product of all orders: a bootstrap takes it a million times.
    output, reference, *rest = np.moveaxis(counts, -1, 0)
    matches, totals = (functools.reduce(np.multiply, rest[i::2]) for i in (0, 1))
    some = (output > 0) & (reference > 0) & (matches > 0) & (totals > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.log(matches / totals) / ORDERS
        score = np.exp(np.minimum(0, 1 - reference / output) + precision)
    return np.where(some, score, 0.0)


def _count(rows: Sequence[Prediction]) -> list[np.ndarray]:
    """Counts of each row against each reference, [references, 10]."""
    outputs = tokenize_outputs(rows)
    return [
        _count_row(row.source, tuple(output), row.references)
        for row, output in zip(rows, outputs, strict=True)
    ]


@functools.lru_cache(maxsize=1 << 14)  # The three ways to draw count the same.
def _count_row(
    source_text: str | None, output: tuple[str, ...], references: tuple[str, ...]
) -> np.ndarray:
    assert source_text is not None  # `needs` was checked
    source = source_text.split()
    grams = [(Counter(ngrams(output, n)), Counter(ngrams(source, n))) for n in _SIZES]
    unchanged = [_overlap(out, src) for out, src in grams]
    counts = []
    for text in references:
        words = text.split()
        numbers = [len(output), len(words)]
        for n, (out, src), same in zip(_SIZES, grams, unchanged, strict=True):
            reference = Counter(ngrams(words, n))
            # Of the output's overlap with the source, what the reference does not have at all.
            kept = same - sum(min(out[g], src[g]) for g in reference if g in src)
            numbers += [max(0, _overlap(out, reference) - kept), max(0, len(output) + 1 - n)]
        counts.append(numbers)
    return np.array(counts, float)


_SIZES = range(1, ORDERS + 1)


def _overlap(first: Counter, second: Counter) -> int:
    return sum(min(count, second[gram]) for gram, count in first.items() if gram in second)
