"""The compiled functions of decoding, and which shapes they were compiled for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from t5x_ext.decoding import loop, placement
from t5x_ext.decoding.loop import Prompts, Rows
from t5x_ext.decoding.methods import Method, OutputIds
from t5x_ext.models import parameters
from t5x_ext.models.generation import DecodingWeights, Generator
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import EXPERT_AXIS, PjitPartitioner


class StageResult(NamedTuple):
    """What a stage leaves; of models side by side, every array leads with E.

    Attributes:
      rows: on the device.
      done: bool [B], which outputs are final.
      outputs: int32 [B, S, T].
      log_probs: float32 [B, S, T] of the outputs' tokens, where they are kept.
    """

    rows: Rows
    done: jax.Array
    outputs: jax.Array
    log_probs: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Programs:
    """Compiled functions over rows on the device, of one model or of E models side by side.

    Host arrays lead with E, which is 1 for a single model; parameters and rows on the device have
    that axis only where `together`.

    Attributes:
      generator: the model.
      partitioner: the mesh.
      method: chooses tokens.
      ends: where each stage ends, in positions; the last is T.
      ids: which tokens there are, and which end a row.
      cache_bytes: of keys and values on each device, of one model; see `placement.cache_bytes`.
      resident_bytes: what else stays on each device, see `placement.holds_whole_weights`.
      together: whether parameters have a leading axis E, which the mesh may split; those under
        adapters, which all models share, have none.
      keep_log_probs: whether the log-probabilities of chosen tokens are kept.
      shapes: the loops compiled so far, as text.
    """

    generator: Generator
    partitioner: PjitPartitioner
    method: Method
    ends: tuple[int, ...]
    ids: OutputIds
    cache_bytes: int = 0
    resident_bytes: int = 0
    together: bool = False
    keep_log_probs: bool = False
    shapes: set[str] = dataclasses.field(default_factory=set, compare=False)

    def prepare(self, params: Params) -> DecodingWeights:
        """The decoder's weights as the loop reads them, once for many batches.

        They are all-gathered here where they fit (`placement`), so that no position has to.
        """
        whole = placement.holds_whole_weights(
            self.generator,
            self.partitioner,
            self.cache_bytes,
            self.resident_bytes,
            self.num_models(params),
        )
        return self._prepare(params, whole)

    def num_models(self, params: Params) -> int:
        """E, the leading axis of what each model has alone."""
        if not self.together:
            return 1
        own = parameters.select(parameters.trainable(self.generator.specs), params)
        return jax.tree.leaves(own)[0].shape[0]

    def begin(
        self,
        params: Params,
        weights: DecodingWeights,
        prompts: Prompts,
        length: int | None = None,
    ) -> StageResult:
        """Reads prompts and decodes the first stage.

        Args:
          params: parameters on the mesh.
          weights: from `prepare`.
          prompts: a batch for each model, all arrays with a leading axis E; the same on every host.
          length: see `loop.start_rows`.
        """
        led = jax.tree.map(self._lead, prompts)
        placed = led._replace(tokens=self.partitioner.put_whole(led.tokens))
        rows = self._read(params, weights, placed, length)
        return self.advance(weights, rows, 0)

    def advance(self, weights: DecodingWeights, rows: Rows, stage: int) -> StageResult:
        """Decodes rows from the end of the stage before."""
        *leading, _, _, length = rows.prompt.mask.shape
        self._note(stage, *leading, length)
        result = self._advance(weights, rows, stage)
        # The prompts never change: handing them through the program would copy them.
        return result._replace(rows=result.rows._replace(prompt=rows.prompt))

    def move(self, into: Rows, rows: Rows, sources: np.ndarray, targets: np.ndarray) -> Rows:
        """See `loop.move_rows`, of each model; `into` is used up."""
        return self._move(into, rows, self._lead(sources), self._lead(targets))

    def take(self, rows: Rows, places: np.ndarray) -> Rows:
        """See `loop.take_rows`, of each model."""
        return self._take(rows, self._lead(places))

    def _lead(self, array: np.ndarray) -> np.ndarray:
        """[E, B, ...] -> as the compiled functions take it."""
        return array if self.together else array[0]

    @functools.cached_property
    def _prepare(self) -> Any:
        def prepare(params: Params, whole: bool) -> DecodingWeights:
            one = functools.partial(self.generator.prepare, whole=whole)
            of_params, of_weights = self.generator.models_axes()
            return self._of_each(one, of_params, out_axes=of_weights)(params)

        return self._jit(prepare, static_argnums=1)

    @functools.cached_property
    def _read(self) -> Any:
        # Apart from the first stage: how prompts are read has more shapes than how they go on.
        def read(
            params: Params, weights: DecodingWeights, prompts: Prompts, length: int | None
        ) -> Rows:
            of_model = functools.partial(
                loop.start_rows,
                self.generator,
                method=self.method,
                max_length=self.ends[-1],
                num_stops=self.ids.num_stops,
                keep_log_probs=self.keep_log_probs,
                length=length,
            )
            axes = *self.generator.models_axes(), 0
            return self._of_each(of_model, *axes)(params, weights, prompts)

        return self._jit(read, static_argnums=3)

    @functools.cached_property
    def _advance(self) -> Any:
        def advance(weights: DecodingWeights, rows: Rows, stage: int) -> StageResult:
            one = functools.partial(self._advance_rows, stage=stage)
            _, of_weights = self.generator.models_axes()
            result = self._of_each(one, of_weights, 0)(weights, rows)
            nothing: Any = None
            return result._replace(rows=result.rows._replace(prompt=nothing))

        return self._jit(advance, static_argnums=2, out_shardings=self._result_shardings)

    @functools.cached_property
    def _move(self) -> Any:
        return self._jit(self._of_each(loop.move_rows), donate_argnums=0)

    @functools.cached_property
    def _take(self) -> Any:
        return self._jit(self._of_each(loop.take_rows))

    def _advance_rows(self, weights: DecodingWeights, rows: Rows, stage: int) -> StageResult:
        start, stop = (0, *self.ends)[stage], self.ends[stage]
        axis_name = EXPERT_AXIS if self.together else None
        rows = loop.advance_rows(
            self.generator, weights, rows, self.method, start, stop, self.ids, axis_name
        )
        done, outputs = self.method.is_done(rows.state), self.method.outputs(rows.state)
        return StageResult(rows, done, outputs, rows.log_probs)

    @property
    def _result_shardings(self) -> StageResult:
        # Every host gets all outputs: each writes, or counts, the same predictions.
        whole: Any = self.partitioner.sharding(())
        rows: Any = None
        return StageResult(rows, done=whole, outputs=whole, log_probs=whole)

    def _of_each(
        self, function: Callable[..., Any], *in_axes: Any, out_axes: Any = 0
    ) -> Callable[..., Any]:
        """Applies a function of one model's arrays to those of all models, side by side.

        Args:
          function: of one model.
          in_axes: where each argument has the models; 0 for all where none is given.
          out_axes: where the results have them.
        """
        if not self.together:
            return function
        axes = in_axes or 0, out_axes
        return jax.vmap(function, *axes, axis_name=EXPERT_AXIS, spmd_axis_name=EXPERT_AXIS)

    def _jit(self, function: Callable[..., Any], **options: Any) -> Any:
        def on_mesh(*args: Any) -> Any:
            with self.partitioner.activate():
                return function(*args)

        return jax.jit(on_mesh, **options)

    def _note(self, stage: int, *shape: int) -> None:
        start, stop = (0, *self.ends)[stage], self.ends[stage]
        shown = " x ".join(map(str, shape[-3 if self.together else -2 :]))
        self.shapes.add(f"{shown}, positions {start} to {stop}")
