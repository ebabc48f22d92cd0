"""Decodes many batches without waiting for the longest row of each.

The output positions are cut into stages, (8, 32, 128) for outputs of up to 128 tokens. A batch is
encoded and decoded up to the end of the first stage. Rows that have ended by then are handed out;
the others are parked, and take the place of finished rows in what waits for the next stage. That
runs when all its rows are live, or when there are no more batches. A row computes at most eight
times its own positions (or the first stage's), apart from one partly filled batch per stage at the
end. All rows of a batch are at the same position: the shapes to compile are few, and the loop is
the same as for a single batch.

Letters used in shapes: E models that decode side by side (1 alone), B rows of a batch, S outputs
of a prompt, T longest output.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from t5x_ext.decoding.loop import Rows
from t5x_ext.decoding.programs import Programs, StageResult
from t5x_ext.models.generation import DecodingWeights

GROWTH = 4


def stage_ends(max_length: int, first: int | None) -> tuple[int, ...]:
    """Ends of the stages, each four times the one before: (128, 8) -> (8, 32, 128).

    A last stage of fewer positions than all before it together joins the one before: each stage is
    a program to compile.

    Args:
      max_length: the last stage's end.
      first: the first stage's end; None makes a single stage.
    """
    ends = []
    end = max_length if first is None else first
    while 2 * end <= max_length:
        ends.append(end)
        end *= GROWTH
    return (*ends, max_length)


class StageBatch(NamedTuple):
    """Rows on the device and what they are.

    Attributes:
      places: int32 [E, B], where each row's prompt stands in the input; -1 for a free row.
      rows: on the device.
    """

    places: np.ndarray
    rows: Rows

    @property
    def live(self) -> np.ndarray:
        """bool [E, B], rows that hold a prompt."""
        return self.places >= 0


class Finished(NamedTuple):
    """Outputs that are done.

    Attributes:
      places: int32 [n], where the prompts stand in the input.
      outputs: int32 [n, S, T].
      log_probs: float32 [n, S, T], where they are kept.
      limits: int32 [n], most tokens of each; the decoder knows them.
    """

    places: np.ndarray
    outputs: np.ndarray
    log_probs: np.ndarray | None
    limits: np.ndarray | None = None


class Queue:
    """Batches on their way through the stages.

    With several models side by side, a stage runs when all rows of one of them are live.

    Args:
      programs: compiled functions.
      weights: from `Programs.prepare`.
      small_batch: rows, of each model, of the batches that are run for fewer live ones at the end.
    """

    def __init__(self, programs: Programs, weights: DecodingWeights, small_batch: int):
        self._programs = programs
        self._weights = weights
        self._small_batch = small_batch
        self._waiting: dict[int, StageBatch] = {}

    def admit(self, places: np.ndarray, result: StageResult, stage: int = 0) -> Iterator[Finished]:
        """Takes in rows that have passed `stage`.

        Args:
          places: int32 [E, B], where the prompts stand in the input; -1 for filler.
          result: what the stage left.
          stage: from 0.

        Yields:
          The prompts that are done.
        """
        is_last = stage == len(self._programs.ends) - 1
        done = np.asarray(result.done).reshape(places.shape) | is_last
        finished = done & (places >= 0)
        if finished.any():
            outputs = self._take(result.outputs, finished)
            log_probs = result.log_probs
            kept = None if log_probs is None else self._take(log_probs, finished)
            yield Finished(places[finished], outputs, kept)
        batch = StageBatch(np.where(done, -1, places), result.rows)
        if batch.live.any():
            yield from self._park(stage + 1, batch)

    def finish(self) -> Iterator[Finished]:
        """Decodes what waits, when there are no more batches; yields as `admit`."""
        for stage in range(1, len(self._programs.ends)):
            batch = self._waiting.pop(stage, None)
            if batch is not None:
                yield from self._run(stage, self._shrink(batch))

    def _take(self, array: jax.Array, wanted: np.ndarray) -> np.ndarray:
        """[B, S, T], or [E, B, S, T], and bool [E, B] -> [n, S, T]."""
        return np.asarray(array).reshape(-1, *array.shape[-2:])[wanted.ravel()]

    def _park(self, stage: int, batch: StageBatch) -> Iterator[Finished]:
        """Adds live rows to those that wait for a stage, and runs it if they fill a batch."""
        waiting = self._waiting.pop(stage, None)
        if waiting is not None:
            waiting, batch = self._refill(waiting, batch)
            yield from self._settle(stage, waiting)
        if batch.live.any():
            yield from self._settle(stage, batch)

    def _settle(self, stage: int, batch: StageBatch) -> Iterator[Finished]:
        if batch.live.all(axis=1).any():
            yield from self._run(stage, batch)
        else:
            self._waiting[stage] = batch

    def _run(self, stage: int, batch: StageBatch) -> Iterator[Finished]:
        result = self._programs.advance(self._weights, batch.rows, stage)
        yield from self.admit(batch.places, result, stage)

    def _refill(self, waiting: StageBatch, batch: StageBatch) -> tuple[StageBatch, StageBatch]:
        """Moves live rows to free ones; for each model the first is full, or the second empty."""
        places, left = waiting.places.copy(), batch.places.copy()
        sources = np.zeros(places.shape, np.int32)
        targets = np.full(places.shape, places.shape[1], np.int32)  # beyond: nothing is moved
        for model in range(len(places)):
            free, live = np.flatnonzero(places[model] < 0), np.flatnonzero(left[model] >= 0)
            count = min(len(free), len(live))
            sources[model, :count], targets[model, :count] = live[:count], free[:count]
            places[model, free[:count]] = left[model, live[:count]]
            left[model, live[:count]] = -1
        rows = self._programs.move(waiting.rows, batch.rows, sources, targets)
        return StageBatch(places, rows), StageBatch(left, batch.rows)

    def _shrink(self, batch: StageBatch) -> StageBatch:
        """A smaller batch, where that holds all live rows."""
        small = self._small_batch
        if batch.live.sum(axis=1).max() > small or batch.places.shape[1] <= small:
            return batch
        kept = np.argsort(~batch.live, axis=1, kind="stable")[:, :small].astype(np.int32)
        places = np.take_along_axis(batch.places, kept, axis=1)
        return StageBatch(places, self._programs.take(batch.rows, kept))
