"""Tuning the models of a study: alone, or several of one shape together."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.features import Features
from t5x_ext.data.length_buckets import make_length_buckets
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory
from t5x_ext.models import BaseTransformerModel
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning.groups import make_groups, program_size
from t5x_ext.planning.lowering import train_arguments
from t5x_ext.progress import MinuteNotes
from t5x_ext.studies.arms import DecodingSettings
from t5x_ext.studies.cells import Cell
from t5x_ext.studies.recipes import Recipe
from t5x_ext.training.experts import ExpertProgram, train_experts
from t5x_ext.training.trainer import Program, Trainer, train_loop


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A model that is ready to be tuned.

    Attributes:
      cells: those that it serves: one, or several that decode it in different ways.
      train: its training examples; none for zero-shot.
      test: its test examples.
      batches: of the training examples; None for zero-shot.
      num_steps: steps to make.
    """

    cells: tuple[Cell, ...]
    train: list[Example]
    test: list[Example]
    batches: TrainBatches | None = None
    num_steps: int = 0

    @property
    def cell(self) -> Cell:
        """Any of the cells: they are tuned alike."""
        return self.cells[0]

    @property
    def decodings(self) -> tuple[DecodingSettings, ...]:
        """How each of the cells decodes."""
        return tuple(cell.arm.decoding_settings for cell in self.cells)


class Tuned(NamedTuple):
    """The tuned models of a group.

    Attributes:
      jobs: what they were tuned for.
      params: their parameters, or their adapters; of several models with a leading axis, which
        may be longer.
      losses: first and last training loss of each; none for zero-shot.
      train_secs: seconds that one took, as its share of the group's.
      frozen: the parameters under the adapters, one set for all; {} without adapters.
    """

    jobs: Sequence[Job]
    params: Params
    losses: list[list[float]]
    train_secs: float
    frozen: Params = {}

    @property
    def num_models(self) -> int:
        """The leading axis of the parameters of several models."""
        return jax.tree.leaves(self.params)[0].shape[0]


@dataclasses.dataclass(frozen=True)
class Tuner:
    """How the cells of a study are tuned; compiled steps are kept from cell to cell.

    Attributes:
      model: the model that every cell tunes.
      partitioner: the mesh.
      recipe: steps, batches and learning rate, for cells whose arm has none.
      experts: models that may be tuned together; 1 tunes one after the other.
    """

    model: BaseTransformerModel
    partitioner: PjitPartitioner
    recipe: Recipe
    experts: int = 1

    @functools.cached_property
    def program(self) -> Any:
        """Trainer -> its compiled functions, made once."""
        return functools.cache(functools.partial(Program, self.model, self.partitioner))

    @functools.cached_property
    def full(self) -> Tuner:
        """The same, tuning all parameters; itself without adapters."""
        if not self.has_adapters:
            return self
        return dataclasses.replace(self, model=self.model.replace(module=self.model.module.base))

    def prepare(self, cells: Sequence[Cell], train: list[Example], test: list[Example]) -> Job:
        """Plans the batches of a model for some cells."""
        if not train:
            return Job(tuple(cells), train, test)
        recipe = self._recipe(cells[0])
        batches = make_batches(
            train,
            recipe,
            cells[0].seed,
            self.model.features,
            self.partitioner.num_batch_shards,
        )
        steps = recipe.num_steps(batches.steps_for_epochs(recipe.epochs))
        return Job(tuple(cells), train, test, batches, steps)

    def group(self, jobs: Iterable[Job]) -> Iterator[list[Job]]:
        """Joins jobs that start from the same parameters: see `make_groups`."""
        return make_groups(jobs, self.experts, lambda job: job.num_steps, self._shared)

    def compile(self, group: Sequence[Job]) -> None:
        """Compiles the step of a group, if none like it was compiled; `tune` then finds it there.

        For a second thread, as the step of a large model compiles for minutes.
        """
        job = group[0]
        if job.batches is None:
            return
        shape = job.batches.num_rows, job.batches.row_lengths
        program = self.program(self._trainer(job))
        step: Any
        if len(group) == 1:
            step, size = program.train_step, 1
        else:
            experts = self._experts(group)
            step, size = experts.train_step, experts.num_experts
        step.lower(*train_arguments(program, *shape, size)).compile()

    def tune(self, initial: Params, group: Sequence[Job]) -> Tuned:
        """Tunes a group from the same parameters, which are kept, wherever they are."""
        clock = time.monotonic()
        frozen: Params = copy_to(initial, "device") if self.has_adapters else {}
        if group[0].batches is None:
            if self.has_adapters:  # untrained ones change nothing
                adapters = self.model.module.init_trainable(jax.random.key(0))
                return Tuned(group, adapters, [[]], 0.0, frozen)
            return Tuned(group, copy_to(initial, "device"), [[]], 0.0)
        if len(group) == 1:
            params, loss = self._tune_alone(initial, group[0], frozen)
            losses = [loss]
        else:
            params, losses = self._tune_together(initial, group, frozen)
        jax.block_until_ready(params)
        return Tuned(group, params, losses, (time.monotonic() - clock) / len(group), frozen)

    @property
    def has_adapters(self) -> bool:
        """Whether cells tune adapters over the initial parameters, which they share."""
        return bool(self.model.module.frozen)

    def _shared(self, job: Job) -> tuple[Any, ...]:
        """What jobs of one program have in common: schedule, shape of the batches, decodings."""
        assert job.batches is not None  # zero-shot: alone
        shape = job.batches.num_rows, *job.batches.row_lengths.items()
        return self._trainer(job), shape, job.decodings

    def _trainer(self, job: Job) -> Trainer:
        return self._recipe(job.cell).trainer(job.num_steps)

    def _recipe(self, cell: Cell) -> Recipe:
        return cell.arm.recipe or self.recipe

    def _tune_alone(self, initial: Params, job: Job, frozen: Params) -> tuple[Params, list[float]]:
        program = self.program(self._trainer(job))
        if frozen:
            state = program.init_state(_adapter_key(job))
        else:
            state = program.state_from_params(copy_to(initial, "device"))
        ends: dict[int, jax.Array] = {}

        def keep_loss(event: Any) -> None:
            if event.step in (1, job.num_steps):
                ends[event.step] = event.metrics["loss"]
            progress.count(event.step, event.metrics["loss"])

        key = jax.random.key(job.cell.seed)
        assert job.batches is not None  # `tune` trains nothing without
        progress = MinuteNotes(f"tuning {job.cell}", job.num_steps, "steps")
        with contextlib.closing(job.batches) as batches, progress:
            state = train_loop(
                program, state, batches, job.num_steps, key, [keep_loss], frozen=frozen
            )
        return state.params, [float(ends[1]), float(ends[job.num_steps])]

    def _tune_together(
        self, initial: Params, group: Sequence[Job], frozen: Params
    ) -> tuple[Params, list[list[float]]]:
        experts = self._experts(group)
        if frozen:
            keys = [_adapter_key(job) for job in group]
            keys += keys[:1] * (experts.num_experts - len(group))
            state = experts.start_adapters(jnp.stack(keys))
        else:
            state = experts.start(copy_to(initial, "device"))
        batches = [job.batches for job in group if job.batches is not None]  # zero-shot: alone
        num_steps = [job.num_steps for job in group]
        what = f"tuning {group[0].cell} and {len(group) - 1} more"
        with contextlib.ExitStack() as closing:
            return train_experts(
                experts,
                state,
                [closing.enter_context(contextlib.closing(each)) for each in batches],
                num_steps,
                [jax.random.key(job.cell.seed) for job in group],
                frozen,
                closing.enter_context(MinuteNotes(what, max(num_steps), "steps")),
            )

    def _experts(self, group: Sequence[Job]) -> ExpertProgram:
        """The program for a group; see `program_size`."""
        size = program_size(len(group), self.experts, self.partitioner.num_expert_slots)
        return self._expert_program(self._trainer(group[0]), size)

    @functools.cached_property
    def _expert_program(self) -> Any:
        """Trainer and size -> the compiled functions of that many experts, made once."""
        return functools.cache(lambda trainer, size: ExpertProgram(self.program(trainer), size))


def _adapter_key(job: Job) -> jax.Array:
    """What a cell's adapters are drawn with; its dropout uses the seed itself."""
    return jax.random.fold_in(jax.random.key(job.cell.seed), 1)


def copy_to(model_params: Params, memory: str) -> Params:
    """Copies parameters to the devices' memory, 'device', or their hosts', 'pinned_host'."""
    layout = jax.tree.map(lambda x: x.sharding.with_memory_kind(memory), model_params)
    # Not an alias: what is on the device is consumed by the first step.
    return jax.device_put(model_params, layout, may_alias=False)


def make_batches(
    train: Sequence[Example],
    recipe: Recipe,
    seed: int,
    features: Features,
    num_batch_shards: int = 1,
) -> TrainBatches:
    """Training batches under a recipe; lengths double from bucket to bucket, so shapes are few."""
    limits = features.limits(recipe.task_feature_lengths)
    return TrainBatches(
        [in_memory("study", train)],
        batch_size=recipe.batch_size,
        lengths=recipe.task_feature_lengths,
        pack=recipe.pack,
        seed=seed,
        length_buckets={
            "inputs": make_length_buckets(limits["inputs"]),
            "targets": make_length_buckets(limits["targets"], smallest=16),
        },
        features=features,
        multiple=num_batch_shards * recipe.num_microbatches,
    )
