"""F0.5 of edits by M2's max-match (Dahlmeier and Ng 2012), the figure of CoNLL-2014.

A system's edits are those that explain its output and agree best with the annotator's
(`metrics.m2_lattice`). Of several annotators each sentence is scored against the one that gives the
best F over the sentences so far, so the order of rows matters. This choice is made once: bootstrap
samples keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mixtures.writing.m2 import Edit
from t5x_ext.metrics.m2_lattice import Lattice
from t5x_ext.metrics.metric import Metric, f_score
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.metrics.tokens import tokenize_outputs

BETA = 0.5


class Counts(NamedTuple):
    """Edits that are right, that the system proposed, and that the annotator made."""

    correct: int
    proposed: int
    gold: int


class MaxMatch(Metric):
    """Max-match F0.5 against gold edits; statistics are `Counts`."""

    name = "m2"
    key = "m2[max-match,F0.5]"
    needs = ("source", "edits")

    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """[rows, 3] counts against the annotator chosen for each row."""
        return np.array([counts for counts, _ in choose_annotators(rows)], float)

    def finish(self, totals: np.ndarray) -> np.ndarray:
        """F0.5; proposing nothing has precision 1, and nothing to find is recall 1."""
        return self.parts(totals)[2]

    def parts(self, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall and F0.5, each [..., 3] -> [...]."""
        return f_score(totals[..., 0], totals[..., 1], totals[..., 2], beta=BETA, empty=1.0)

    @property
    def variant(self) -> str:
        """See `Metric`."""
        return "F0.5 by M2's max-match, at most 2 unchanged words in an edit"


def choose_annotators(rows: Sequence[Prediction]) -> list[tuple[Counts, int]]:
    """Each row's counts, and the annotator that they are against."""
    total = Counts(0, 0, 0)
    chosen = []
    for row, output in zip(rows, tokenize_outputs(rows), strict=True):
        assert row.source is not None and row.edits is not None  # `needs` was checked
        lattice = Lattice(row.source.split(), output)
        found = {name: _count(lattice, gold) for name, gold in row.edits.items()}
        best = max(found, key=lambda name: _rank(_plus(total, found[name])))  # the first of equals
        total = _plus(total, found[best])
        chosen.append((found[best], best))
    return chosen


def _count(lattice: Lattice, gold: Sequence[Edit]) -> Counts:
    edits = lattice.edits(gold)
    return Counts(_matches(edits, gold), len(edits), len(gold))


def _matches(edits: Sequence[Edit], gold: Sequence[Edit]) -> int:
    """Edits that are gold ones, from left to right, each gold edit used once."""
    correct, position = 0, 0
    for edit in edits:
        for at in range(position, len(gold)):
            same_span = edit[:2] == gold[at][:2]
            if same_span and edit.corrections[0] in gold[at].corrections:
                correct, position = correct + 1, at + 1
                break
    return correct


def _plus(first: Counts, second: Counts) -> Counts:
    return Counts(*(a + b for a, b in zip(first, second, strict=True)))


def _rank(counts: Counts) -> tuple[float, int, float]:
    """Best F so far; of equals more right edits, then fewer proposed and gold ones."""
    weighted = counts.proposed + BETA * BETA * counts.gold
    f = (1 + BETA * BETA) * counts.correct / weighted if weighted else 1.0
    return f, counts.correct, -weighted
