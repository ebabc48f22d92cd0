"""What a training run carries from step to step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel, nf4, parameters
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.training.optimizers import Optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Donated to every step and saved in every checkpoint.

    Attributes:
      step: int32 scalar, updates applied so far (including those of an initial checkpoint).
      params: nested dictionary of float32 arrays: all parameters, or the adapters where the
        network has any (`Network.trainable`).
      opt_state: optimizer slots; their layout belongs to the optimizer.
    """

    step: jax.Array
    params: Any
    opt_state: Any


def state_shardings(
    model: BaseTransformerModel, optimizer: Optimizer, partitioner: PjitPartitioner
) -> TrainState:
    """The layout of a `TrainState` on the mesh.

    A slot with the shape of its parameter lives where the parameter lives; smaller slots
    (factored moments, counters) are replicated.

    Raises:
      ConfigError: quantised parameters are to be trained.
    """
    quantization = model.module.quantization
    if quantization is not None and not model.module.frozen:
        raise ConfigError(
            f"QUANTIZATION: {quantization!r} without LORA_RANK; quantised parameters are frozen: "
            "allowed with adapters only"
        )
    axes = parameters.param_axes(model.module.trainable)
    abstract = parameters.abstract_params(model.module.trainable)
    param_shardings = partitioner.param_shardings(axes, abstract)
    replicated = partitioner.sharding(())
    by_path = {
        parameters.path_name(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(abstract),
            jax.tree.leaves(param_shardings),
            strict=True,
        )
    }

    def slot(path: Any, leaf: jax.ShapeDtypeStruct) -> Any:
        # The parameter's path is within the slot's: 'mu/encoder/.../kernel' of AdamW,
        # 'slots/encoder/.../kernel/m' of Adafactor.
        parts = parameters.path_name(path).split("/")
        for start in range(len(parts)):
            for end in (len(parts), len(parts) - 1):
                shape, sharding = by_path.get("/".join(parts[start:end]), (None, None))
                if shape == leaf.shape:
                    return sharding
        return replicated

    abstract_slots = jax.eval_shape(optimizer.init, abstract)
    opt_shardings = jax.tree_util.tree_map_with_path(slot, abstract_slots)
    step: Any = replicated
    return TrainState(step=step, params=param_shardings, opt_state=opt_shardings)


def abstract_state(
    model: BaseTransformerModel, optimizer: Optimizer, partitioner: PjitPartitioner
) -> TrainState:
    """Shapes, dtypes and shardings of the whole state; nothing is allocated."""
    abstract = parameters.abstract_params(model.module.trainable)
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
    shapes = TrainState(
        step=step,
        params=abstract,
        opt_state=jax.eval_shape(optimizer.init, abstract),
    )
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
        shapes,
        state_shardings(model, optimizer, partitioner),
    )


def create_state(
    model: BaseTransformerModel,
    optimizer: Optimizer,
    partitioner: PjitPartitioner,
    key: jax.Array,
) -> TrainState:
    """A fresh state with random parameters, made directly in its sharded layout."""

    def init(key: jax.Array) -> TrainState:
        model_params = model.module.init_trainable(key)
        return TrainState(jnp.int32(0), model_params, optimizer.init(model_params))

    return jax.jit(init, out_shardings=state_shardings(model, optimizer, partitioner))(key)


def state_from_params(
    model_params: Any,
    model: BaseTransformerModel,
    optimizer: Optimizer,
    partitioner: PjitPartitioner,
    step: int = 0,
) -> TrainState:
    """A state that starts from given parameters with an empty optimizer.

    The parameters become part of the state and are consumed by the first step; a caller that
    needs them again copies them first.
    """
    layout = state_shardings(model, optimizer, partitioner)
    opt_state = jax.jit(optimizer.init, out_shardings=layout.opt_state)(model_params)
    return TrainState(jax.device_put(jnp.int32(step), layout.step), model_params, opt_state)


def abstract_params(model: BaseTransformerModel, partitioner: PjitPartitioner) -> Any:
    """Shapes, dtypes and shardings of all parameters; nothing is allocated."""
    return _quantised(model, model.specs, _abstract(model.specs, partitioner), partitioner)


def abstract_frozen(model: BaseTransformerModel, partitioner: PjitPartitioner) -> Any:
    """The same of the parameters under adapters, kernels in the compute dtype; {} without."""
    frozen = _abstract(model.module.frozen, partitioner)
    dtype = model.config.dtype
    cast = parameters.map_specs(
        lambda spec, s: s.update(dtype=dtype) if spec.is_kernel else s, model.module.frozen, frozen
    )
    return _quantised(model, model.module.frozen, cast, partitioner)


def _quantised(
    model: BaseTransformerModel, specs: Any, abstract: Any, partitioner: PjitPartitioner
) -> Any:
    if model.module.quantization is None:
        return abstract
    return nf4.quantise_abstract(specs, abstract, partitioner)


def _abstract(specs: Any, partitioner: PjitPartitioner) -> Any:
    abstract = parameters.abstract_params(specs)
    shardings = partitioner.param_shardings(parameters.param_axes(specs), abstract)
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
        abstract,
        shardings,
    )
