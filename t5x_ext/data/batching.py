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
from t5x_ext.data.packing import Layout, lay_out
from t5x_ext.data.prefetching import prefetch
from t5x_ext.data.records import Example, Member
from t5x_ext.errors import ConfigError

Batch = dict[str, np.ndarray]

_NO_TOKENS = np.zeros(0, np.int32)
_ONE_PADDING = np.zeros(1, np.int32)


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
    ):
        named = [Member(*member) for member in members]
        planner = EpochPlanner(named, seed, shuffle)
        self._batch_size = batch_size
        self._rows = rows or (0, batch_size)
        self._pack = pack
        longest = planner.longest or (lengths["inputs"], lengths["targets"])
        self._row_lengths = {}
        for side, tokens in zip(("inputs", "targets"), longest, strict=True):
            limit = lengths[side]
            allowed = (limit,) if pack else (length_buckets or {}).get(side, _multiples(32, limit))
            self._row_lengths[side] = _smallest_holding(tokens, allowed, side)
        pack_into = (lengths["inputs"], lengths["targets"]) if pack else None
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
    def row_lengths(self) -> Mapping[str, int]:
        """{'inputs': tokens, 'targets': tokens} of every row."""
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
        batch = build_batch(
            [encoder_tokens(example) for example in examples[first:last]],
            targets[first:last],
            whole.part(*self._rows),
            self._row_lengths["inputs"],
            self._row_lengths["targets"],
        )
        num_tokens = sum(len(example.inputs) for example in examples) + sum(map(len, targets))
        positions = self._batch_size * sum(self._row_lengths.values())
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
    examples: Sequence[Example],
    batch_size: int,
    buckets: Sequence[int],
    target_length: int | None = None,
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Unpacked batches of examples sorted by input length, longest first.

    A batch is as long as the smallest bucket that holds its longest example. So there are at most
    len(buckets) shapes, and the one that decides whether memory suffices comes first.

    Args:
        examples: each comes exactly once, with the first of its targets, if it has any.
        batch_size: rows of every batch, also of the last.
        buckets: allowed encoder lengths, ascending; see make_length_buckets.
        target_length: decoder length; if None, the smallest multiple of 32 that holds all targets.

    Yields:
        indices: int32 [B], position in `examples` of each row, -1 for rows that are filler.
        batch: see build_batch.

    Raises:
        ConfigError: an example is longer than the largest bucket or than target_length.
    """
    targets = [example.targets[0] if example.targets else _NO_TOKENS for example in examples]
    inputs = [encoder_tokens(example) for example in examples]
    input_lengths = np.array([len(tokens) for tokens in inputs], np.int64)
    target_lengths = np.array([len(tokens) for tokens in targets], np.int64)
    longest_target = int(target_lengths.max(initial=1))
    target_length = target_length or -(-longest_target // 32) * 32
    _smallest_holding(longest_target, (target_length,), "targets")
    for chosen, input_length in batches_by_length(input_lengths, batch_size, buckets):
        rows = np.arange(len(chosen))
        layout = lay_out(rows, input_lengths[chosen], target_lengths[chosen]).part(0, batch_size)
        indices = np.full(batch_size, -1, np.int32)
        indices[: len(chosen)] = chosen
        yield (
            indices,
            build_batch(
                [inputs[index] for index in chosen],
                [targets[index] for index in chosen],
                layout,
                input_length,
                target_length,
            ),
        )


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


def build_batch(
    inputs: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    layout: Layout,
    input_length: int,
    target_length: int,
) -> Batch:
    """Writes tokens into rows.

    What is padding is said by the segment ids and loss weights, never by a token's value: some
    vocabularies have a piece with id 0.

    Args:
        inputs: encoder tokens of each entry of the layout.
        targets: decoder tokens of each entry of the layout.
        layout: places in B = layout.num_rows rows.
        input_length: L of the encoder.
        target_length: L of the decoder.

    Returns:
        encoder_input_tokens, decoder_input_tokens, decoder_target_tokens: int32 [B, L], padding 0.
        decoder_loss_weights: float32 [B, L], 1 on every target token.
        {encoder,decoder}_segment_ids: int32 [B, L], from 1 in every row, padding 0.
        {encoder,decoder}_positions: int32 [B, L], from 0 in every segment, padding 0.
        Decoder inputs are the targets shifted right within their segment, starting with 0.
    """
    batch = {}
    for side, sequences, starts, length in (
        ("encoder", inputs, layout.encoder_starts, input_length),
        ("decoder", targets, layout.decoder_starts, target_length),
    ):
        counts = np.array([len(tokens) for tokens in sequences], np.int64)
        tokens = np.concatenate([_NO_TOKENS, *sequences])
        positions = np.arange(len(tokens)) - np.repeat(np.cumsum(counts) - counts, counts)
        features = {"encoder_input_tokens": tokens}
        if side == "decoder":
            features = {
                "decoder_input_tokens": np.where(positions == 0, 0, np.roll(tokens, 1)),
                "decoder_target_tokens": tokens,
                "decoder_loss_weights": np.ones(len(tokens), np.float32),
            }
        features[f"{side}_segment_ids"] = np.repeat(layout.segments, counts)
        features[f"{side}_positions"] = positions
        # One flat index per token writes all rows of a feature at once.
        places = np.repeat(layout.rows * length + starts, counts) + positions
        for name, values in features.items():
            dtype = np.float32 if values.dtype == np.float32 else np.int32
            array = np.zeros(layout.num_rows * length, dtype)
            array[places] = values
            batch[name] = array.reshape(layout.num_rows, length)
    return batch


def encoder_tokens(example: Example) -> np.ndarray:
    """The encoder's side of an example; where that is empty, one padding token in its segment.

    Its targets would otherwise find no key of their segment in the row, and attention would average
    over all there are: those of other examples. That one token gives what a row of padding gives.
    """
    return example.inputs if len(example.inputs) else _ONE_PADDING


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
