"""Teacher-forced scores of rows of token ids, to which nothing is added: no BOS, no EOS."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from t5x_ext.data.length_buckets import batches_by_length, make_length_buckets
from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel
from t5x_ext.models.adapter_rows import adapter_rows
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner

_USUAL = 1024  # tokens


@dataclasses.dataclass(frozen=True)
class TokenLogits:
    """Teacher-forced scores of whole rows, in length buckets.

    Attributes:
      model: a decoder-only model.
      partitioner: the mesh that parameters already live on.
      batch_size: rows at a time, global; rounded up to what the mesh divides.
    """

    model: BaseTransformerModel
    partitioner: PjitPartitioner
    batch_size: int

    def __post_init__(self) -> None:
        if not self.model.features.joined:
            raise ConfigError(
                f"token_logits: a {self.model.config.family} model reads prompts in its encoder; "
                "allowed: decoder-only models"
            )

    def __call__(
        self, params: Params, rows: Sequence[np.ndarray], adapters: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Scores of every next token after each token.

        Args:
          params: parameters on the mesh.
          rows: token ids, at least one each.
          adapters: int32 [rows], see `models.adapter_rows`.

        Returns:
          float32 [L, vocab_size] for each row of L ids; none depends on the others.
        """
        batch_size = self.partitioner.round_up_batch(self.batch_size)
        lengths = [len(row) for row in rows]
        buckets = make_length_buckets(max(lengths, default=1), per_doubling=2)
        found: list[Any] = [None] * len(rows)
        for places, length in batches_by_length(lengths, batch_size, buckets):
            tokens, segments = (np.zeros((batch_size, length), np.int32) for _ in range(2))
            for row, place in enumerate(places):
                tokens[row, : lengths[place]] = rows[place]
                segments[row, : lengths[place]] = 1
            placed = [self.partitioner.put_whole(array) for array in (tokens, segments)]
            of_rows = take_filled(adapters, places, batch_size)
            logits = np.asarray(self._run(params, *placed, of_rows))
            for row, place in enumerate(places):
                found[place] = logits[row, : lengths[place]].copy()
        return found

    @functools.cached_property
    def _run(self) -> Any:
        def logits(
            params: Params, tokens: jax.Array, segments: jax.Array, adapters: jax.Array | None
        ) -> jax.Array:
            with self.partitioner.activate(), adapter_rows(adapters):
                batch = {"decoder_input_tokens": tokens, "decoder_segment_ids": segments}
                return self.model.logits(params, batch)

        return jax.jit(logits, out_shardings=self.partitioner.sharding((None,)))


def take_filled(
    adapters: np.ndarray | None, places: np.ndarray, batch_size: int
) -> np.ndarray | None:
    """The adapters of the rows at `places`, filled up to int32 [batch_size]; None of None."""
    if adapters is None:
        return None
    return np.pad(adapters[places], (0, batch_size - len(places))).astype(np.int32)


def longest_input(rows: Sequence[np.ndarray], limit: int | None) -> int:
    """Tokens of the longest prompt that calls are compiled for.

    Args:
      rows: tokens of prompts.
      limit: what they were cut to; None where they are whole. Those of usual lengths then share
        what is compiled.
    """
    return limit or max(_USUAL, round_up_length(max(map(len, rows), default=1)))


def round_up_length(length: int) -> int:
    """64, 128, 256, ...: so that calls with rows of similar length share compiled programs."""
    return 64 << max(0, (length - 1).bit_length() - 6)
