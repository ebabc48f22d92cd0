"""The compiled functions of decoding, and which shapes they were compiled for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from t5x_ext.decoding import loop
from t5x_ext.decoding.loop import Rows
from t5x_ext.decoding.methods import Method
from t5x_ext.models import incremental
from t5x_ext.models.incremental import DecoderWeights
from t5x_ext.models.network import T5Config
from t5x_ext.models.params import Params
from t5x_ext.partitioning import PjitPartitioner


class Reached(NamedTuple):
    """What a stage leaves.

    Attributes:
      rows: on the device.
      done: bool [B], prompts whose outputs are final.
      outputs: int32 [B, S, T].
    """

    rows: Rows
    done: jax.Array
    outputs: jax.Array


@dataclasses.dataclass(frozen=True)
class Programs:
    """Compiled functions over rows on the device.

    Attributes:
      config: model shape.
      partitioner: the mesh.
      method: chooses tokens.
      ends: where each stage ends, in positions; the last is T.
      num_valid_ids: ids of the output vocabulary.
      shapes: the loops compiled so far, as text.
    """

    config: T5Config
    partitioner: PjitPartitioner
    method: Method
    ends: tuple[int, ...]
    num_valid_ids: int
    shapes: set[str] = dataclasses.field(default_factory=set, compare=False)

    def prepare(self, model_params: Params) -> DecoderWeights:
        """The decoder's weights as the loop reads them, once for many batches."""
        return self._prepare(model_params)

    def begin(
        self,
        model_params: Params,
        weights: DecoderWeights,
        inputs: np.ndarray,
        numbers: np.ndarray,
    ) -> Reached:
        """Encodes prompts, int32 [B, L], and decodes the first stage.

        Args:
          model_params: parameters on the mesh.
          weights: from `prepare`.
          inputs: padded prompts, the same on every host; a row of zeros is filler.
          numbers: int32 [B], the prompts' numbers.
        """
        self._note(0, *inputs.shape)
        return self._begin(model_params, weights, self.partitioner.put_whole(inputs), numbers)

    def advance(self, weights: DecoderWeights, rows: Rows, stage: int) -> Reached:
        """Decodes rows from the end of the stage before."""
        self._note(stage, len(rows.memory.mask), rows.memory.mask.shape[-1])
        reached = self._advance(weights, rows, stage)
        # The memory never changes: handing it through the program would copy it.
        return reached._replace(rows=reached.rows._replace(memory=rows.memory))

    def move(self, into: Rows, rows: Rows, sources: np.ndarray, targets: np.ndarray) -> Rows:
        """See `loop.move_rows`; `into` is used up."""
        return self._move(into, rows, sources, targets)

    def take(self, rows: Rows, places: np.ndarray) -> Rows:
        """See `loop.take_rows`."""
        return self._take(rows, places)

    @functools.cached_property
    def _prepare(self) -> Any:
        return self._jit(functools.partial(incremental.prepare_weights, self.config))

    @functools.cached_property
    def _begin(self) -> Any:
        def begin(
            model_params: Params, weights: DecoderWeights, inputs: jax.Array, numbers: jax.Array
        ) -> Reached:
            rows = loop.start_rows(
                self.config, model_params, weights, inputs, numbers, self.method, self.ends[-1]
            )
            return self._advance_rows(weights, rows, 0)

        return self._jit(begin, out_shardings=self._reached_shardings)

    @functools.cached_property
    def _advance(self) -> Any:
        def advance(weights: DecoderWeights, rows: Rows, stage: int) -> Reached:
            reached = self._advance_rows(weights, rows, stage)
            nothing: Any = None
            return reached._replace(rows=reached.rows._replace(memory=nothing))

        return self._jit(advance, static_argnums=2, out_shardings=self._reached_shardings)

    @functools.cached_property
    def _move(self) -> Any:
        move = functools.partial(loop.move_rows, self.config, num_rows=self.method.num_rows)
        return self._jit(move, donate_argnums=0)

    @functools.cached_property
    def _take(self) -> Any:
        return self._jit(
            functools.partial(loop.take_rows, self.config, num_rows=self.method.num_rows)
        )

    def _advance_rows(self, weights: DecoderWeights, rows: Rows, stage: int) -> Reached:
        start, stop = (0, *self.ends)[stage], self.ends[stage]
        rows = loop.advance_rows(
            self.config, weights, rows, self.method, start, stop, self.num_valid_ids
        )
        return Reached(rows, self.method.is_done(rows.state), self.method.outputs(rows.state))

    @property
    def _reached_shardings(self) -> Reached:
        # Every host gets all outputs: each writes, or counts, the same predictions.
        whole: Any = self.partitioner.sharding(())
        rows: Any = None
        return Reached(rows, done=whole, outputs=whole)

    def _jit(self, function: Callable[..., Any], **options: Any) -> Any:
        def on_mesh(*args: Any) -> Any:
            with self.partitioner.activate():
                return function(*args)

        return jax.jit(on_mesh, **options)

    def _note(self, stage: int, batch_size: int, length: int) -> None:
        start, stop = (0, *self.ends)[stage], self.ends[stage]
        self.shapes.add(f"{batch_size} x {length}, positions {start} to {stop}")
