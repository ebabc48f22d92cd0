"""SARI (Xu et al. 2016): how well a rewriting keeps, deletes and adds n-grams of its source.

Three programs give three different numbers under this name, so the variant is part of the key:

    sari            easse's and EditEval's: counts over the whole corpus, F1 of all three operations
    sari_original   the authors' script: mean of sentence scores, precision of deletions, text split
                    at single spaces
    sari_hf         Hugging Face's first version, used by IteraTeR: mean of sentence scores,
                    precision of deletions, keep recall over counts

For r references, source and output count r times and the references' counts are summed. Rows may
have different numbers of references. Answers to prompts in natural text are tokenised like their
sources first (`metrics.tokens`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from t5x_ext.metrics.metric import Metric, f_score, mean_of, with_ones
from t5x_ext.metrics.ngrams import ORDERS, ngrams, tokenize_13a
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.metrics.tokens import texts_like_sources

Texts = tuple[list[str], list[str], list[list[str]]]  # source, output, references, as tokens


class CorpusSari(Metric):
    """easse's: 36 statistics a row, (good, system, reference) x 4 orders x (add, keep, delete)."""

    name = "sari"
    key = "sari[easse,13a,lower]"
    needs = ("source",)

    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """[rows, 36] counts."""
        return np.array([_counts(*texts) for texts in _tokenize(rows, _words_13a)], float)

    def finish(self, totals: np.ndarray) -> np.ndarray:
        """Mean of the three operations' F1, each the mean over four orders."""
        return self.operations(totals).mean(axis=-1)

    def operations(self, totals: np.ndarray) -> np.ndarray:
        """F1 of add, keep and delete, [..., 36] -> [..., 3]."""
        counts = totals.reshape(*totals.shape[:-1], 3, ORDERS, 3)
        good, system, reference = np.moveaxis(counts, -1, 0)
        return f_score(good, system, reference)[2].mean(axis=-1)

    @property
    def variant(self) -> str:
        """See `Metric`."""
        return "SARI of easse and EditEval, tokens by sacrebleu's 13a, lower case"


class SentenceSari(Metric):
    """The mean over rows of a sentence score: the original script's, or Hugging Face's."""

    needs = ("source",)

    def __init__(self, original: bool):
        """Takes the original's rules, or else Hugging Face's."""
        self._original = original
        self.name = "sari_original" if original else "sari_hf"
        self.key = "sari[original,spaces,lower]" if original else "sari[hf,13a,lower]"

    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """(value, 1) of each row."""
        split = _split_at_spaces if self._original else _words_13a_at_spaces
        values = [self.operations(texts).mean() for texts in _tokenize(rows, split)]
        return with_ones(np.array(values))

    def finish(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        return mean_of(totals)

    def operations(self, texts: Texts) -> np.ndarray:
        """Scores of add, keep and delete of one sentence, [3]."""
        counted = zip(*_count_orders(texts), strict=True)
        return np.mean([self._order(*order, len(texts[2])) for order in counted], axis=0)

    def _order(
        self, source: Counter, output: Counter, references: Counter, count: int
    ) -> tuple[float, float, float]:
        source, output = _times(source, count), _times(output, count)
        kept, keepable = source & output, source & references
        good = kept & references
        precision = _mean_ratio(good, kept)
        recall = good.total() / keepable.total() if keepable else 0.0
        if self._original:
            recall = _mean_ratio(good, keepable)
        deleted = source - output
        return (
            _f1(*_add_counts(source, output, references)),
            _harmonic(precision, recall),
            _mean_ratio(deleted - references, deleted),
        )

    @property
    def variant(self) -> str:
        """See `Metric`."""
        who = "the original script" if self._original else "Hugging Face (first version)"
        split = "split at spaces" if self._original else "tokens by sacrebleu's 13a"
        return f"SARI of {who}, mean of sentence scores, {split}, lower case"


def _tokenize(rows: Sequence[Prediction], split: Callable[[str], list[str]]) -> Iterator[Texts]:
    for row, output in zip(rows, texts_like_sources(rows), strict=True):
        assert row.source is not None  # `needs` was checked
        yield split(row.source), split(output), [split(text) for text in row.references]


def _words_13a(text: str) -> list[str]:
    return tokenize_13a(text.lower()).split()


def _words_13a_at_spaces(text: str) -> list[str]:
    return tokenize_13a(text.lower()).split(" ")


def _split_at_spaces(text: str) -> list[str]:
    return text.lower().split(" ")  # two spaces enclose an empty word, as in the script


def _count_orders(texts: Texts) -> tuple[list[Counter], list[Counter], list[Counter]]:
    """N-gram counts of source, output and all references together, one counter an order."""
    source, output, references = texts
    summed = [Counter(gram for ref in references for gram in ngrams(ref, n)) for n in _SIZES]
    return _count_each(source), _count_each(output), summed


def _count_each(words: list[str]) -> list[Counter]:
    return [Counter(ngrams(words, n)) for n in _SIZES]


_SIZES = range(1, ORDERS + 1)


def _counts(source: list[str], output: list[str], references: list[list[str]]) -> list[int]:
    adds: list[int] = []
    keeps: list[int] = []
    deletes: list[int] = []
    r = len(references)
    for src, out, ref in zip(*_count_orders((source, output, references)), strict=True):
        adds += _add_counts(src, out, ref)
        keep, delete = [0, 0, 0], [0, 0, 0]
        for gram, count in src.items():
            given, wanted = r * count, ref[gram]
            kept = r * min(count, out[gram])
            keepable = min(given, wanted)
            _add_to(keep, kept, keepable)
            _add_to(delete, given - kept, given - keepable)
        keeps += keep
        deletes += delete
    return adds + keeps + deletes


def _add_to(counts: list[int], system: int, reference: int) -> None:
    counts[0] += min(system, reference)
    counts[1] += system
    counts[2] += reference


def _add_counts(source: Iterable, output: Counter, references: Counter) -> tuple[int, int, int]:
    """N-grams added rightly, added, and to be added: sets, so that repetition earns nothing."""
    known = set(source)
    added, wanted = set(output) - known, set(references) - known
    return len(added & wanted), len(added), len(wanted)


def _times(counts: Counter, factor: int) -> Counter:
    return Counter({gram: factor * count for gram, count in counts.items()})


def _mean_ratio(part: Counter, whole: Counter) -> float:
    """Mean over the n-grams of `whole` of the share that is in `part`; 0 if there are none."""
    return sum(count / whole[gram] for gram, count in part.items()) / len(whole) if whole else 0.0


def _f1(good: int, system: int, reference: int) -> float:
    return _harmonic(good / system if system else 0.0, good / reference if reference else 0.0)


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
