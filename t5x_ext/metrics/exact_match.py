"""Exact match: under Tk-Instruct's normalisation, and character for character."""

from __future__ import annotations

import string
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower-cases, removes ASCII punctuation and folds white space; articles stay.

    `" The U.S.A.,  again "` -> `"the usa again"`
    """
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def score(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction equals any reference after normalisation, else 0.0."""
    predicted = normalise(prediction)
    return float(any(predicted == normalise(reference) for reference in references))


def exact(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction is a reference, character for character (EditEval's `em`)."""
    return float(prediction in references)
