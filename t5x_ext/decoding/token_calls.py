"""Calls in token ids: teacher-forced scores, and generation from prompts as they are.

Nothing is added to the ids: no BOS, no EOS, no template.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from t5x_ext.data.batching import batches_by_length, make_length_buckets
from t5x_ext.data.records import Example
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.methods import ids_before_eos
from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner

Ids = Sequence[int] | np.ndarray


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

    def __call__(self, params: Params, rows: Sequence[Ids]) -> list[np.ndarray]:
        """Scores of every next token after each token.

        Args:
          params: parameters on the mesh.
          rows: token ids, at least one each.

        Returns:
          float32 [L, vocab_size] for each row of L ids; none depends on the others.

        Raises:
          ConfigError: a row or an id is not allowed.
        """
        checked = check_rows("token_logits", rows, self.model.config.vocab_size)
        batch_size = self.partitioner.round_up_batch(self.batch_size)
        lengths = [len(row) for row in checked]
        buckets = make_length_buckets(max(lengths, default=1), per_doubling=2)
        found: list[Any] = [None] * len(checked)
        for places, length in batches_by_length(lengths, batch_size, buckets):
            tokens, segments = (np.zeros((batch_size, length), np.int32) for _ in range(2))
            for row, place in enumerate(places):
                tokens[row, : lengths[place]] = checked[place]
                segments[row, : lengths[place]] = 1
            placed = [self.partitioner.put_whole(array) for array in (tokens, segments)]
            logits = np.asarray(self._run(params, *placed))
            for row, place in enumerate(places):
                found[place] = logits[row, : lengths[place]].copy()
        return found

    @functools.cached_property
    def _run(self) -> Any:
        def logits(params: Params, tokens: jax.Array, segments: jax.Array) -> jax.Array:
            with self.partitioner.activate():
                batch = {"decoder_input_tokens": tokens, "decoder_segment_ids": segments}
                return self.model.logits(params, batch)

        return jax.jit(logits, out_shardings=self.partitioner.sharding((None,)))


def generate_tokens(decoder: Decoder, params: Params, prompts: Sequence[Ids]) -> list[list[int]]:
    """Continues prompts.

    Args:
      decoder: how to decode, and which ids end a row.
      params: parameters on the decoder's mesh.
      prompts: token ids, at least one each.

    Returns:
      The new ids of each prompt, EOS left out.

    Raises:
      ConfigError: a prompt or an id is not allowed.
    """
    checked = check_rows("generate_tokens", prompts, decoder.model.config.vocab_size)
    longest = max((len(row) for row in checked), default=0)
    if longest > decoder.max_input_length:
        raise ConfigError(
            f"generate_tokens: a prompt of {longest} tokens; allowed: {decoder.max_input_length}"
        )
    examples = [
        Example(str(index), "", "", row, (), "", (), False) for index, row in enumerate(checked)
    ]
    found: list[list[int]] = [[] for _ in checked]
    for places, tokens in decoder.decode_tokens(params, examples):
        for place, row in zip(places, tokens, strict=True):
            found[place] = ids_before_eos(row, decoder.output_ids.eos)
    return found


def check_rows(call: str, rows: Sequence[Ids], vocab_size: int) -> list[np.ndarray]:
    """Rows of ids as int32 arrays.

    Raises:
      ConfigError: a row is empty or holds something other than ids of the vocabulary.
    """
    checked = []
    for index, row in enumerate(rows):
        array = np.asarray(row)
        if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
            raise ConfigError(f"{call}: row {index} is no list of token ids; allowed: 1 and more")
        if array.min() < 0 or array.max() >= vocab_size:
            wrong = next(int(i) for i in array if not 0 <= i < vocab_size)
            raise ConfigError(f"{call}: row {index} has id {wrong}; allowed: 0 to {vocab_size - 1}")
        checked.append(array.astype(np.int32))
    return checked
