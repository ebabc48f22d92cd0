"""Exact match and F1 of answers: SQuAD's, and two variants of its F1.

    squad_em                  equal after SQuAD's normalisation
    f1                        F1 of the bags of words; 0 if both are empty after normalising
    f1_empty_matches_empty    the same, but 1 there: the answer "A" is an article to SQuAD
    f1_box                    BoX's script: a reference is split at ", " and the best piece counts,
                              so that one right entity of six scores 1

Each is the maximum over the references.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from t5x_ext.metrics.exact_match import normalise as normalise_keeping_articles

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Lower-cases, removes ASCII punctuation and a/an/the, folds white space."""
    return " ".join(_ARTICLES.sub(" ", normalise_keeping_articles(text)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction equals a reference after normalisation, else 0.0."""
    return float(normalise(prediction) in map(normalise, references))


def f1(prediction: str, references: Sequence[str]) -> float:
    """F1 of the words, multiplicities counted."""
    words = normalise(prediction).split()
    return max(_f1(words, normalise(reference).split()) for reference in references)


def f1_empty_matches_empty(prediction: str, references: Sequence[str]) -> float:
    """`f1`, and 1.0 where the prediction and a reference are both empty after normalising."""
    if not normalise(prediction) and not all(map(normalise, references)):
        return 1.0
    return f1(prediction, references)


def f1_box(prediction: str, references: Sequence[str]) -> float:
    """`f1` against the pieces of the references between ", "."""
    return f1(prediction, [piece for text in references for piece in text.split(", ")])


def _f1(words: Sequence[str], expected: Sequence[str]) -> float:
    common = sum((Counter(words) & Counter(expected)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(expected)
    return 2 * precision * recall / (precision + recall)
