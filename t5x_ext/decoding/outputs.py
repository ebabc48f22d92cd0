"""Decoded outputs as callers get them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from t5x_ext.decoding.methods import OutputIds, ids_before_eos


@dataclasses.dataclass(frozen=True)
class Output:
    """One decoded output.

    Attributes:
      tokens: ids, without the EOS or the stop that ended it.
      finish: what ended it: 'eos', 'stop', or 'length', the longest allowed.
      log_probs: natural log-probabilities of the tokens that were produced, the EOS or those of the
        stop included; of several prompts that share the output, under their mixture; of a contrast,
        the expert's. Temperature and filters of a sampler, and tokens that were not allowed, do not
        change them.
      text: without the stop; None in calls with token ids.
    """

    tokens: list[int]
    finish: str
    log_probs: list[float]
    text: str | None = None

    @property
    def log_prob(self) -> float:
        """Of the whole output."""
        return float(sum(self.log_probs))


def make_output(
    row: np.ndarray, log_probs: np.ndarray | None, ids: OutputIds, vocabulary: Any = None
) -> Output:
    """An output from a row of the decoder.

    Args:
      row: int32 [T], anything after its end.
      log_probs: float32 [T]; None if they are not kept.
      ids: which end a row.
      vocabulary: makes the text; None leaves it out.
    """
    kept: Sequence[int] = ids_before_eos(row, ids.eos)
    has_eos = len(kept) < len(row)
    count, finish = len(kept) + has_eos, "eos" if has_eos else "length"
    stopped = None if ids.stops is None else ids.stops.end_of(row[:count])
    text = None if vocabulary is None else vocabulary.decode(kept)
    if ids.stops is not None and stopped is not None:
        count, finish = stopped, "stop"
        kept = row[:count].tolist()
        text = None if vocabulary is None else ids.stops.cut_text(vocabulary.decode(kept))
        kept = ids.stops.cut_tokens(kept)
    of_tokens = [] if log_probs is None else log_probs[:count].tolist()
    return Output(list(kept), finish, of_tokens, text)
