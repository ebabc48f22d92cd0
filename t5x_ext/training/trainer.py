"""Compiled programs for one model on one mesh, and the loop that runs them.

`Trainer` is what a config states; `Program` is what runs: it owns the compiled functions, so that
many runs of one shape (the cells of a study) share them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext import bounds
from t5x_ext.models import BaseTransformerModel, losses, parameters
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.progress import MinuteNotes
from t5x_ext.schedules import LearningRateFn, create_learning_rate_scheduler
from t5x_ext.training import state as states
from t5x_ext.training.actions import BaseAction, EarlyStoppingAction, TerminateOnNanAction
from t5x_ext.training.state import TrainState
from t5x_ext.training.step import Metrics, loss_metrics, make_train_step
from t5x_ext.training.weight_metrics import WeightMetricsComputer

__all__ = [
    "BaseAction",
    "EarlyStoppingAction",
    "Program",
    "StepEvent",
    "TerminateOnNanAction",
    "Trainer",
    "WeightMetricsComputer",
    "train_loop",
]


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Settings of the train step.

    Attributes:
      num_microbatches: parts of a batch processed one after the other; None and 0 mean 1.
      learning_rate_fn: step -> learning rate; None means T5X's default schedule.
      weight_metrics_computer: measures every update tensor by tensor; None for not.
      skip_nonfinite_steps: how many steps in a row may have a loss or gradient that is not finite:
        they change neither parameters nor optimizer. 0 ends the run at the first.
    """

    num_microbatches: int | None = None
    learning_rate_fn: LearningRateFn | None = None
    weight_metrics_computer: WeightMetricsComputer | None = None
    skip_nonfinite_steps: int = 0

    def __post_init__(self) -> None:
        bounds.check_int("Trainer.skip_nonfinite_steps", self.skip_nonfinite_steps, 0)
        if self.num_microbatches is not None:
            bounds.check_int("Trainer.num_microbatches", self.num_microbatches, 0)


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled functions of a model, an optimizer and a mesh.

    Attributes:
      model: the model, with its optimizer definition.
      partitioner: the mesh.
      trainer: schedule and microbatches.
    """

    model: BaseTransformerModel
    partitioner: PjitPartitioner
    trainer: Trainer

    @functools.cached_property
    def optimizer(self) -> Any:
        """The optimizer built for this model's parameters."""
        axes = parameters.param_axes(self.model.module.trainable)
        return self.model.optimizer_def.build(axes)

    @functools.cached_property
    def step(self) -> Callable[..., tuple[TrainState, Metrics]]:
        """(state, batch, key, frozen) -> (state, metrics), to be traced: see `make_train_step`."""
        step = make_train_step(
            self.model,
            self.optimizer,
            self.trainer.learning_rate_fn or create_learning_rate_scheduler(),
            self.trainer.num_microbatches or 1,
            self.trainer.weight_metrics_computer,
            skip_nonfinite=self.trainer.skip_nonfinite_steps > 0,
        )

        def sharded_step(
            state: TrainState, batch: Any, key: jax.Array, frozen: Params | None = None
        ):
            with self.partitioner.activate():
                return step(state, batch, key, frozen)

        return sharded_step

    @functools.cached_property
    def train_step(self) -> Callable[..., tuple[TrainState, Metrics]]:
        """The same, jitted; the state given in is consumed."""
        layout = states.state_shardings(self.model, self.optimizer, self.partitioner)
        # Every host reads the metrics.
        everywhere = self.partitioner.sharding(())
        return jax.jit(self.step, donate_argnums=0, out_shardings=(layout, everywhere))

    @functools.cached_property
    def _eval_step(self) -> Callable[[Params, Any, losses.LossSums], losses.LossSums]:
        """(parameters, batch, sums so far) -> sums."""

        def eval_step(model_params: Params, batch: Any, total: losses.LossSums) -> losses.LossSums:
            with self.partitioner.activate():
                sums = self.model.loss_sums(model_params, batch, None)
            return jax.tree.map(jnp.add, total, sums)

        return jax.jit(eval_step, out_shardings=self.partitioner.sharding(()))

    def base_params(self) -> Params:
        """Shapes, dtypes and shardings of the base parameters (all but adapters), in float32."""
        model = self.model.replace(module=self.model.module.base)
        return states.abstract_params(model, self.partitioner)

    def init_base(self, key: jax.Array) -> Params:
        """Random values for `base_params`."""
        wanted = self.base_params()

        def draw(key: jax.Array) -> Params:
            return parameters.select(wanted, self.model.module.init(key))

        return jax.jit(draw, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, wanted))(key)

    def init_state(self, key: jax.Array) -> TrainState:
        """Random parameters and an empty optimizer, in the sharded layout."""
        return states.create_state(self.model, self.optimizer, self.partitioner, key)

    def state_from_params(self, model_params: Params, step: int = 0) -> TrainState:
        """Given parameters (consumed by the first step) and an empty optimizer."""
        return states.state_from_params(
            model_params, self.model, self.optimizer, self.partitioner, step
        )

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings: the target of a checkpoint restore."""
        return states.abstract_state(self.model, self.optimizer, self.partitioner)

    def abstract_params(self) -> Params:
        """Shapes, dtypes and shardings of all parameters."""
        return states.abstract_params(self.model, self.partitioner)

    def abstract_frozen(self) -> Params:
        """Shapes, dtypes and shardings of the parameters under adapters; {} without."""
        return states.abstract_frozen(self.model, self.partitioner)

    def evaluate(
        self,
        model_params: Params,
        batches: Iterable[dict[str, np.ndarray]],
        progress: MinuteNotes | None = None,
    ) -> Any:
        """Means per target token over all batches: {'cross_entropy', 'accuracy', ...} floats.

        Args:
          model_params: parameters on the mesh.
          batches: features [B, ...], the same whole batches on every host.
          progress: counts the batches.
        """
        total = jax.device_put(losses.zero_sums(), self.partitioner.sharding(()))
        for number, batch in enumerate(batches, start=1):
            placed = {name: self.partitioner.put_whole(rows) for name, rows in batch.items()}
            # Added up in the compiled step: op by op it costs more than a small model's step.
            total = self._eval_step(model_params, placed, total)
            if progress is not None:
                progress.count(number, total.weight)
        if not float(total.weight):
            return {}
        return {name: float(value) for name, value in loss_metrics(total).items()}


class StepEvent(NamedTuple):
    """What a callback sees after a step; metrics are on the device until someone reads them.

    Attributes:
      step: updates applied so far, this one included.
      state: the state after the step; it is consumed by the next one, so do not keep it.
      metrics: of this step, float32: scalars, and `grad_squares` (see `make_train_step`).
      info: `t5x_ext.data.batching.BatchInfo` of the batch.
      frozen: the parameters under adapters; {} without.
    """

    step: int
    state: TrainState
    metrics: Metrics
    info: Any
    frozen: Params = {}

    @property
    def params(self) -> Params:
        """All parameters of the network."""
        return parameters.join(self.frozen, self.state.params)


def train_loop(
    program: Program,
    state: TrainState,
    batches: Iterator[tuple[dict[str, np.ndarray], Any]],
    total_steps: int,
    key: jax.Array,
    after_step: Sequence[Callable[[StepEvent], bool | None]] = (),
    should_stop: Callable[[], bool] = lambda: False,
    frozen: Params | None = None,
) -> TrainState:
    """Runs steps until the state has seen `total_steps` updates.

    Args:
      program: compiled functions.
      state: consumed.
      batches: (features, info) pairs; features are this host's rows.
      total_steps: updates in all, those already in `state` included.
      key: dropout key of the run.
      after_step: called in order after every step: logging, evaluation, saving. Where one
        answers True, the loop ends once all have been called.
      should_stop: asked before every step; True ends the loop early (preemption).
      frozen: the parameters under adapters, which stay as they are; None without.

    Returns:
      The last state.
    """
    for step in range(int(state.step) + 1, total_steps + 1):
        if should_stop():
            break
        batch, info = next(batches)
        placed = {
            name: program.partitioner.put_rows(rows, info.num_rows) for name, rows in batch.items()
        }
        state, metrics = program.train_step(state, placed, key, frozen)
        event = StepEvent(step, state, metrics, info, frozen or {})
        if any([callback(event) for callback in after_step]):
            break
    return state
