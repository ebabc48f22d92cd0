"""A parameter's declaration on a Flax NNX module, and stacks of equal layers."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_ext.models.parameters import Initializer, Params, ParamSpec, stacked_init

M = TypeVar("M", bound=nnx.Module)

LAYERS = "layers"  # the leading axis of a stack's parameters


def param(
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    init: Initializer,
    is_kernel: bool = False,
    is_adapter: bool = False,
) -> nnx.Param:
    """Declares a float32 parameter; see `ParamSpec`. No array is made.

    The metadata has names of our own: under Flax's (`sharding`), values would be placed on a mesh
    as soon as they are set.
    """
    abstract: Any = jax.ShapeDtypeStruct(shape, jnp.float32)
    return nnx.Param(abstract, axes=axes, init=init, is_kernel=is_kernel, is_adapter=is_adapter)


def stacked(layer: M, num_layers: int) -> M:
    """Turns one layer into a stack: every parameter gets a leading axis `LAYERS`.

    `stack.scan_layers` walks it. One module stands for all layers, so parameter names have no
    layer numbers, and checkpoints, optimizers and meshes see one array for each kind of weight.
    """
    for _, variable in nnx.to_flat_state(nnx.state(layer)):
        metadata = variable.get_metadata()
        shape = (num_layers, *variable.get_value().shape)
        variable.set_metadata(axes=(LAYERS, *metadata["axes"]), init=stacked_init(metadata["init"]))
        variable.set_value(jax.ShapeDtypeStruct(shape, jnp.float32))
    return layer


def specs_of(module: nnx.Module) -> Params:
    """The tree of `ParamSpec` of a module that was built without arrays."""
    specs: Params = {}
    for path, variable in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        names = [str(name) for name in path]
        inner = specs
        for name in names[:-1]:
            inner = inner.setdefault(name, {})
        metadata = variable.get_metadata()
        shape = variable.get_value().shape
        inner[names[-1]] = ParamSpec(
            shape=shape,
            axes=metadata.get("axes", (None,) * len(shape)),
            init=metadata["init"],
            is_kernel=metadata.get("is_kernel", False),
            is_adapter=metadata.get("is_adapter", False),
        )
    return specs
