"""What a run that tunes adapters has in addition: a base that stays as it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from t5x_ext import multihost
from t5x_ext.checkpoints import adapters, load, selection
from t5x_ext.checkpoints.fingerprints import fingerprint_base
from t5x_ext.checkpoints.meta import describe_adapter, eos_ids_for, lora_in
from t5x_ext.configs import RestoreCheckpointConfig, StatedLoRA
from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel, parameters
from t5x_ext.models.lora import LoRA, create_lora
from t5x_ext.models.network import Transformer
from t5x_ext.models.nf4 import NF4
from t5x_ext.models.parameters import Params
from t5x_ext.training.state import TrainState
from t5x_ext.training.trainer import Program


class Base(NamedTuple):
    """The frozen parameters of a run.

    Attributes:
      lora: the adapters.
      params: in the tree of `Network.frozen`.
      path: INITIAL_CHECKPOINT_PATH.
      fingerprint: see `checkpoints.fingerprints`.
      step: updates that they have seen.
      quantization: of their kernels.
      eos_ids: ids that end an answer by its files, see `checkpoints.meta.eos_ids_for`.
    """

    lora: LoRA
    params: Params
    path: str
    fingerprint: str
    step: int
    quantization: str | None
    eos_ids: tuple[int, ...]

    def describe(self) -> dict[str, Any]:
        """What the run's checkpoints say of it."""
        return describe_adapter(self.lora, self.path, self.fingerprint, self.quantization)


def with_adapter(
    model: BaseTransformerModel, restore: RestoreCheckpointConfig | None
) -> BaseTransformerModel:
    """The model that a run has: with the adapters of ADAPTER, where it is set.

    Else with those that the LORA macros of evaluation state, as far as they do.

    Raises:
      ConfigError: ADAPTER is none, or does not fit the model or the LORA macros.
    """
    if restore is None:
        return model
    if restore.adapter is None:
        return _with_stated(model, restore.lora)
    adapter = adapters.open_adapter(restore.adapter, model.config)
    adapter.check_stated(restore.lora, model.config)
    return adapter.on(model)


def _with_stated(model: BaseTransformerModel, stated: StatedLoRA) -> BaseTransformerModel:
    lora = create_lora(
        stated.rank,
        LoRA.alpha if stated.alpha is None else stated.alpha,
        targets=LoRA.targets if stated.targets is None else stated.targets,
    )
    if lora is None or not isinstance(model.module, Transformer):
        return model
    return model.replace(module=dataclasses.replace(model.module, lora=lora))


def load_base(program: Program, restore: RestoreCheckpointConfig | None) -> Base | None:
    """Reads what adapters are tuned over; None for a run that tunes all parameters.

    Raises:
      ConfigError: adapters have no base.
    """
    module: Any = program.model.module
    lora, quantization = getattr(module, "lora", None), getattr(module, "quantization", None)
    if lora is None:
        return None
    path = selection.select_one(restore)
    if path is None:
        raise ConfigError(
            "INITIAL_CHECKPOINT_PATH: not set; adapters (LORA_RANK) are tuned over the parameters "
            "of a checkpoint"
        )
    params, source = load(path, program.abstract_frozen(), config=program.model.config)
    trained, kept = map(parameters.count_params, (module.trainable, module.frozen))
    multihost.say(
        f"adapters of rank {lora.rank}: {trained:,} parameters over the {kept:,} of {path} "
        f"({100 * trained / (trained + kept):.2g}%){_stored(params)}"
    )
    eos_ids = eos_ids_for(program.model, source.meta)
    return Base(lora, params, path, fingerprint_base(source), source.step, quantization, eos_ids)


def _stored(params: Params) -> str:
    """What four bits hold of the frozen parameters; '' where nothing is quantised."""
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, NF4))
    kernels = [leaf for leaf in leaves if isinstance(leaf, NF4)]
    if not kernels:
        return ""
    count = sum(math.prod(kernel.shape) for kernel in kernels)
    bits = 8 * sum(array.nbytes for array in jax.tree.leaves(kernels))
    return f"; {count:,} of these in NF4, {bits / count:.2f} bits each"


def check_resumed(model_dir: str, base: Base | None, meta: Mapping[str, Any]) -> None:
    """Refuses to go on with other adapters than a checkpoint's, or with another base.

    Alpha, for one, shows in no shape: the adapters would be resumed with another product.

    Args:
      model_dir: MODEL_DIR.
      base: from `load_base`.
      meta: of the checkpoint.

    Raises:
      ConfigError: they differ, or only one of both tunes adapters.
    """
    lora = lora_in(meta)
    if base is None:
        if lora is not None:
            raise ConfigError(
                f"{model_dir}: a run that tunes adapters of rank {lora.rank}; allowed: LORA_RANK "
                "as it was, or another MODEL_DIR to tune all parameters"
            )
        return
    adapters.check_base(model_dir, meta, base.fingerprint, base.path, base.quantization)
    assert lora is not None  # `check_base` refuses what holds none
    own, wanted = lora.describe(), base.lora.describe()
    # Dropout changes none of the products that the checkpoint stands for.
    changed = [name for name in own if name != "dropout" and own[name] != wanted[name]]
    if changed:
        name = changed[0]
        raise ConfigError(
            f"{model_dir}: LoRA.{name}: {wanted[name]!r}, but the run has {own[name]!r}; allowed: "
            "the same, or another MODEL_DIR"
        )


def start(
    program: Program, restore: RestoreCheckpointConfig | None, random_seed: int, base: Base
) -> TrainState:
    """Fresh adapters, or those of ADAPTER, with a new optimizer.

    Raises:
      ConfigError: ADAPTER is none, or one of another base.
    """
    path = restore.adapter if restore else None
    if path is None:
        state = program.init_state(jax.random.key(random_seed))
        return dataclasses.replace(state, step=state.step + base.step)
    adapter = adapters.open_adapter(path, program.model.config)
    adapter.check_base(base.fingerprint, base.path)
    adapter.warn_of_kernels(base.quantization, base.path)
    multihost.say(f"continuing from the adapter {path}, with a new optimizer")
    params = adapters.place(adapter.params, program.abstract_state().params)
    return program.state_from_params(params, base.step)
