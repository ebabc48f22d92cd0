"""Decodes many batches without waiting for the longest row of each.

The output positions are cut into stages, (8, 32, 128) for outputs of up to 128 tokens. A batch is
encoded and decoded up to the end of the first stage. Rows that have ended by then are handed out;
the others are parked, and take the places of finished rows in what waits for the next stage. That
runs when all its places hold live rows, or when there are no more batches. So

    positions computed for a row <= 4 x its own, or the first stage's,

but for one partly filled batch per stage at the end, and all rows of a batch are at the same
position: the shapes to compile are few, and the loop is the same as for a single batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from t5x_ext.decoding.loop import Rows
from t5x_ext.decoding.programs import Programs, Reached
from t5x_ext.models.incremental import DecoderWeights

GROWTH = 4


def stage_ends(max_length: int, first: int | None) -> tuple[int, ...]:
    """Ends of the stages, each four times the one before: (128, 8) -> (8, 32, 128).

    Args:
      max_length: the last stage's end.
      first: the first stage's end; None makes a single stage.
    """
    ends = []
    end = max_length if first is None else first
    while end < max_length:
        ends.append(end)
        end *= GROWTH
    return (*ends, max_length)


class Block(NamedTuple):
    """Rows on the device and what they are.

    Attributes:
      numbers: int32 [B], the prompts' places in the input; -1 where a place is free.
      rows: on the device.
    """

    numbers: np.ndarray
    rows: Rows

    @property
    def live(self) -> np.ndarray:
        """Places that hold a prompt."""
        return np.flatnonzero(self.numbers >= 0)

    @property
    def free(self) -> np.ndarray:
        """Places that do not."""
        return np.flatnonzero(self.numbers < 0)


class Queue:
    """Batches on their way through the stages.

    Args:
      programs: compiled functions.
      weights: from `Programs.prepare`.
      small_batch: places of the batches that are run for fewer rows at the end.
    """

    def __init__(self, programs: Programs, weights: DecoderWeights, small_batch: int):
        self._programs = programs
        self._weights = weights
        self._small_batch = small_batch
        self._waiting: dict[int, Block] = {}

    def admit(
        self, numbers: np.ndarray, reached: Reached, stage: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Takes in rows that have passed `stage`.

        Args:
          numbers: int32 [B], the prompts' places in the input; -1 for filler.
          reached: what the stage left.
          stage: from 0.

        Yields:
          numbers: int32 [n], prompts that are done.
          outputs: int32 [n, S, T].
        """
        is_last = stage == len(self._programs.ends) - 1
        done = np.asarray(reached.done) | is_last
        finished = done & (numbers >= 0)
        if finished.any():
            yield numbers[finished], np.asarray(reached.outputs)[finished]
        block = Block(np.where(done, -1, numbers), reached.rows)
        if len(block.live):
            yield from self._park(stage + 1, block)

    def finish(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decodes what waits, when there are no more batches; yields as `admit`."""
        for stage in range(1, len(self._programs.ends)):
            block = self._waiting.pop(stage, None)
            if block is not None:
                yield from self._run(stage, self._shrink(block))

    def _park(self, stage: int, block: Block) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Adds live rows to those that wait for a stage, and runs it if they fill a batch."""
        waiting = self._waiting.pop(stage, None)
        if waiting is not None:
            waiting, block = self._refill(waiting, block)
            yield from self._settle(stage, waiting)
        if len(block.live):
            yield from self._settle(stage, block)

    def _settle(self, stage: int, block: Block) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if len(block.free):
            self._waiting[stage] = block
        else:
            yield from self._run(stage, block)

    def _run(self, stage: int, block: Block) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        reached = self._programs.advance(self._weights, block.rows, stage)
        yield from self.admit(block.numbers, reached, stage)

    def _refill(self, waiting: Block, block: Block) -> tuple[Block, Block]:
        """Moves rows into free places; the first is full, or nothing is left of the second."""
        targets, sources = waiting.free, block.live
        count = min(len(targets), len(sources))
        targets, sources = targets[:count], sources[:count]
        size = len(waiting.numbers)
        room = (0, size - count)
        rows = self._programs.move(
            waiting.rows,
            block.rows,
            np.pad(sources, room).astype(np.int32),
            np.pad(targets, room, constant_values=size).astype(np.int32),
        )
        numbers, left = waiting.numbers.copy(), block.numbers.copy()
        numbers[targets] = left[sources]
        left[sources] = -1
        return Block(numbers, rows), Block(left, block.rows)

    def _shrink(self, block: Block) -> Block:
        """A smaller batch, where that holds all live rows."""
        if len(block.live) > self._small_batch or len(block.numbers) <= self._small_batch:
            return block
        places = np.concatenate([block.live, block.free])[: self._small_batch].astype(np.int32)
        return Block(block.numbers[places], self._programs.take(block.rows, places))
