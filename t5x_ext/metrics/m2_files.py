"""Gold edits of an M2 file for a predictions file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from mixtures.writing.m2 import Sentence, read_m2
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.metrics.tokens import letters


def with_gold_edits(rows: Sequence[Prediction], path: str | os.PathLike[str]) -> list[Prediction]:
    """The rows with the sources and edits of an M2 file, which has a sentence for each, in order.

    Rows without a source take the file's; sources that are there have to have the same tokens, or
    to be the same text not yet tokenised.

    Raises:
        ConfigError: another number of sentences, or a source that differs.
        DataError: the file is not an M2 file.
    """
    sentences = read_m2(path)
    difference = _difference(rows, sentences)
    if len(sentences) != len(rows):
        raise ConfigError(
            f"{path}: {len(sentences)} sentences for {len(rows)} predictions{difference}; "
            "allowed: a sentence for each prediction, in the same order"
        )
    if difference:
        raise ConfigError(
            f"{path}: sources differ{difference}; allowed: the sources of the predictions"
        )
    pairs = zip(rows, sentences, strict=True)
    return [dataclasses.replace(row, source=s.source, edits=s.edits) for row, s in pairs]


def _difference(rows: Sequence[Prediction], sentences: Sequence[Sentence]) -> str:
    """Where a prediction's source first differs from the file's, or ''."""
    for number, (row, sentence) in enumerate(zip(rows, sentences, strict=False), start=1):
        if row.source is not None and letters(row.source) != letters(sentence.source):
            return (
                f" (first in prediction {number}, id '{row.id}': {row.source[:60]!r}; "
                f"sentence {number}: {sentence.source[:60]!r})"
            )
    return ""
