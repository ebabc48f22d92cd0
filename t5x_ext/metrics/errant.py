"""F0.5 of edits by ERRANT's comparison (Bryant et al. 2017), the figure of BEA-2019.

An edit is right if an edit of the annotator has the same span and correction. Gold edits are those
that rows carry (from an M2 file); rows without any are compared with edits extracted from their
references, an annotator a reference. Of several annotators each sentence is scored against the one
that gives the best F over the sentences so far. Modes, as the program calls them:

    cs     span and correction          ds    span
    cse    span, correction and type    dt    tokens of the span

This is not M2's F0.5: the same system and gold edits give figures ten points apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from mixtures.writing.gold_edits import GoldEdits
from mixtures.writing.m2 import Edit
from t5x_ext.metrics.edit_extraction import OwnExtractor
from t5x_ext.metrics.metric import Metric, f_score
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.metrics.tokens import Tokenized, tokenize_rows

BETA = 0.5
Mode = Literal["cs", "ds", "dt", "cse"]


class Extractor(Protocol):
    """Finds edits; `label` says with what."""

    label: str

    def find_edits(self, source: Sequence[str], output: Sequence[str]) -> tuple[Edit, ...]:
        """Edits that turn the source's tokens into the output's, from left to right."""


class Counts(NamedTuple):
    """Edits that are right, wrong, and missed."""

    tp: int
    fp: int
    fn: int


class Errant(Metric):
    """ERRANT's F0.5; statistics are `Counts`."""

    needs = ("source",)

    def __init__(self, name: str = "errant", mode: Mode = "cs", extractor: Extractor | None = None):
        """Takes the mode of comparison, and what finds edits (our own extractor unless given)."""
        self.name = name
        self._mode, self._extractor = mode, extractor or OwnExtractor()
        self.key = f"errant[{mode},F0.5,{self._extractor.label}]"

    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """[rows, 3] counts against the annotator chosen for each row."""
        pairs = zip(rows, tokenize_rows(rows), strict=True)
        edits = [self._edits(row, tokens) for row, tokens in pairs]
        return np.array([counts for counts, _ in choose_annotators(edits, self._mode)], float)

    def _edits(self, row: Prediction, tokens: Tokenized) -> tuple[Sequence[Edit], GoldEdits]:
        find_edits = self._extractor.find_edits
        gold = row.edits
        if gold is None:
            found = [find_edits(tokens.source, reference) for reference in tokens.references]
            gold = dict(enumerate(found))
        return find_edits(tokens.source, tokens.output), gold

    def finish(self, totals: np.ndarray) -> np.ndarray:
        """F0.5; nothing wrong is precision 1, and nothing missed recall 1."""
        return self.parts(totals)[2]

    def parts(self, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall and F0.5, each [..., 3] -> [...]."""
        tp, fp, fn = np.moveaxis(totals, -1, 0)
        return f_score(tp, tp + fp, tp + fn, beta=BETA, empty=1.0)

    @property
    def variant(self) -> str:
        """See `Metric`."""
        return f"F0.5 by ERRANT's comparison ({self._mode}), edits by {self._extractor.label}"


def choose_annotators(
    sentences: Iterable[tuple[Sequence[Edit], GoldEdits]], mode: Mode = "cs"
) -> list[tuple[Counts, int]]:
    """Each sentence's counts, and the annotator that they are against.

    Args:
        sentences: (edits of the system, gold edits), in order.
        mode: what has to agree.
    """
    total = Counts(0, 0, 0)
    chosen = []
    for edits, gold in sentences:
        found = {name: _compare(edits, gold[name], mode) for name in sorted(gold)}
        best = max(found, key=lambda name: _rank(total, found[name]))  # the first of equals
        counts = found[best]
        total = Counts(*(a + b for a, b in zip(total, counts, strict=True)))
        chosen.append((counts, best))
    return chosen


def _compare(edits: Sequence[Edit], gold: Sequence[Edit], mode: Mode) -> Counts:
    found = Counter(_parts(edits, mode))
    wanted = Counter(_parts(gold, mode))
    # As in the program: an edit that is stated twice counts as often as its side states it.
    return Counts(
        tp=sum(count for part, count in wanted.items() if part in found),
        fp=sum(count for part, count in found.items() if part not in wanted),
        fn=sum(count for part, count in wanted.items() if part not in found),
    )


def _parts(edits: Iterable[Edit], mode: Mode) -> Iterator[Hashable]:
    """What of the edits has to agree."""
    for edit in edits:
        if mode == "ds":
            yield edit[:2]
        elif mode == "dt":  # an insertion counts for the token to its right
            yield from range(edit.start, max(edit.end, edit.start + 1))
        elif edit.type != "UNK":  # a detected error without a correction
            correction = "||".join(edit.corrections)
            yield (*edit[:2], correction, edit.type if mode == "cse" else "")


def _rank(total: Counts, counts: Counts) -> tuple[float, int, int, int]:
    """F so far, rounded as the program does; of equals more right, fewer wrong, fewer missed."""
    tp, fp, fn = (a + b for a, b in zip(total, counts, strict=True))
    precision = tp / (tp + fp) if fp else 1.0
    recall = tp / (tp + fn) if fn else 1.0
    square = BETA * BETA
    weighted = square * precision + recall
    f = (1 + square) * precision * recall / weighted if weighted else 0.0
    return round(f, 4), counts.tp, -counts.fp, -counts.fn
