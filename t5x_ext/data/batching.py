"""Batches of token arrays for training and evaluation, and the position in the training data.

Every host plans the same epochs and writes out the rows of each batch that its devices hold, so
that all hosts take equally many steps, a position is two integers, and a run continues exactly on
another number of hosts.

Letters: B batch (rows), L length. Feature names are T5X's.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from t5x_ext.data.epochs import EpochPlanner, describe_data
from t5x_ext.data.features import Batch, EncoderDecoderFeatures, Features, Lengths
from t5x_ext.data.packing import lay_out
from t5x_ext.data.prefetching import prefetch
from t5x_ext.data.records import Example, Member
from t5x_ext.errors import ConfigError

_NO_TOKENS = np.zeros(0, np.int32)


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
        members: each task's Member, or its first fields; one for a plain task.
        batch_size: examples, or rows when packing; global.
        lengths: {'inputs': tokens, 'targets': tokens}, at most, EOS included.
        pack: whether several examples share a row.
        seed: seed of shuffling and of drawing references.
        rows: first row of each batch that this host needs, and one past the last; if None, all.
            See PjitPartitioner.host_rows.
        shuffle: False keeps the order of the data; packing still joins near neighbours.
        length_buckets: {'inputs': lengths, 'targets': lengths} that unpacked rows may have,
            ascending; rows are as long as the smallest that holds the longest example. If None,
            multiples of 32 up to `lengths`.
        features: what a batch holds; None is an encoder-decoder model's.

    Raises:
        ConfigError: there are no examples, or one is too long or has no target.
    """

    def __init__(
        self,
        members: Sequence[Member | tuple[str, Sequence[Example], float]],
        batch_size: int,
        lengths: Mapping[str, int],
        pack: bool,
        seed: int,
        rows: tuple[int, int] | None = None,
        shuffle: bool = True,
        length_buckets: Mapping[str, Sequence[int]] | None = None,
        features: Features | None = None,
    ):
        named = [Member(*member) for member in members]
        self.members = named
        self._features = features or EncoderDecoderFeatures()
        planner = EpochPlanner(named, seed, self._features, shuffle)
        self._batch_size = batch_size
        self._rows = rows or (0, batch_size)
        self._pack = pack
        limits = self._features.limits(lengths)
        longest = planner.longest or (limits["inputs"], limits["targets"])
        needed = []
        for (side, limit), positions in zip(limits.items(), longest, strict=True):
            allowed = (limit,) if pack else (length_buckets or {}).get(side, _multiples(32, limit))
            needed.append(_smallest_holding(positions, allowed, side))
        self._row_lengths = self._features.row_lengths(*needed)
        pack_into = (limits["inputs"], limits["targets"]) if pack else None
        # Two plans: the background thread may be one epoch ahead.
        self._plan = lru_cache(maxsize=2)(lambda epoch: planner.plan(epoch, pack_into))
        self._identity = {
            "data": describe_data(named),
            "seed": seed if shuffle else f"{seed}, not shuffled",
            "batch_size": batch_size,
            "pack": pack,
            "lengths": {side: int(limit) for side, limit in lengths.items()},
        }
        self._epoch, self._step = 0, 0
        self._stream: Generator[tuple[Batch, BatchInfo], None, None] | None = None

    @property
    def row_lengths(self) -> Lengths:
        """{'inputs': positions, 'targets': positions} of every row; see Features.limits."""
        return self._row_lengths

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Batches in an epoch; when packing, epochs may differ by a few."""
        return -(-self._plan(epoch).layout.num_rows // self._batch_size)

    def steps_for_epochs(self, num_epochs: int) -> int:
        """Batches in the first `num_epochs` epochs together."""
        if not self._pack:
            return num_epochs * self.steps_per_epoch()
        return sum(self.steps_per_epoch(epoch) for epoch in range(num_epochs))

    def make(self, epoch: int, step_in_epoch: int) -> tuple[Batch, BatchInfo]:
        """This host's rows of one batch; a pure function of its arguments."""
        plan = self._plan(epoch)
        first_row = step_in_epoch * self._batch_size
        whole = plan.layout.part(first_row, first_row + self._batch_size)
        examples = plan.pool.read(plan.examples[whole.items])
        targets = [
            example.targets[choice]
            for example, choice in zip(examples, plan.targets[whole.items], strict=True)
        ]
        # Entries are sorted by row, so this host's are neighbours.
        first, last = np.searchsorted(whole.rows, self._rows)
        batch = self._features.build(
            [example.inputs for example in examples[first:last]],
            targets[first:last],
            whole.part(*self._rows),
            self._row_lengths,
        )
        sides = self._features.sides(
            np.array([len(example.inputs) for example in examples], np.int64),
            np.array([len(tokens) for tokens in targets], np.int64),
        )
        used = self._features.row_lengths(*(int(side.sum()) for side in sides))
        num_tokens = self._features.num_positions(used)
        positions = self._batch_size * self._features.num_positions(self._row_lengths)
        ids = tuple(example.id for example in examples)
        padding_share = 1 - num_tokens / positions
        return batch, BatchInfo(
            epoch, step_in_epoch, self._batch_size, ids, num_tokens, padding_share
        )

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
        """Ends the background thread; iterating again goes on at the same position."""
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
            if state.get(field) != value:
                raise ConfigError(
                    f"data position: {field} is now {value}, the checkpoint has "
                    f"{state.get(field)}; allowed: the same, or a new MODEL_DIR"
                )
        self.close()
        self._epoch, self._step = int(state["epoch"]), int(state["step_in_epoch"])

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
    targets = [example.targets[0] if example.targets else _NO_TOKENS for example in examples]
    input_lengths = np.array([len(example.inputs) for example in examples], np.int64)
    target_lengths = np.array([len(tokens) for tokens in targets], np.int64)
    limits = features.limits(lengths)
    first, second = features.sides(input_lengths, target_lengths)
    _smallest_holding(int(second.max(initial=1)), (limits["targets"],), "targets")
    buckets = buckets or make_length_buckets(limits["inputs"])
    for chosen, length in batches_by_length(first, batch_size, buckets):
        rows = np.arange(len(chosen))
        layout = lay_out(rows, first[chosen], second[chosen]).part(0, batch_size)
        indices = np.full(batch_size, -1, np.int32)
        indices[: len(chosen)] = chosen
        inputs = [examples[index].inputs for index in chosen]
        row_lengths = features.row_lengths(length, limits["targets"])
        yield indices, features.build(inputs, [targets[i] for i in chosen], layout, row_lengths)


def batches_by_length(
    lengths: Sequence[int] | np.ndarray, batch_size: int, buckets: Sequence[int]
) -> Iterator[tuple[np.ndarray, int]]:
    """Places in `lengths`, longest first, in batches.

    Yields:
        places: int64 [n], at most `batch_size`.
        length: the smallest bucket that holds the longest of them.

    Raises:
        ConfigError: a length is beyond the largest bucket.
    """
    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield chosen, _smallest_holding(int(lengths[chosen[0]]), buckets, "inputs")


def make_length_buckets(limit: int, smallest: int = 64, per_doubling: int = 1) -> tuple[int, ...]:
    """Lengths up to `limit`, so many for each doubling of `smallest`, evenly spaced in between.

    400, per_doubling 1 -> 64, 128, 256, 400
    400, per_doubling 2 -> 64, 96, 128, 192, 256, 384, 400
    """
    buckets = []
    while smallest < limit:
        between = (smallest + smallest * part // per_doubling for part in range(per_doubling))
        buckets += [length for length in between if length < limit]
        smallest *= 2
    return (*buckets, limit)


def _multiples(step: int, limit: int) -> tuple[int, ...]:
    return (*range(step, limit, step), limit)


def _smallest_holding(longest: int, lengths: Sequence[int], side: str) -> int:
    """The smallest of the ascending `lengths` that holds `longest` tokens."""
    for length in lengths:
        if length >= longest:
            return length
    raise ConfigError(
        f"{side}: an example of {longest} tokens; allowed: {lengths[-1]} (TASK_FEATURE_LENGTHS)"
    )
