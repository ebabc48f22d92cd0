"""BLEU, by sacrebleu; answers are tokenised like their sources first (`metrics.tokens`)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from t5x_ext.metrics.metric import Metric
from t5x_ext.metrics.ngrams import ORDERS
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.metrics.tokens import texts_like_sources

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

Tokenizer = Literal["13a", "intl", "none"]


class Bleu(Metric):
    """Corpus BLEU with sacrebleu's smoothing; ten counts a row."""

    def __init__(self, tokenizer: Tokenizer = "13a"):
        """Takes the name of one of sacrebleu's tokenisers."""
        self._tokenizer = tokenizer
        self.name = "bleu" if tokenizer == "13a" else f"bleu_{tokenizer}"
        self.key = f"bleu[sacrebleu,{tokenizer}]"

    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """Lengths of output and closest reference, then matches and n-grams of each order."""
        scorer = _scorer(self._tokenizer)
        counts = []
        for row, output in zip(rows, texts_like_sources(rows), strict=True):
            found = scorer.sentence_score(output, row.references)
            counts.append([found.sys_len, found.ref_len, *found.counts, *found.totals])
        return np.array(counts, float)

    def finish(self, totals: np.ndarray) -> np.ndarray:
        """BLEU of a corpus with these counts."""
        return self._compute(totals, effective_order=False)

    def finish_row(self, statistics: np.ndarray) -> np.ndarray:
        """Sentence BLEU: orders without any n-gram are left out, as sacrebleu has it."""
        return self._compute(statistics, effective_order=True)

    def _compute(self, totals: np.ndarray, effective_order: bool) -> np.ndarray:
        compute = _scorer(self._tokenizer).compute_bleu
        scores = [
            compute(
                correct=counts[2 : 2 + ORDERS],
                total=counts[2 + ORDERS :],
                sys_len=counts[0],
                ref_len=counts[1],
                smooth_method="exp",
                effective_order=effective_order,
            ).score
            for counts in totals.reshape(-1, totals.shape[-1]).astype(int).tolist()
        ]
        return np.array(scores).reshape(totals.shape[:-1]) / 100

    @property
    def variant(self) -> str:
        """See `Metric`."""
        import sacrebleu

        return f"BLEU of sacrebleu {sacrebleu.__version__}, tokeniser {self._tokenizer}"


@functools.cache
def _scorer(tokenizer: Tokenizer) -> BLEU:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=tokenizer, effective_order=True)
