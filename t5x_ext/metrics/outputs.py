"""What outputs look like, whatever their score: most differences in scores begin here.

unchanged       share of outputs that repeat their source, up to tokenisation
empty           share of outputs without text
run_away        share of outputs more than twice as long as their source and every reference
stopped         share of outputs that ended by themselves, not at the longest allowed
words           words of an output, mean; divided by 100, as every figure is shown times 100
edit_distance   words deleted and inserted, per word of the sources
over_corrected  share of texts without fault whose output differs from them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from t5x_ext.metrics.metric import Metric, mean_of, ratio, with_ones
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.metrics.rouge import longest_common_subsequence
from t5x_ext.metrics.tokens import letters, tokenize_outputs

# Of an answer to a text of one or two words, that many more are not a sign of endless repetition.
_SPARE_WORDS = 8


class PerRow(Metric):
    """Mean of what each row has by itself: a number, or whether something holds."""

    def __init__(self, name: str, of: Callable[[Prediction], float], needs: tuple[str, ...] = ()):
        """Takes what to ask of a row, and the fields it needs for that."""
        self.name = self.key = name
        self.needs = needs
        self._of = of

    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """(number, 1) of each row."""
        return with_ones(np.array([float(self._of(row)) for row in rows]))

    def finish(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        return mean_of(totals)


def unchanged() -> Metric:
    """Outputs equal to their source; white space and the form of quotation marks do not count."""
    return PerRow(
        "unchanged", lambda row: letters(row.prediction) == letters(row.source or ""), ("source",)
    )


def empty() -> Metric:
    """Outputs without text."""
    return PerRow("empty", lambda row: not row.prediction.strip())


def run_away() -> Metric:
    """Outputs of more than twice the words of their source or longest reference, and 8 more.

    Models that do not learn to stop repeat themselves up to the limit of decoding.
    """
    return PerRow("run_away", _runs_away)


def _runs_away(row: Prediction) -> bool:
    longest = max(len(text.split()) for text in (row.source or "", *row.references))
    return len(row.prediction.split()) > 2 * longest + _SPARE_WORDS


def stopped() -> Metric:
    """Outputs that the end of sequence or a stop ended, not the longest length allowed."""
    return PerRow("stopped", lambda row: row.finish != "length", ("finish",))


def words() -> Metric:
    """Length of outputs, in hundreds of words."""
    return PerRow("words", lambda row: len(row.prediction.split()) / 100)


class EditDistance(Metric):
    """Words deleted and inserted on the shortest way from source to output, per word of the source.

    A word replaced counts twice. Copies are at 0, whatever the form of their tokens.
    """

    name = key = "edit_distance"
    needs = ("source",)

    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """(words deleted and inserted, words of the source) of each row."""
        counts = []
        for row, output in zip(rows, tokenize_outputs(rows), strict=True):
            source = (row.source or "").split()
            kept = longest_common_subsequence(source, output)
            counts.append((len(source) + len(output) - 2 * kept, len(source)))
        return np.array(counts, float)

    def finish(self, totals: np.ndarray) -> np.ndarray:
        """Edits over words; above 1 where outputs have little in common with their sources."""
        return ratio(totals[..., 0], totals[..., 1])


class OverCorrected(Metric):
    """Of the rows whose source no reference changes, the share whose output changes it.

    What it finds is no edit too many, as precision counts them, but a text spoilt that was right.
    """

    name = key = "over_corrected"
    needs = ("source",)

    def statistics(self, rows: Sequence[Prediction]) -> np.ndarray:
        """(output differs from a source that is right, source is right) of each row."""
        counts = []
        for row in rows:
            source = letters(row.source or "")
            is_right = all(letters(text) == source for text in row.references)
            counts.append((is_right and letters(row.prediction) != source, is_right))
        return np.array(counts, float)

    def finish(self, totals: np.ndarray) -> np.ndarray:
        """Share of the rows that are right; 0 where none is."""
        return ratio(totals[..., 0], totals[..., 1])
