"""Batches of token arrays for training and evaluation, and the position in the training data.

Every host plans the same epochs and writes out the rows of each batch that its devices hold, so
that all hosts take equally many steps, a position is two integers, and a run continues exactly on
another number of hosts.

Letters: B batch (rows), L length. Feature names are T5X's.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from t5x_ext.bounds import PER_BATCH
from t5x_ext.data.epochs import EpochPlan, EpochPlanner, describe_data
from t5x_ext.data.features import Batch, EncoderDecoderFeatures, Features, Lengths
from t5x_ext.data.length_buckets import (
    batches_by_length,
    joined_size,
    make_length_buckets,
    multiples,
    smallest_holding,
)
from t5x_ext.data.packing import Layout, join_rows, lay_out
from t5x_ext.data.prefetching import prefetch
from t5x_ext.data.records import Example
from t5x_ext.data.tables import ExampleTable, Member, as_table
from t5x_ext.errors import ConfigError

Sides = tuple[np.ndarray, np.ndarray]

_NO_TOKENS = np.zeros(0, np.int32)
_LOOKED_AT = 2048  # examples, to choose the shape of joined rows


@dataclass(frozen=True)
class BatchInfo:
    """What a training batch holds, the rows of all hosts together.

    Attributes:
        epoch: epoch of the batch, from 0.
        step_in_epoch: step within the epoch, from 0.
        num_rows: rows of the batch.
        ids: ids of the examples, row by row.
        num_tokens: encoder and decoder tokens that are not padding.
        padding_share: padding as a share of all positions, encoder and decoder together, 0 to 1.
    """

    epoch: int
    step_in_epoch: int
    num_rows: int
    ids: tuple[str, ...]
    num_tokens: int
    padding_share: float


class TrainBatches:
    """Endless training batches, one epoch after another; iterate for (Batch, BatchInfo) pairs.

    The last batch of an epoch is filled with empty rows. See EpochPlanner for what an epoch holds.

    Args:
        members: one for each task of a mixture.
        batch_size: examples, or rows when packing; global.
        lengths: {'inputs': tokens, 'targets': tokens}, at most, EOS included.
        pack: whether several examples share a row. "batch" joins those of each batch, in as few
            rows as hold them: batch_size counts examples, and every step sees those it would see
            without packing.
        seed: seed of shuffling and of drawing references.
        host_rows: number of rows of a batch -> the first that this host needs, and one past the
            last; if None, all. See PjitPartitioner.host_rows.
        shuffle: False keeps the order of the data; packing still joins near neighbours.
        length_buckets: {'inputs': lengths, 'targets': lengths} that unpacked rows may have,
            ascending; rows are as long as the smallest that holds the longest example. If None,
            multiples of 32 up to `lengths`.
        features: what a batch holds; None is an encoder-decoder model's.
        multiple: joined batches have a multiple of this many rows; divides batch_size.

    Raises:
        ConfigError: there are no examples, or one is too long or has no target.
    """

    def __init__(
        self,
        members: Sequence[Member],
        batch_size: int,
        lengths: Mapping[str, int],
        pack: bool | str,
        seed: int,
        host_rows: Callable[[int], tuple[int, int]] | None = None,
        shuffle: bool = True,
        length_buckets: Mapping[str, Sequence[int]] | None = None,
        features: Features | None = None,
        multiple: int = 1,
    ):
        self.members = members
        self._features = features or EncoderDecoderFeatures()
        planner = EpochPlanner(members, seed, self._features, shuffle)
        self._batch_size = batch_size
        self._host_rows = host_rows or (lambda num_rows: (0, num_rows))
        self._pack = pack
        limits = self._features.limits(lengths)
        longest = planner.longest or (limits["inputs"], limits["targets"])
        allowed = [
            (limit,) if pack is True else (length_buckets or {}).get(side, multiples(32, limit))
            for side, limit in limits.items()
        ]
        needed = [
            smallest_holding(positions, lengths, side)
            for positions, lengths, side in zip(longest, allowed, limits, strict=True)
        ]
        self._row_lengths = self._features.row_lengths(*needed)
        pack_into = (limits["inputs"], limits["targets"]) if pack is True else None
        # Two plans: the background thread may be one epoch ahead.
        self._plan = lru_cache(maxsize=2)(lambda epoch: planner.plan(epoch, pack_into))
        self._identity = {
            "data": describe_data(members),
            "seed": seed if shuffle else f"{seed}, not shuffled",
            "batch_size": batch_size,
            "pack": pack,
            "lengths": {side: int(limit) for side, limit in lengths.items()},
        }
        self._num_rows, self._least_rows = batch_size, 0
        self._multiple = multiple
        if pack == PER_BATCH:
            first, second = (
                [length for length in lengths if length >= least]
                for least, lengths in zip(needed, allowed, strict=True)
            )
            self._choose_shape(itertools.product(first, second))
        self._epoch, self._step = 0, 0
        self._stream: Generator[tuple[Batch, BatchInfo], None, None] | None = None

    @property
    def row_lengths(self) -> Lengths:
        """{'inputs': positions, 'targets': positions} of every row; see Features.limits."""
        return self._row_lengths

    @property
    def num_rows(self) -> int:
        """Rows of a batch, those of all hosts; of most, where each batch is joined."""
        return self._num_rows

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Batches in an epoch; when packing, epochs may differ by a few."""
        return -(-self._plan(epoch).layout.num_rows // self._batch_size)

    def steps_for_epochs(self, num_epochs: int) -> int:
        """Batches in the first `num_epochs` epochs together."""
        if self._pack is not True:
            return num_epochs * self.steps_per_epoch()
        return sum(self.steps_per_epoch(epoch) for epoch in range(num_epochs))

    def make(self, epoch: int, step_in_epoch: int) -> tuple[Batch, BatchInfo]:
        """This host's rows of one batch; a pure function of its arguments."""
        layout, examples, targets, sides = self._lay_out(self._plan(epoch), step_in_epoch)
        # Entries are sorted by row, so this host's are neighbours.
        rows = self._host_rows(layout.num_rows)
        first, last = np.searchsorted(layout.rows, rows)
        batch = self._features.build(
            [example.inputs for example in examples[first:last]],
            targets[first:last],
            layout.part(*rows),
            self._row_lengths,
        )
        used = self._features.row_lengths(*(int(side.sum()) for side in sides))
        num_tokens = self._features.num_positions(used)
        positions = layout.num_rows * self._features.num_positions(self._row_lengths)
        ids = tuple(example.id for example in examples)
        padding_share = 1 - num_tokens / positions
        return batch, BatchInfo(
            epoch, step_in_epoch, layout.num_rows, ids, num_tokens, padding_share
        )

    def _lay_out(
        self, plan: EpochPlan, step_in_epoch: int
    ) -> tuple[Layout, list[Example], list[np.ndarray], Sides]:
        """A batch's layout; its examples, their targets and positions, entry by entry."""
        layout, examples, targets, sides = self._read(plan, step_in_epoch)
        if self._pack != PER_BATCH:
            return layout, examples, targets, sides
        joined, order = join_rows(layout, *sides, *self._row_lengths.values())
        num_rows = joined_size(joined.num_rows, self._batch_size, self._multiple)
        num_rows = max(num_rows, self._least_rows)
        return (
            replace(joined, num_rows=num_rows),
            [examples[entry] for entry in order],
            [targets[entry] for entry in order],
            (sides[0][order], sides[1][order]),
        )

    def _read(
        self, plan: EpochPlan, step_in_epoch: int
    ) -> tuple[Layout, list[Example], list[np.ndarray], Sides]:
        first_row = step_in_epoch * self._batch_size
        layout = plan.layout.part(first_row, first_row + self._batch_size)
        examples = plan.pool.read(plan.examples[layout.items])
        targets = [
            example.targets[choice]
            for example, choice in zip(examples, plan.targets[layout.items], strict=True)
        ]
        sides = self._features.sides(
            np.array([len(example.inputs) for example in examples], np.int64),
            np.array([len(tokens) for tokens in targets], np.int64),
        )
        return layout, examples, targets, sides

    def _choose_shape(self, candidates: Iterable[tuple[int, int]]) -> None:
        """Sets rows and lengths of joined batches, for the fewest positions in the first ones.

        A row twice as long as the longest example needs it to be wastes less at its end. An epoch
        of few batches has one shape for all: each shape is a step to compile.
        """
        plan = self._plan(0)
        steps = min(self.steps_per_epoch(), max(1, _LOOKED_AT // self._batch_size))
        batches = [self._read(plan, step) for step in range(steps)]
        totals = np.array([[side.sum() for side in sides] for *_, sides in batches], np.int64)
        is_short = steps == self.steps_per_epoch()

        def sizes_of(needed: Iterable[int]) -> list[int]:
            sizes = [joined_size(int(rows), self._batch_size, self._multiple) for rows in needed]
            return [max(sizes)] * len(sizes) if is_short else sizes

        def positions(sizes: list[int], shape: tuple[int, ...]) -> int:
            row_lengths = self._features.row_lengths(*shape)
            return sum(sizes) * self._features.num_positions(row_lengths)

        # Where a row has one side, many pairs are one shape. What a shape takes with full rows
        # bounds what it takes, so that few are tried.
        shapes = {tuple(self._features.row_lengths(*pair).values()) for pair in candidates}
        bounds = sorted(
            (positions(sizes_of((-(-totals // shape)).max(axis=1)), shape), shape)
            for shape in shapes
        )
        best: tuple[int, tuple[int, ...], list[int]] | None = None
        for bound, shape in bounds:
            if best and bound > best[0]:
                break
            sizes = sizes_of(
                join_rows(layout, *sides, *shape)[0].num_rows for layout, _, _, sides in batches
            )
            tried = positions(sizes, shape), shape, sizes
            best = min(best or tried, tried)
        assert best is not None  # the limits themselves are among the candidates
        _, (first, second), sizes = best
        self._row_lengths = self._features.row_lengths(first, second)
        self._num_rows = statistics.mode(sizes)
        self._least_rows = self._num_rows if is_short else 0

    def __iter__(self) -> Iterator[tuple[Batch, BatchInfo]]:
        return self

    def __next__(self) -> tuple[Batch, BatchInfo]:
        if self._stream is None:
            self._stream = prefetch(self._make_from(self._epoch, self._step))
        batch, info = next(self._stream)
        # The position moves with what is consumed, not with what is made ahead.
        self._epoch, self._step = info.epoch, info.step_in_epoch + 1
        return batch, info

    def close(self) -> None:
        """Ends the background thread; iterating again continues at the same position."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def state(self) -> dict:
        """The position after the batch last consumed, and what it is a position in, as JSON."""
        return {"epoch": self._epoch, "step_in_epoch": self._step, **self._identity}

    def restore(self, state: Mapping) -> None:
        """Continues at a position that state() gave, on any number of hosts.

        Raises:
            ConfigError: the position belongs to other data, seed, batch size, packing or lengths.
        """
        for field, value in self._identity.items():
            if state.get(field) != value and not self._was_data(field, state.get(field)):
                raise ConfigError(
                    f"data position: {field} is now {value}, the checkpoint has "
                    f"{state.get(field)}; allowed: the same, or a new MODEL_DIR"
                )
        self.close()
        self._epoch, self._step = int(state["epoch"]), int(state["step_in_epoch"])

    def _was_data(self, field: str, value: object) -> bool:
        """Whether a field of a position is what an older run said of these data."""
        return field == "data" and value == describe_data(self.members, as_before=True)

    def _make_from(self, epoch: int, step: int) -> Iterator[tuple[Batch, BatchInfo]]:
        while True:
            for step_in_epoch in range(step, self.steps_per_epoch(epoch)):
                yield self.make(epoch, step_in_epoch)
            epoch, step = epoch + 1, 0


def eval_batches(
    features: Features,
    examples: Sequence[Example],
    batch_size: int,
    lengths: Lengths,
    buckets: Sequence[int] | None = None,
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Unpacked batches of examples sorted by length, longest first.

    A batch is as long as the smallest bucket that holds its longest example. So there are few
    shapes, and the one that decides whether memory suffices comes first.

    Args:
        features: what a batch holds.
        examples: each comes exactly once, with the first of its targets, if it has any.
        batch_size: rows of every batch, also of the last.
        lengths: {'inputs': tokens, 'targets': tokens}, at most.
        buckets: lengths that rows may have (of encoder-decoder rows, the encoder's); None is
            make_length_buckets.

    Yields:
        indices: int32 [B], position in `examples` of each row, -1 for rows that are filler.
        batch: see Features.build.

    Raises:
        ConfigError: an example is longer than that.
    """
    table = as_table(examples)  # which may lie on disk: a batch is read when it is made
    input_lengths, target_lengths = _first_lengths(table)
    limits = features.limits(lengths)
    first, second = features.sides(input_lengths, target_lengths)
    smallest_holding(int(second.max(initial=1)), (limits["targets"],), "targets")
    buckets = buckets or make_length_buckets(limits["inputs"])
    for chosen, length in batches_by_length(first, batch_size, buckets):
        rows = np.arange(len(chosen))
        layout = lay_out(rows, first[chosen], second[chosen]).part(0, batch_size)
        indices = np.full(batch_size, -1, np.int32)
        indices[: len(chosen)] = chosen
        read = table.read(chosen.tolist())
        inputs = [example.inputs for example in read]
        targets = [example.targets[0] if example.targets else _NO_TOKENS for example in read]
        row_lengths = features.row_lengths(length, limits["targets"])
        yield indices, features.build(inputs, targets, layout, row_lengths)


def _first_lengths(table: ExampleTable) -> Sides:
    """Tokens of each example's prompt and of its first target, int64 [examples]; 0 for none."""
    counts = table.num_targets.astype(np.int64)
    first: np.ndarray = np.zeros(len(counts), np.int64)
    some = counts > 0
    first[some] = table.target_lengths[(np.cumsum(counts) - counts)[some]]
    return table.input_lengths.astype(np.int64), first
