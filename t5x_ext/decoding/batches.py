"""Requests in padded batches, longest first, and what the prompts of each begin with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from t5x_ext.data.length_buckets import batches_by_length, smallest_holding
from t5x_ext.decoding import shared_prefixes
from t5x_ext.decoding.requests import Request
from t5x_ext.decoding.shared_prefixes import Cut, Sharing
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
    """The requests of a model, and their contexts one after the other.

    Attributes:
      requests: in the order given.
      first: int64 [n + 1], the number of each request's first context.
      longest: int64 [n], tokens of each request's longest context.
      lengths: int64, tokens of each context.
      shared: int64, how many of them are a prefix that it shares.
      groups: int64, which prefix that is; -1 for none.
    """

    requests: Sequence[Request]
    first: np.ndarray
    longest: np.ndarray
    lengths: np.ndarray
    shared: np.ndarray
    groups: np.ndarray

    def contexts(self, places: np.ndarray) -> np.ndarray:
        """Numbers of the contexts of the requests at these places."""
        if not len(places):
            return np.zeros(0, np.int64)
        return np.concatenate([np.arange(self.first[i], self.first[i + 1]) for i in places])

    def by_prefix(self, batch_size: int) -> list[np.ndarray]:
        """Batches of requests whose first contexts begin alike, that with the longest first."""
        order = shared_prefixes.order_by_group(self.groups[self.first[:-1]], self.longest)
        starts = range(0, len(order), batch_size)
        batches = [order[start : start + batch_size] for start in starts]
        # Rows that wait for a stage are joined by rows of shorter prompts, see `stages`.
        return sorted(batches, key=lambda places: -self.longest[places].max())


class _Plan(NamedTuple):
    """A batch before its arrays are made.

    Attributes:
      places: of each model's requests.
      length: what whole prompts are padded to.
      cut: where prompts are cut, or None.
    """

    places: Sequence[np.ndarray]
    length: int
    cut: Cut | None

    def positions(self, num_rows: int) -> int:
        """Positions that each model reads for that many rows."""
        return num_rows * self.length if self.cut is None else self.cut.positions(num_rows)


class Batching(NamedTuple):
    """How requests become batches.

    Attributes:
      batch_size: B.
      buckets: lengths that prompts may be padded to, ascending.
      num_contexts: C.
      num_sides: rows of each context, R = C * num_sides; neighbours, the expert's first.
      sharing: how prefixes are shared; None reads every prompt whole.
    """

    batch_size: int
    buckets: Sequence[int]
    num_contexts: int = 1
    num_sides: int = 1
    sharing: Sharing | None = None

    @property
    def num_rows(self) -> int:
        """B * R."""
        return self.batch_size * self.num_contexts * self.num_sides

    def side_by_side(self, requests: Sequence[Sequence[Request]]) -> Iterator[RequestBatch]:
        """Batches of several sets of requests next to each other, each in its own order."""
        starts = np.cumsum([0, *map(len, requests)])
        sets = [self._examine(one) for one in requests]
        for plan in self._plan(sets):
            yield self._fill(sets, plan, starts)

    def _examine(self, requests: Sequence[Request]) -> _Set:
        first = np.cumsum([0, *(len(one.prompts) for one in requests)])
        prompts = [prompt for one in requests for prompt in one.prompts]
        lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        longest = np.array([max(map(len, one.prompts)) for one in requests], np.int64)
        sizes = requests, first, longest, lengths
        if self.sharing is None:
            return _Set(*sizes, np.zeros_like(lengths), np.full_like(lengths, -1))
        numbers: dict[tuple[int, ...], int] = {}
        kinds = [
            numbers.setdefault(one.adapters, len(numbers)) for one in requests for _ in one.prompts
        ]
        ends = [len(prompt) - one.given for one in requests for prompt in one.prompts]
        asked = [prompt[:end] for prompt, end in zip(prompts, ends, strict=True)]
        return _Set(*sizes, *shared_prefixes.group(asked, kinds, self.sharing.least_prompts))

    def _plan(self, sets: Sequence[_Set]) -> list[_Plan]:
        """The batches to make: by length, or by prefix where that leaves much less to read."""
        size = self.batch_size
        by_length = [
            [places for places, _ in batches_by_length(one.longest, size, self.buckets)]
            for one in sets
        ]
        plain = self._join(sets, by_length)
        if self.sharing is None or not plain:
            return plain
        plain = self._share(sets, plain)
        by_prefix = [one.by_prefix(size) for one in sets]
        alike = self._share(sets, self._join(sets, by_prefix))
        # An order by prefix mixes lengths, and every token that is decoded reads the padding.
        padding = sum(plan.length for plan in alike) / sum(plan.length for plan in plain)
        of_alike, of_plain = (
            sum(plan.positions(self.num_rows) for plan in plans) for plans in (alike, plain)
        )
        is_worth = of_alike < shared_prefixes.WORTH_AN_ORDER * of_plain
        return alike if is_worth and padding < shared_prefixes.MOST_PADDING else plain

    def _join(self, sets: Sequence[_Set], batches: Sequence[list[np.ndarray]]) -> list[_Plan]:
        """The batches of each set next to those of the others, prompts whole."""
        plans = []
        for index in range(max(map(len, batches))):
            places = [of[index] if index < len(of) else np.zeros(0, np.int64) for of in batches]
            longest = max(
                int(one.longest[own].max(initial=0)) for one, own in zip(sets, places, strict=True)
            )
            plans.append(_Plan(places, smallest_holding(longest, self.buckets, "inputs"), None))
        return plans

    def _share(self, sets: Sequence[_Set], plans: Sequence[_Plan]) -> list[_Plan]:
        """The same batches, prompts cut where each program for it saves what it costs."""
        assert self.sharing is not None
        cuts = [self._cut(sets, plan) for plan in plans]
        rows = self.num_rows
        saved: Counter[tuple[Cut, int]] = Counter()
        for plan, cut in zip(plans, cuts, strict=True):
            if cut is not None:
                of_each = plan.positions(rows) - cut.positions(rows)
                saved[cut, plan.length] += len(sets) * of_each
        return [
            plan._replace(cut=cut)
            if cut is not None and saved[cut, plan.length] > self.sharing.least_saved
            else plan
            for plan, cut in zip(plans, cuts, strict=True)
        ]

    def _cut(self, sets: Sequence[_Set], plan: _Plan) -> Cut | None:
        """Sizes of prefixes and of what follows, or None where reading them apart saves little."""
        assert self.sharing is not None
        numbers = [one.contexts(own) for one, own in zip(sets, plan.places, strict=True)]
        pairs = list(zip(sets, numbers, strict=True))
        longest = max(int(one.shared[own].max(initial=0)) for one, own in pairs)
        if longest == 0:
            return None
        cut = self.sharing.cut(
            self.num_sides * max(len(np.unique(one.groups[own])) for one, own in pairs),
            longest,
            max(int((one.lengths[own] - one.shared[own]).max(initial=0)) for one, own in pairs),
            self.buckets[-1],
        )
        limit = shared_prefixes.WORTH_A_BATCH * plan.positions(self.num_rows)
        return cut if cut.positions(self.num_rows) <= limit else None

    def _fill(self, sets: Sequence[_Set], plan: _Plan, starts: np.ndarray) -> RequestBatch:
        shape = len(sets), self.batch_size
        of_row = *shape, self.num_contexts, self.num_sides
        places = np.full(shape, -1, np.int32)
        log_weights = np.zeros(of_row[:3], np.float32)
        adapters = np.zeros(of_row, np.int32)
        length = plan.length if plan.cut is None else plan.cut.rest_length
        tokens = np.zeros((*of_row, length), np.int32)
        lengths = np.zeros(of_row, np.int32)
        prefixes = None if plan.cut is None else _Prefixes.empty(len(sets), of_row, plan.cut)
        for model, (one, own) in enumerate(zip(sets, plan.places, strict=True)):
            places[model, : len(own)] = own + starts[model]
            for row, place in enumerate(own):
                request = one.requests[place]
                log_weights[model, row] = -np.inf
                log_weights[model, row, : len(request.prompts)] = request.log_weights
                adapters[model, row] = request.adapters or 0
                for context, prompt in enumerate(request.prompts):
                    number = one.first[place] + context
                    at = model, row, context
                    rest = prompt
                    if prefixes is not None:
                        shared = one.shared[number]
                        prefixes.add(at, one.groups[number], prompt[:shared], adapters[at])
                        rest = prompt[shared:]
                    tokens[*at, :, : len(rest)] = rest
                    lengths[at] = len(rest)
        rows = len(sets), self.num_rows
        return RequestBatch(
            places,
            tokens.reshape(*rows, length),
            lengths.reshape(rows),
            log_weights,
            adapters.reshape(rows),
            None if prefixes is None else prefixes.arrays(rows),
            plan.length,
        )


class _Prefixes(NamedTuple):
    """The prefixes of a batch while it is filled.

    Attributes:
      tokens: int32 [E, N, P].
      lengths: int32 [E, N].
      adapters: int32 [E, N].
      which: int32 [E, B, C, sides].
      numbers: of each model, the number of a group's first side.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    adapters: np.ndarray
    which: np.ndarray
    numbers: list[dict[int, int]]

    @classmethod
    def empty(cls, num_models: int, of_row: tuple[int, ...], cut: Cut) -> _Prefixes:
        shape = num_models, cut.num_prefixes
        tokens = np.zeros((*shape, cut.prefix_length), np.int32)
        lengths, adapters = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        numbers: list[dict[int, int]] = [{} for _ in range(num_models)]
        return cls(tokens, lengths, adapters, np.zeros(of_row, np.int32), numbers)

    def add(
        self, at: tuple[int, int, int], group: int, prefix: np.ndarray, adapters: np.ndarray
    ) -> None:
        """Says that the context `at` (model, row, context) begins with a group's prefix."""
        model, sides = at[0], np.arange(len(adapters))
        known = self.numbers[model]
        number = known.setdefault(int(group), len(known) * len(sides)) + sides
        self.tokens[model, number, : len(prefix)] = prefix
        self.lengths[model, number] = len(prefix)
        self.adapters[model, number] = adapters
        self.which[at] = number

    def arrays(self, rows: tuple[int, int]) -> Prefixes:
        """As decoding takes them, `rows` being E and B * R."""
        return Prefixes(self.tokens, self.lengths, self.which.reshape(rows), self.adapters)
