"""How sets write hyphens, contractions, quotes and punctuation.

A model that was trained on `twenty - five` writes so, and is punished by a test set that has
`twenty-five`: CLang8's tokens are spaCy's, CoNLL's are NLTK's. What is compared is what a model is
given, so tokens that the detokeniser joins do not count as a difference.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from mixtures.records import Row
from t5x_ext.audits.records import TaskRows

# Shares of rows, 0 to 1, that are told as different ways of writing.
_DIFFERENCE = 0.25
# name -> (written apart, written in one), each as a pattern of the input
STYLES = {
    "hyphens": (r"\w - \w", r"\w-\w"),
    "contractions": (r"\w (?:n't|'(?:s|m|d|re|ve|ll))\b", r"\w(?:n't|'(?:s|m|d|re|ve|ll))\b"),
    "punctuation": (r"\w [.,;:!?](?:\s|$)", r"\w[.,;:!?](?:\s|$)"),
    "quotes as `` or ''": (r"``|''", r'"'),
}


@dataclass(frozen=True)
class StyleClash:
    """Two sets, one trained on and one tested, that write the same thing in two ways.

    Attributes:
        style: a key of `STYLES`.
        trained, tested: names of the sets.
        trained_share, tested_share: of the inputs that have either way, those that write it apart.
    """

    style: str
    trained: str
    tested: str
    trained_share: float
    tested_share: float


def style_clashes(tasks: Iterable[TaskRows], audited: Collection[str]) -> list[StyleClash]:
    """Every pair of a trained and a tested set whose inputs are written differently.

    Args:
        tasks: sets to compare, each once.
        audited: names of sets; a pair without any of them is left out.
    """
    tasks = [task for task in tasks if task.is_rewriting]
    trained = [(task.name, _shares(task.train)) for task in tasks if task.train]
    tested = [(task.name, _shares(task.test)) for task in tasks if task.test]
    return [
        StyleClash(style, one, other, shares[style], others[style])
        for one, shares in trained
        for other, others in tested
        if {one, other} & set(audited)
        for style in STYLES
        if style in shares and style in others
        if abs(shares[style] - others[style]) > _DIFFERENCE
    ]


def _shares(rows: Sequence[Row]) -> dict[str, float]:
    """For each style that occurs, the share of its rows that write it apart."""
    shares = {}
    for style, (apart, in_one) in STYLES.items():
        split = sum(re.search(apart, row.input) is not None for row in rows)
        joined = sum(re.search(in_one, row.input) is not None for row in rows)
        if split + joined:
            shares[style] = split / (split + joined)
    return shares
