"""Decodes examples in length buckets and hands back text by the example's place in the input."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from t5x_ext.data.batching import batches_by_length, make_length_buckets
from t5x_ext.data.records import Example
from t5x_ext.decoding import placement
from t5x_ext.decoding.methods import Method, OutputIds, ids_before_eos
from t5x_ext.decoding.programs import Programs
from t5x_ext.decoding.stages import Queue, stage_ends
from t5x_ext.decoding.t5x_names import method_of
from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Decoding of many prompts.

    Prompts are sorted into batches of similar length, longest first: the number of compiled
    shapes is bounded (`max_shapes`), and a batch that does not fit fails at once. Rows that go on
    when most of their batch has ended wait and are decoded together, see `decoding.stages`.

    Attributes:
      model: gives the network and the output vocabulary.
      partitioner: the mesh that parameters already live on.
      batch_size: prompts per batch, global; rounded up to what the mesh divides.
      max_input_length: longest prompt in tokens, EOS included.
      max_decode_length: longest prediction in tokens, EOS included; the method's own limit, where
        that is less.
      method: how tokens are chosen; None is as the model is set.
      first_stage: positions after which the rows of a batch that have not ended are parked. Up to
        one batch of prompts a later stage stays in memory. None decodes every batch to its end.
      resident_bytes: what stays on each device beside the parameters, such as an optimizer's slots.
      ids: which tokens there are, and which end a row; None is as the output vocabulary has them.
    """

    model: BaseTransformerModel
    partitioner: PjitPartitioner
    batch_size: int
    max_input_length: int
    max_decode_length: int
    method: Method | None = None
    first_stage: int | None = 8
    resident_bytes: int = 0
    ids: OutputIds | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", self.partitioner.round_up_batch(self.batch_size))
        method = self.method or method_of(self.model)
        object.__setattr__(self, "method", method)
        longest = min(self.max_decode_length, method.max_length or self.max_decode_length)
        object.__setattr__(self, "max_decode_length", longest)
        method.check_length(self.max_decode_length)
        if self.first_stage is not None and self.first_stage < 1:
            raise ConfigError(
                f"Decoder.first_stage: {self.first_stage}; allowed: at least 1, or None"
            )

    @property
    def buckets(self) -> tuple[int, ...]:
        """Padded input lengths that may be compiled.

        Two for each doubling: of 256 SuperNI prompts in batches of 16, 19% of positions are
        padding, with one 27%, with four 13%.
        """
        return make_length_buckets(self.max_input_length, per_doubling=2)

    @property
    def output_ids(self) -> OutputIds:
        """Which tokens there are, and which end a row."""
        return self.ids or OutputIds.of(self.model.output_vocabulary)

    @functools.cached_property
    def programs(self) -> Programs:
        """The compiled functions."""
        assert self.method is not None  # __post_init__ has set it
        generator = self.model.generator
        ends = stage_ends(self.max_decode_length, self.first_stage)
        batch = self.batch_size, self.buckets[-1], ends, self.method.num_rows
        return Programs(
            generator,
            self.partitioner,
            self.method,
            ends,
            self.output_ids,
            placement.cache_bytes(generator, self.partitioner, *batch),
            self.resident_bytes,
        )

    @functools.cached_property
    def programs_together(self) -> Programs:
        """The compiled functions of several models side by side."""
        return dataclasses.replace(self.programs, together=True, shapes=set())

    @property
    def max_shapes(self) -> int:
        """The most loops that are ever compiled; `programs.shapes` has those that are."""
        # The first stage of full batches, and later ones of full and of small batches.
        return len(self.buckets) * (1 + 2 * (len(self.programs.ends) - 1))

    def decode_outputs(
        self,
        params: Params,
        examples: Sequence[Example],
        numbers: Sequence[int] | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decodes batch by batch.

        Args:
          params: parameters on the partitioner's mesh.
          examples: prompts; their targets are not used.
          numbers: each prompt's number, which sampling depends on; its place in `examples` if None.

        Yields:
          indices: int32 [n], places in `examples`, each once.
          tokens: int32 [n, S, max_decode_length], the method's outputs of each, best first; a row
            ends with EOS where one was produced.
        """
        known = np.arange(len(examples)) if numbers is None else np.asarray(numbers)
        yield from self._decode(self.programs, params, [examples], known)

    def decode_tokens(
        self,
        params: Params,
        examples: Sequence[Example],
        numbers: Sequence[int] | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Like `decode_outputs`, with the best (or first) output: tokens int32 [n, T]."""
        for indices, tokens in self.decode_outputs(params, examples, numbers):
            yield indices, tokens[:, 0]

    def decode_texts(
        self,
        params: Params,
        examples: Sequence[Example],
        numbers: Sequence[int] | None = None,
    ) -> Iterator[list[tuple[int, str]]]:
        """Like `decode_tokens`, with (place in `examples`, text) pairs."""
        for indices, tokens in self.decode_tokens(params, examples, numbers):
            yield self._to_texts(indices, tokens)

    def decode_texts_together(
        self, stacked_params: Params, sets: Sequence[Sequence[Example]]
    ) -> Iterator[list[tuple[int, str]]]:
        """Decodes the prompts of several models side by side, in one program.

        Each model's outputs are those of `decode_texts` on it alone. It goes through its prompts in
        batches of its own; the batches of all models run until the last row of all is done.

        Args:
          stacked_params: parameters with a leading axis E, which the mesh's `expert` axis divides.
          sets: the prompts of each model; those of the last models may be missing.

        Yields:
          (place in all sets one after the other, text) pairs.
        """
        numbers = np.concatenate([np.arange(len(examples)) for examples in sets])
        num_models = jax.tree.leaves(stacked_params)[0].shape[0]
        sets = [*sets, *[[]] * (num_models - len(sets))]
        outputs = self._decode(self.programs_together, stacked_params, sets, numbers)
        for indices, tokens in outputs:
            yield self._to_texts(indices, tokens[:, 0])

    def _decode(
        self,
        programs: Programs,
        params: Params,
        sets: Sequence[Sequence[Example]],
        numbers: np.ndarray,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decodes a set of prompts a model; places and `numbers` go through all sets in turn."""
        weights = programs.prepare(params)
        small_batch = self.partitioner.round_up_batch(-(-self.batch_size // 4))
        queue = Queue(programs, weights, small_batch)
        batches = batches_side_by_side(sets, self.batch_size, self.buckets)
        for places, prompts, lengths in batches:
            of_rows = np.where(places < 0, 0, numbers[places]).astype(np.int32)
            reached = programs.begin(params, weights, prompts, lengths, of_rows)
            yield from queue.admit(places, reached)
        yield from queue.finish()

    def _to_texts(self, places: np.ndarray, tokens: np.ndarray) -> list[tuple[int, str]]:
        vocabulary = self.model.output_vocabulary
        return [
            (int(place), vocabulary.decode(ids_before_eos(row, self.programs.ids.eos)))
            for place, row in zip(places, tokens, strict=True)
        ]


def batches_side_by_side(
    sets: Sequence[Sequence[Example]], batch_size: int, buckets: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of several sets of prompts next to each other, each set's longest first.

    Yields:
      places: int32 [E, B], counted through all sets one after the other; -1 for filler, of which
        the batches are that a set does not have.
      prompts: int32 [E, B, L], padded.
      lengths: int32 [E, B], tokens of each prompt, 0 for filler.
    """
    starts = np.cumsum([0, *map(len, sets)])
    own_batches = (
        batches_by_length([len(example.inputs) for example in examples], batch_size, buckets)
        for examples in sets
    )
    for together in itertools.zip_longest(*own_batches):
        present = [(index, *pair) for index, pair in enumerate(together) if pair is not None]
        shape = (len(sets), batch_size)
        places, lengths = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
        prompts = np.zeros((*shape, max(length for _, _, length in present)), np.int32)
        for index, chosen, _ in present:
            places[index, : len(chosen)] = chosen + starts[index]
            for row, place in enumerate(chosen):
                tokens = sets[index][place].inputs
                prompts[index, row, : len(tokens)] = tokens
                lengths[index, row] = len(tokens)
        yield places, prompts, lengths
