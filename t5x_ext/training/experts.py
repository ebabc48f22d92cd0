"""Models of one shape trained side by side in one program, along a leading `expert` axis.

A study tunes the same model on a hundred small tasks. Stacked, they share one compiled step, and a
mesh may split the axis: each device then trains some of the models, with no traffic between them.
An expert that has made its steps stays as it is while the others go on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import EXPERT_AXIS
from t5x_ext.progress import MinuteNotes
from t5x_ext.training import state as states
from t5x_ext.training.state import TrainState
from t5x_ext.training.step import Metrics
from t5x_ext.training.trainer import Program

Batches = Iterator[tuple[dict[str, np.ndarray], Any]]


@dataclasses.dataclass(frozen=True)
class ExpertProgram:
    """The compiled functions of `num_experts` models that train together.

    Attributes:
      program: what each of them does.
      num_experts: E; divides by the mesh's `expert` axis.
    """

    program: Program
    num_experts: int

    @functools.cached_property
    def train_step(self) -> Callable[..., tuple[TrainState, Metrics]]:
        """(states, batches, keys, active, frozen) -> (states, metrics).

        All have a leading axis E but `frozen`, the one set of parameters under all adapters, which
        is read once for them all (None without adapters). `active` is bool [E]; the state of an
        inactive expert comes back as it was. The states given in are consumed.
        """

        def one(
            state: TrainState, batch: Any, key: jax.Array, active: jax.Array, frozen: Params | None
        ):
            stepped, metrics = self.program.step(state, batch, key, frozen)
            kept = jax.tree.map(lambda new, old: jnp.where(active, new, old), stepped, state)
            return kept, metrics

        in_axes = (0, 0, 0, 0, None)
        together = jax.vmap(one, in_axes, spmd_axis_name=EXPERT_AXIS)
        return jax.jit(together, donate_argnums=0, out_shardings=(self._layout(), None))

    @functools.cached_property
    def start(self) -> Callable[[Params], TrainState]:
        """Parameters -> E copies of them, each with an empty optimizer; those given are kept."""

        def spread(params: Params) -> TrainState:
            one = self._empty(params)
            return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.num_experts, *x.shape)), one)

        return jax.jit(spread, out_shardings=self._layout())

    @functools.cached_property
    def start_adapters(self) -> Callable[[jax.Array], TrainState]:
        """Keys [E] -> the fresh adapters that each key draws, each with an empty optimizer."""

        def draw(keys: jax.Array) -> TrainState:
            module = self.program.model.module
            return jax.vmap(lambda key: self._empty(module.init_trainable(key)))(keys)

        return jax.jit(draw, out_shardings=self._layout())

    def _empty(self, params: Params) -> TrainState:
        return TrainState(jnp.int32(0), params, self.program.optimizer.init(params))

    def _layout(self) -> TrainState:
        program = self.program
        layout = states.state_shardings(program.model, program.optimizer, program.partitioner)
        return jax.tree.map(program.partitioner.stacked, layout)


def train_experts(
    experts: ExpertProgram,
    state: TrainState,
    batches: Sequence[Batches],
    num_steps: Sequence[int],
    keys: Sequence[jax.Array],
    frozen: Params | None = None,
    progress: MinuteNotes | None = None,
) -> tuple[Params, list[list[float]]]:
    """Trains from the same parameters on other data each; equals `train_loop` on each alone.

    Args:
      experts: compiled functions.
      state: of all, from `experts.start`; consumed.
      batches: of each expert, rows of one length; each gives the whole global batch on every host.
        There may be fewer than `experts.num_experts`: the rest of the program idles.
      num_steps: steps of each expert, 1 or more.
      keys: dropout key of each expert.
      frozen: the parameters under all their adapters; None without.
      progress: counts the steps.

    Returns:
      Parameters with a leading axis E, and [first loss, last loss] of each given expert.
    """
    idle = experts.num_experts - len(batches)
    ends = np.array([*num_steps, *[0] * idle])
    all_keys = jnp.stack([*keys, *[keys[0]] * idle])
    partitioner = experts.program.partitioner
    current: list[dict[str, np.ndarray]] = []
    losses: dict[int, jax.Array] = {}
    for step in range(1, int(ends.max()) + 1):
        # A finished expert, and an idle one, is shown some batch: its result is not kept.
        current = [
            next(own)[0] if step <= end else current[index]
            for index, (own, end) in enumerate(zip(batches, num_steps, strict=True))
        ]
        shown = [*current, *current[:1] * idle]
        placed = {
            name: partitioner.put_whole(_stack([rows[name] for rows in shown]))
            for name in current[0]
        }
        state, metrics = experts.train_step(state, placed, all_keys, step <= ends, frozen)
        if step == 1 or step in num_steps:
            losses[step] = metrics["loss"]
        if progress is not None:
            progress.count(step, metrics["loss"])
    read = {step: np.asarray(values) for step, values in losses.items()}
    return state.params, [
        [float(read[1][index]), float(read[end][index])] for index, end in enumerate(num_steps)
    ]


def _stack(batches: Sequence[np.ndarray]) -> np.ndarray:
    """[B, L] each -> [E, B, L]; joined batches may differ in B, and are filled with empty rows."""
    most = max(len(rows) for rows in batches)
    return np.stack([np.pad(rows, ((0, most - len(rows)), (0, 0))) for rows in batches])
