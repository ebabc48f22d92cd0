"""Decodes examples in length buckets and hands back text by the example's place in the input."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from t5x_ext.data.batching import eval_batches, make_length_buckets
from t5x_ext.data.records import Example
from t5x_ext.decoding.loop import decode_batch
from t5x_ext.models import EncoderDecoderModel
from t5x_ext.models.params import Params
from t5x_ext.partitioning import PjitPartitioner


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Greedy decoding of many prompts.

    Prompts are sorted into batches of similar length, longest first: the number of compiled
    shapes is at most the number of buckets, and a batch that does not fit fails at once.

    Attributes:
      model: gives the network and the output vocabulary.
      partitioner: the mesh that parameters already live on.
      batch_size: prompts per batch, global; rounded up to what the mesh divides.
      max_input_length: longest prompt in tokens, EOS included.
      max_decode_length: longest prediction in tokens, EOS included.
    """

    model: EncoderDecoderModel
    partitioner: PjitPartitioner
    batch_size: int
    max_input_length: int
    max_decode_length: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", self.partitioner.round_up_batch(self.batch_size))

    @property
    def buckets(self) -> tuple[int, ...]:
        """Padded input lengths that may be compiled."""
        return make_length_buckets(self.max_input_length)

    @functools.cached_property
    def _decode(self) -> Any:
        vocabulary = self.model.output_vocabulary

        def decode(model_params: Params, inputs: jax.Array) -> jax.Array:
            with self.partitioner.activate():
                return decode_batch(
                    self.model.config,
                    model_params,
                    inputs,
                    self.max_decode_length,
                    vocabulary.vocab_size,
                )

        # Every host gets all rows: each writes, or counts, the same predictions.
        return jax.jit(decode, out_shardings=self.partitioner.sharding((None, None)))

    def decode_tokens(
        self, model_params: Params, examples: Sequence[Example]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decodes batch by batch.

        Args:
          model_params: parameters on the partitioner's mesh.
          examples: prompts; their targets are not used.

        Yields:
          indices: int32 [n], places in `examples` of this batch's rows.
          tokens: int32 [n, max_decode_length]; a row ends with EOS where one was produced.
        """
        for indices, batch in eval_batches(examples, self.batch_size, self.buckets):
            inputs = self.partitioner.put_whole(batch["encoder_input_tokens"])
            tokens = np.asarray(self._decode(model_params, inputs))
            real = indices >= 0
            yield indices[real], tokens[real]

    def decode_texts(
        self, model_params: Params, examples: Sequence[Example]
    ) -> Iterator[list[tuple[int, str]]]:
        """Like `decode_tokens`, with (place in `examples`, text) pairs per batch."""
        vocabulary = self.model.output_vocabulary
        for indices, tokens in self.decode_tokens(model_params, examples):
            yield [
                (int(index), vocabulary.decode(ids_before_eos(row, vocabulary.eos_id)))
                for index, row in zip(indices, tokens, strict=True)
            ]


def ids_before_eos(row: np.ndarray, eos_id: int) -> list[int]:
    """[7, 8, eos, 0, 0] -> [7, 8]."""
    ends = np.flatnonzero(row == eos_id)
    return row[: ends[0]].tolist() if len(ends) else row.tolist()
