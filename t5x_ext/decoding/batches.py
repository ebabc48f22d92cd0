"""Requests in padded batches: longest first, or in the order of what their prompts share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from t5x_ext.data.length_buckets import batches_by_length, smallest_holding
from t5x_ext.decoding import shared_prefixes
from t5x_ext.decoding.requests import Request
from t5x_ext.decoding.shared_prefixes import Cut
from t5x_ext.models.generation import Prefixes


class RequestBatch(NamedTuple):
    """Requests of E models next to each other, padded; see `loop` for B, C and R.

    Attributes:
      places: int32 [E, B], counted through all sets of requests; -1 for filler.
      prompts: int32 [E, B * R, L]; with prefixes, what follows them.
      lengths: int32 [E, B * R], tokens of each prompt, 0 for filler and for contexts that a request
        does not have.
      log_weights: float32 [E, B, C]; -inf for contexts that a request does not have.
      adapters: int32 [E, B * R].
      prefixes: with a leading axis E, adapters in any case; None where each prompt is whole.
      length: what whole prompts are padded to.
    """

    places: np.ndarray
    prompts: np.ndarray
    lengths: np.ndarray
    log_weights: np.ndarray
    adapters: np.ndarray
    prefixes: Prefixes | None
    length: int


class _Set(NamedTuple):
    """The requests of a model.

    Attributes:
      requests: in the order given.
      shared: for each request, tokens of each context that are a shared prefix.
      batches: places of the requests of each batch.
    """

    requests: Sequence[Request]
    shared: list[list[int]]
    batches: list[np.ndarray]


class _Prompt(NamedTuple):
    """A prompt's place in a batch, its tokens, and how many of them are a shared prefix."""

    row: int
    tokens: np.ndarray
    adapter: int
    shared: int

    @property
    def prefix(self) -> tuple[int, bytes]:
        """What is the same for prompts with the same prefix."""
        return self.adapter, self.tokens[: self.shared].tobytes()


class Batching(NamedTuple):
    """How requests become batches.

    Attributes:
      batch_size: B.
      buckets: lengths that prompts may be padded to, ascending.
      num_contexts: C.
      num_sides: rows of each context, R = C * num_sides; neighbours, the expert's first.
      round_up: the next number of rows that the mesh divides; None reads every prompt whole.
      least_saved: positions that shared prefixes have to save in all, or prompts are read whole.
    """

    batch_size: int
    buckets: Sequence[int]
    num_contexts: int = 1
    num_sides: int = 1
    round_up: Callable[[int], int] | None = None
    least_saved: int = 0

    @property
    def num_rows(self) -> int:
        """B * R."""
        return self.batch_size * self.num_contexts * self.num_sides

    def side_by_side(self, sets: Sequence[Sequence[Request]]) -> Iterator[RequestBatch]:
        """Batches of several sets of requests next to each other, each in its own order."""
        starts = np.cumsum([0, *map(len, sets)])
        own = [self._order(requests) for requests in sets]
        for index in range(max(len(one.batches) for one in own)):
            chosen = [
                one.batches[index] if index < len(one.batches) else np.zeros(0, int) for one in own
            ]
            yield self._fill(own, chosen, starts)

    def _order(self, requests: Sequence[Request]) -> _Set:
        lengths = [max(map(len, one.prompts)) for one in requests]
        by_length = [
            places for places, _ in batches_by_length(lengths, self.batch_size, self.buckets)
        ]
        whole = _Set(requests, [[0] * len(one.prompts) for one in requests], by_length)
        if self.round_up is None or not requests:
            return whole
        flat = [prompt for one in requests for prompt in one.prompts]
        adapters = [(one.adapters or (0,))[0] for one in requests for _ in one.prompts]
        groups, counts = shared_prefixes.shared_lengths(flat, adapters)
        firsts = np.cumsum([0, *(len(one.prompts) for one in requests)])
        shared = [
            counts[start:end].tolist() for start, end in zip(firsts, firsts[1:], strict=False)
        ]
        order = shared_prefixes.order_by_prefix(groups[firsts[:-1]], np.array(lengths))
        size = self.batch_size
        by_prefix = [order[start : start + size] for start in range(0, len(order), size)]
        # Rows that wait for a stage are joined by shorter ones, see `stages`.
        by_prefix.sort(key=lambda places: -max(lengths[place] for place in places))
        chosen, alike = whole._replace(shared=shared), _Set(requests, shared, by_prefix)
        # An order by prefix also mixes lengths, so that it has to save some.
        limit = shared_prefixes.WORTH_AN_ORDER * self._positions(chosen)
        chosen = alike if self._positions(alike) < limit else chosen
        saved = self._positions(whole) - self._positions(chosen)
        return chosen if saved > self.least_saved else whole

    def _positions(self, requests: _Set) -> int:
        """Positions to read in all."""
        total = 0
        for places in requests.batches:
            prompts = self._prompts(requests, places)
            cut = self._cut([prompts])
            length = self._length([prompts])
            total += self.num_rows * length if cut is None else cut.positions(self.num_rows)
        return total

    def _fill(
        self, sets: Sequence[_Set], chosen: Sequence[np.ndarray], starts: np.ndarray
    ) -> RequestBatch:
        shape = len(sets), self.batch_size
        of_row = *shape, self.num_contexts, self.num_sides
        places = np.full(shape, -1, np.int32)
        log_weights = np.zeros(of_row[:3], np.float32)
        adapters = np.zeros(of_row, np.int32)
        for model, (one, own) in enumerate(zip(sets, chosen, strict=True)):
            places[model, : len(own)] = own + starts[model]
            for row, place in enumerate(own):
                request = one.requests[place]
                log_weights[model, row] = -np.inf
                log_weights[model, row, : len(request.prompts)] = request.log_weights
                adapters[model, row] = request.adapters or 0
        prompts = [self._prompts(one, own) for one, own in zip(sets, chosen, strict=True)]
        length, cut = self._length(prompts), self._cut(prompts)
        prefixes = None
        if cut is not None:
            prefixes = self._prefixes(prompts, cut)
            prompts = [[_rest(one) for one in of_model] for of_model in prompts]
        tokens = np.zeros((len(sets), self.num_rows, cut.rest_length if cut else length), np.int32)
        lengths = np.zeros((len(sets), self.num_rows), np.int32)
        for model, of_model in enumerate(prompts):
            for prompt in of_model:
                tokens[model, prompt.row, : len(prompt.tokens)] = prompt.tokens
                lengths[model, prompt.row] = len(prompt.tokens)
        of_rows = adapters.reshape(len(sets), -1)
        return RequestBatch(places, tokens, lengths, log_weights, of_rows, prefixes, length)

    def _prompts(self, requests: _Set, places: np.ndarray) -> list[_Prompt]:
        """Of the requests at these places, one for each context and side."""
        found = []
        for row, place in enumerate(places):
            request = requests.requests[place]
            adapters = np.broadcast_to(request.adapters or (0,), self.num_sides).tolist()
            for context, tokens in enumerate(request.prompts):
                shared = requests.shared[place][context]
                for side in range(self.num_sides):
                    index = (row * self.num_contexts + context) * self.num_sides + side
                    found.append(_Prompt(index, tokens, adapters[side], shared))
        return found

    def _length(self, prompts: Sequence[Sequence[_Prompt]]) -> int:
        longest = max(len(one.tokens) for of_model in prompts for one in of_model)
        return smallest_holding(longest, self.buckets, "inputs")

    def _cut(self, prompts: Sequence[Sequence[_Prompt]]) -> Cut | None:
        """Sizes of prefixes and of what follows, or None where reading them apart saves little."""
        if self.round_up is None or not any(one.shared for group in prompts for one in group):
            return None
        cut = shared_prefixes.make_cut(
            max(len({one.prefix for one in of_model}) for of_model in prompts),
            max(one.shared for of_model in prompts for one in of_model),
            max(len(one.tokens) - one.shared for of_model in prompts for one in of_model),
            self.buckets[-1],
            self.round_up,
        )
        whole = self.num_rows * self._length(prompts)
        worth = cut.positions(self.num_rows) <= shared_prefixes.WORTH_A_BATCH * whole
        return cut if worth else None

    def _prefixes(self, prompts: Sequence[Sequence[_Prompt]], cut: Cut) -> Prefixes:
        shape = len(prompts), cut.num_prefixes
        tokens = np.zeros((*shape, cut.prefix_length), np.int32)
        lengths, adapters = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        which = np.zeros((len(prompts), self.num_rows), np.int32)
        for model, of_model in enumerate(prompts):
            numbers: dict[tuple[int, bytes], int] = {}
            for prompt in of_model:
                number = numbers.setdefault(prompt.prefix, len(numbers))
                tokens[model, number, : prompt.shared] = prompt.tokens[: prompt.shared]
                lengths[model, number] = prompt.shared
                adapters[model, number] = prompt.adapter
                which[model, prompt.row] = number
        return Prefixes(tokens, lengths, which, adapters)


def _rest(prompt: _Prompt) -> _Prompt:
    """A prompt without its shared prefix."""
    return prompt._replace(tokens=prompt.tokens[prompt.shared :], shared=0)
