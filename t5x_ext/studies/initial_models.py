"""The parameters that cells start from: given, random, or tuned here before the first cell."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from t5x_ext import files
from t5x_ext.checkpoints import load_params, open_source, save_params
from t5x_ext.checkpoints.directories import saved_steps
from t5x_ext.checkpoints.meta import carried_eos_ids, eos_ids_for
from t5x_ext.configs import CheckpointConfig, RestoreCheckpointConfig, SaveCheckpointConfig
from t5x_ext.errors import ConfigError, TryAgain
from t5x_ext.models.merging import merge
from t5x_ext.models.parameters import Params
from t5x_ext.runs.run import run_training
from t5x_ext.studies import store
from t5x_ext.studies.cells import Cell
from t5x_ext.studies.recipes import InitialModel
from t5x_ext.studies.task_data import TaskData
from t5x_ext.studies.tuning import Tuner, copy_to, make_batches
from t5x_ext.studies.waiting import Patience, held
from t5x_ext.terminal import show
from t5x_ext.training.trainer import Program

_SAVE_EVERY = 500  # steps; a killed pre-finetuning resumes from there


@dataclasses.dataclass
class InitialModels:
    """The initial models of a study.

    Attributes:
      by_name: how each is stated.
      keys: their keys by name.
      tuner: has the model, the mesh and the compiled steps.
      data: the study's examples.
      study_dir: where those that are made are kept.
      waits: leave it to another process to make them.
      wait_minutes: for that process, at most, since it last saved something.
    """

    by_name: Mapping[str, InitialModel]
    keys: Mapping[str, str]
    tuner: Tuner
    data: TaskData
    study_dir: epath.Path
    waits: bool = False
    wait_minutes: float = 0.0

    def __post_init__(self) -> None:
        self.eos_ids = functools.cache(self._eos_ids)
        self._resident: tuple[tuple[str, int, bool], Params] | None = None

    def make(self, name: str) -> None:
        """Tunes an initial model unless it is given, random, or made before.

        Where another process is making it, this one waits.

        Raises:
          TryAgain: the process that should make it shows no sign of doing so.
        """
        initial = self.by_name[name]
        if initial.base:
            self.make(initial.base)
        if not initial.is_tuned:
            return
        directory = store.initial_dir(self.study_dir, self.keys[name])
        if self.waits:
            self._await(name, directory)
        if self._is_made(name):
            return
        with held(directory, f"initial model {name}"):
            if not self._is_made(name):
                self._tune(initial, directory)

    def _is_made(self, name: str) -> bool:
        return store.is_made(self.study_dir, self.keys[name])

    def _await(self, name: str, directory: epath.Path) -> None:
        """Waits until shard 1 has made an initial model."""
        patience = Patience(self.wait_minutes, "start shard 1, then give the same command again")
        while not self._is_made(name):
            # A run saves every so many steps; which steps these are is the sign of it.
            patience.wait(
                f"initial model {name}, which shard 1 makes", saved_steps(directory / "train")
            )

    def start_of(self, cell: Cell) -> tuple[str, int]:
        """What `params` takes for the parameters that a cell starts from."""
        name = cell.arm.initial
        return name, cell.seed if self.by_name[name].is_random else 0

    def params(self, name: str, seed: int, tuner: Tuner) -> Params:
        """Parameters of an initial model in host memory; those asked for last are kept.

        Every group copies them to the devices, which do not need them along with the tuned models.

        Args:
          name: the initial model's name.
          seed: of random parameters; others are the same for every seed.
          tuner: what tunes from them: adapters want kernels in the compute dtype, or quantised.
        """
        has_adapters = tuner.has_adapters
        if self._resident is None or self._resident[0] != (name, seed, has_adapters):
            self._resident = None  # free them first: two may not fit
            program = tuner.program(tuner.recipe.trainer(1))
            wanted = program.abstract_frozen() or program.abstract_params()
            loaded = self._load(self.by_name[name], seed, wanted)
            self._resident = (name, seed, has_adapters), copy_to(loaded, "pinned_host")
        return self._resident[1]

    def path_of(self, name: str) -> str | None:
        """Where an initial model's parameters are; None of random ones."""
        initial = self.by_name[name]
        if initial.path is None and not initial.is_tuned:
            return self.path_of(initial.base) if initial.base else None
        return initial.path or str(self._made_params(initial))

    def _eos_ids(self, name: str) -> tuple[int, ...]:
        """Ids that end an answer by the files of the checkpoint that an initial model goes back to.

        Args:
          name: the initial model's name.
        """
        initial = self.by_name[name]
        if initial.path:
            return eos_ids_for(self.tuner.model, open_source(initial.path).meta)
        return self._eos_ids(initial.base) if initial.base else ()

    @property
    def _program(self) -> Program:
        """Any program of the study's: all have the same parameters."""
        return self.tuner.program(self.tuner.recipe.trainer(1))

    def _load(self, initial: InitialModel, seed: int, wanted: Params) -> Params:
        """Parameters in the layout and the dtypes of `wanted`."""
        if initial.is_random:
            if self.tuner.model.module.quantization:
                raise ConfigError(
                    f"InitialModel {initial.name}: random parameters are not quantised; with "
                    "QUANTIZATION allowed: path, or base and scope"
                )
            drawn = self._program.init_base(jax.random.key(seed))
            return jax.tree.map(lambda x, leaf: x.astype(leaf.dtype), drawn, wanted)
        path = self.path_of(initial.name)
        assert path is not None  # or it would be random
        return load_params(path, wanted, config=self.tuner.model.config)

    def _made_params(self, initial: InitialModel) -> epath.Path:
        return store.initial_dir(self.study_dir, self.keys[initial.name]) / "params"

    def _tune(self, initial: InitialModel, directory: epath.Path) -> None:
        """Trains an initial model in its own resumable run and saves its parameters."""
        recipe = initial.recipe
        train = self.data.initial(initial)
        # Adapters need something to adapt.
        tuner = self.tuner if initial.base else self.tuner.full
        shards = tuner.partitioner.num_batch_shards
        batches = make_batches(train, recipe, initial.seed, tuner.model.features, shards)
        steps = recipe.num_steps(batches.steps_for_epochs(recipe.epochs))
        base = self._save_base(initial, directory)
        clock = time.monotonic()
        show(f"initial model {initial.name}: {len(train)} examples, {steps} steps")
        state, done = run_training(
            tuner.program(recipe.trainer(steps)),
            batches,
            str(directory / "train"),
            lambda start: start + steps,
            CheckpointConfig(
                restore=RestoreCheckpointConfig(base) if base else None,
                save=SaveCheckpointConfig(_SAVE_EVERY, keep=2),
            ),
            initial.seed,
            meta={"initial": initial.name},
        )
        if not done:
            raise TryAgain(
                f"initial model {initial.name}: stopped by SIGTERM with everything saved; "
                "the same command resumes"
            )
        meta = {
            "step": 0,
            "initial": initial.name,
            "train_secs": round(time.monotonic() - clock, 1),  # of the process that finished it
        }
        ends = carried_eos_ids(self.eos_ids(initial.name))
        _save(directory / "params", self._whole(state.params, base), meta | ends)
        store.write_json(directory / store.MADE, meta)

    def _whole(self, tuned: Params, base: str | None) -> Params:
        """All parameters after a run: adapters become part of those that they were tuned over."""
        model = self.tuner.model
        lora = model.module.lora
        if lora is None or base is None:
            return tuned
        return merge(model.config, lora, load_params(base, self._program.base_params()), tuned)

    def _save_base(self, initial: InitialModel, directory: epath.Path) -> str | None:
        """Parameters that an initial model is tuned from, as a checkpoint; None for random ones."""
        if initial.base is None:
            return None
        path = directory / "base"
        if files.is_remote(path) or not path.is_dir():
            base = self.by_name[initial.base]
            params = self._load(base, initial.seed, self._program.base_params())
            _save(path, params, {"step": 0} | carried_eos_ids(self.eos_ids(base.name)))
        return str(path)


def _save(directory: epath.Path, params: Params, meta: dict[str, Any]) -> None:
    """Saves parameters; in a bucket, in place of a part that a killed process left there."""
    if files.is_remote(directory) and files.is_dir(directory):
        directory.rmtree()
    save_params(str(directory), params, meta)
