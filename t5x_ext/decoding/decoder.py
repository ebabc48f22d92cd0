"""Decodes examples in length buckets and hands back text by the example's place in the input."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from t5x_ext.data.length_buckets import make_length_buckets
from t5x_ext.data.records import Example
from t5x_ext.decoding import placement
from t5x_ext.decoding.batches import Batching, RequestBatch
from t5x_ext.decoding.compile_costs import smaller_batch
from t5x_ext.decoding.loop import PromptExtras, Prompts
from t5x_ext.decoding.methods import Method, OutputIds
from t5x_ext.decoding.outputs import Output, make_output
from t5x_ext.decoding.programs import Programs
from t5x_ext.decoding.prompts import check_examples
from t5x_ext.decoding.requests import Limit, Request
from t5x_ext.decoding.shared_prefixes import Sharing
from t5x_ext.decoding.side_by_side import SideBySideGenerator
from t5x_ext.decoding.stages import Finished, Queue, stage_ends
from t5x_ext.decoding.t5x_names import method_of
from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel
from t5x_ext.models.generation import Generator
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Decoding of many prompts.

    Prompts are sorted into batches of similar length, longest first: few loops are compiled
    (`programs.shapes` has them), and what does not fit fails early. Rows that go on when most of
    their batch has ended wait and are decoded together, see `decoding.stages`. What prompts begin
    with is read once for those of a batch, see `decoding.shared_prefixes`.

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
      resident_bytes: what stays on each device besides the parameters, such as an optimizer's
        slots.
      ids: which tokens there are, and which end a row; None is as the output vocabulary has them.
      num_contexts: C, prompts that share an output at most, see `decoding.marginal`.
      amateur: the model that a contrast is drawn with, where it has its own weights; parameters
        are then {'expert': , 'amateur': }. With None it is the model itself under another adapter.
      amateur_adapter: of that model's adapters the one that it reads with, from 1; 0 for none, and
        None where its network holds no several.
      keep_log_probs: whether `decode_requests` gives log-probabilities.
      output_limit: a limit of each example's own, below `max_decode_length`.
      share_prefixes: whether what prompts begin with is read once for those of a batch; None where
        that saves more than the programs for it take to compile. Outputs are the same up to
        rounding.
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
    num_contexts: int = 1
    amateur: BaseTransformerModel | None = None
    amateur_adapter: int | None = None
    keep_log_probs: bool = False
    output_limit: Limit | None = None
    share_prefixes: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", self.partitioner.round_up_batch(self.batch_size))
        method = self.method or method_of(self.model)
        object.__setattr__(self, "method", method)
        longest = min(self.max_decode_length, method.max_length or self.max_decode_length)
        object.__setattr__(self, "max_decode_length", longest)
        method.check_length(self.max_decode_length)
        if self.ids is not None or self.model.output_vocabulary is not None:
            method.check_ids(self.output_ids)
        if self.first_stage is not None and self.first_stage < 1:
            raise ConfigError(
                f"Decoder.first_stage: {self.first_stage}; allowed: at least 1, or None"
            )
        stops = self.ids is not None and self.ids.num_stops > 0
        if not method.is_rowwise and (stops or self.keep_log_probs):
            what = "stop" if stops else "log-probabilities"
            name = type(method).__name__
            raise ConfigError(f"{what}: not with {name}; allowed: Greedy, Sampling, Contrastive")

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
        generator = self._generator
        ends = stage_ends(self.max_decode_length, self.first_stage)
        prompts = self.batch_size * self.num_contexts * self._num_sides
        batch = prompts, self.buckets[-1], ends, self.method.num_rows
        return Programs(
            generator,
            self.partitioner,
            self.method,
            ends,
            self.output_ids,
            placement.cache_bytes(generator, self.partitioner, *batch),
            self.resident_bytes,
            keep_log_probs=self.keep_log_probs,
        )

    @property
    def _generator(self) -> Generator:
        if self.amateur is None:
            return self.model.generator
        expert = self.model.generator
        other = self.amateur.generator
        return SideBySideGenerator(expert.network, expert, other, self.amateur_adapter)

    @property
    def _num_sides(self) -> int:
        """Rows of each context: two where one model is expert and amateur."""
        assert self.method is not None  # __post_init__ has set it
        return 1 if self.amateur is not None else self.method.num_sides

    @property
    def _batching(self) -> Batching:
        sizes = self.batch_size, self.buckets, self.num_contexts, self._num_sides
        sharing = Sharing.of(self._generator, self.partitioner, self.share_prefixes)
        return Batching(*sizes, sharing)

    @functools.cached_property
    def programs_together(self) -> Programs:
        """The compiled functions of several models side by side."""
        return dataclasses.replace(self.programs, together=True, shapes=set())

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
        for finished in self._decode_examples(params, examples, numbers):
            yield finished.places, finished.outputs

    def _decode_examples(
        self, params: Params, examples: Sequence[Example], numbers: Sequence[int] | None
    ) -> Iterator[Finished]:
        known = range(len(examples)) if numbers is None else numbers
        pairs = zip(examples, known, strict=True)
        return self.decode_requests(params, [self._ask(one, int(n)) for one, n in pairs])

    def _ask(self, example: Example, number: int) -> Request:
        """The request to answer an example's prompt."""
        check_examples([example])
        limit = None
        if self.output_limit is not None:
            limit = self.output_limit.of_example(example, self.model.output_vocabulary)
        return Request.of(example, number, limit)

    def decode_requests(self, params: Params, requests: Sequence[Request]) -> Iterator[Finished]:
        """Decodes batch by batch, from one prompt each or from several that share an output.

        Args:
          params: parameters on the partitioner's mesh.
          requests: outputs to make, each with `num_contexts` prompts at most.

        Yields:
          Outputs by their place in `requests`, each once.
        """
        yield from self._decode(self.programs, params, [requests])

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
    ) -> Iterator[list[tuple[int, Output]]]:
        """Like `decode_tokens`, with (place in `examples`, output with its text) pairs."""
        for finished in self._decode_examples(params, examples, numbers):
            yield self._to_texts(finished)

    def decode_texts_together(
        self, stacked_params: Params, sets: Sequence[Sequence[Example]]
    ) -> Iterator[list[tuple[int, Output]]]:
        """Decodes the prompts of several models side by side, in one program.

        Each model's outputs are those of `decode_texts` on it alone. It goes through its prompts in
        separate batches; the batches of all models run until the last row of all is done.

        Args:
          stacked_params: parameters with a leading axis E, which the mesh's `expert` axis divides;
            those under adapters, which all models share, without.
          sets: the prompts of each model; those of the last models may be missing.

        Yields:
          (place in all sets one after the other, output with its text) pairs.
        """
        requests = [[self._ask(one, n) for n, one in enumerate(examples)] for examples in sets]
        programs = self.programs_together
        requests += [[]] * (programs.num_models(stacked_params) - len(sets))
        for finished in self._decode(programs, stacked_params, requests):
            yield self._to_texts(finished)

    def decode_texts_by_adapter(
        self, params: Params, sets: Sequence[Sequence[Example]]
    ) -> Iterator[list[tuple[int, Output]]]:
        """Decodes prompts of several adapters over one base; a batch has rows of any of them.

        Each adapter's outputs are those of `decode_texts` with it alone.

        Args:
          params: of a network with N adapters. On a mesh with S > 1 slots of `expert`, each of them
            has its own: adapters lead with S, see `adapters.gather_by_slot`.
          sets: the prompts of each adapter, slot by slot; those of the last may be missing.

        Yields:
          (place in all sets one after the other, output with its text) pairs.
        """
        slots = self.partitioner.num_expert_slots
        num_adapters = self.model.module.num_adapters
        assert num_adapters is not None  # or there would be nothing to choose from
        requests: list[list[Request]] = [[] for _ in range(slots)]
        for index, examples in enumerate(sets):
            slot, adapter = divmod(index, num_adapters)
            requests[slot] += [
                self._ask(one, number)._replace(adapters=(adapter,))
                for number, one in enumerate(examples)
            ]
        programs = self.programs_together if slots > 1 else self.programs
        for finished in self._decode(programs, params, requests):
            yield self._to_texts(finished)

    def _decode(
        self, programs: Programs, params: Params, sets: Sequence[Sequence[Request]]
    ) -> Iterator[Finished]:
        """Decodes a set of requests a model; places go through all sets in turn."""
        asked = [one for requests in sets for one in requests]
        longest = self.max_decode_length
        limits = np.array([min(one.limit or longest, longest) for one in asked], np.int32)
        numbers = np.array([one.number for one in asked])
        for finished in self._run(programs, params, sets, numbers, limits):
            yield finished._replace(limits=limits[finished.places])

    def _run(
        self,
        programs: Programs,
        params: Params,
        sets: Sequence[Sequence[Request]],
        numbers: np.ndarray,
        limits: np.ndarray,
    ) -> Iterator[Finished]:
        weights = programs.prepare(params)
        queue = Queue(programs, weights, smaller_batch(self.partitioner, self.batch_size))
        for batch in self._batching.side_by_side(sets):
            places = batch.places
            of_rows = np.where(places < 0, 0, numbers[places]).astype(np.int32)
            extras = self._extras(batch, limits)
            prompts = Prompts(batch.prompts, batch.lengths, of_rows, extras)
            result = programs.begin(params, weights, prompts, batch.length)
            yield from queue.admit(places, result)
        yield from queue.finish()

    def _extras(self, batch: RequestBatch, limits: np.ndarray) -> PromptExtras:
        chooses = self.model.module.num_adapters is not None
        prefixes = batch.prefixes
        if prefixes is not None and not chooses:
            prefixes = prefixes._replace(adapters=None)
        return PromptExtras(
            batch.log_weights if self.num_contexts > 1 else None,
            batch.adapters if chooses else None,
            np.where(batch.places < 0, 1, limits[batch.places]) if self.output_limit else None,
            prefixes,
        )

    def to_text(self, tokens: np.ndarray) -> Output:
        """The output that a row of `decode_tokens` stands for, with its text."""
        return make_output(tokens, None, self.output_ids, self.model.output_vocabulary)

    def _to_texts(self, finished: Finished) -> list[tuple[int, Output]]:
        assert finished.limits is not None  # `_decode` has set them
        rows = zip(finished.places, finished.outputs[:, 0], finished.limits, strict=True)
        return [(int(place), self.to_text(row[:limit])) for place, row, limit in rows]
