"""Where the decoder's weights lie while tokens are made.

Parameters split over `fsdp` would have to be gathered for every token, which takes longer than all
the arithmetic. So they are gathered once, before the first token, where there is room:

    what stays on a device + weights, whole but for `model` + keys and values <= 80% of its memory

Each term follows from shapes alone, so that all hosts decide alike. The rest is for the prompts'
activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from t5x_ext.models import parameters
from t5x_ext.models.generation import Generator
from t5x_ext.models.nf4 import NF4
from t5x_ext.partitioning import PjitPartitioner

MEMORY_SHARE = 0.8


def holds_whole_weights(
    generator: Generator,
    partitioner: PjitPartitioner,
    cache_bytes: int,
    resident_bytes: int = 0,
    num_models: int = 1,
) -> bool:
    """Whether each device has room for weights that only `model` splits.

    Args:
      generator: the model.
      partitioner: the mesh.
      cache_bytes: see `cache_bytes`.
      resident_bytes: what stays on each device besides the parameters, such as an optimizer's
        slots.
      num_models: E, models that decode side by side.
    """
    of_slot = max(num_models // partitioner.num_expert_slots, 1)
    params = params_bytes(generator, partitioner)
    weights = weights_bytes(generator, partitioner)
    own = params.own + weights.own + cache_bytes
    held = resident_bytes + params.shared + weights.shared + of_slot * own
    return held <= MEMORY_SHARE * partitioner.memory_bytes


class Bytes(NamedTuple):
    """Bytes on each device.

    Attributes:
      own: held separately by each of the models that decode together.
      shared: of what lies under the adapters of all.
    """

    own: int
    shared: int


def weights_bytes(generator: Generator, partitioner: PjitPartitioner) -> Bytes:
    """Of the decoder's weights in the compute dtype, split by `model` only."""
    weights = jax.eval_shape(generator.prepare, generator.abstract_params())
    _, models = generator.models_axes()
    return _sum(partitioner, weights, generator.weight_axes(), models, partitioner.gathered_spec)


def params_bytes(generator: Generator, partitioner: PjitPartitioner) -> Bytes:
    """Of the parameters as training lays them out."""
    params, axes = generator.abstract_params(), parameters.param_axes(generator.specs)
    models, _ = generator.models_axes()
    return _sum(partitioner, params, axes, models, partitioner.spec)


def _sum(
    partitioner: PjitPartitioner,
    arrays: Any,
    axes: Any,
    models: Any,
    spec_of: Callable[[tuple[str | None, ...]], PartitionSpec],
) -> Bytes:
    def one(leaf: jax.ShapeDtypeStruct | NF4, axes: tuple[str | None, ...]) -> int:
        if isinstance(leaf, NF4):
            return leaf.bytes_per_device(partitioner, spec_of(axes))
        return partitioner.bytes_per_device(leaf, spec_of(axes))

    is_leaf = lambda x: isinstance(x, NF4)  # noqa: E731
    sizes = jax.tree.leaves(jax.tree.map(one, arrays, axes, is_leaf=is_leaf))
    owns = [axis is not None for axis in jax.tree.leaves(models, is_leaf=lambda x: x is None)]
    own = sum(size for size, is_own in zip(sizes, owns, strict=True) if is_own)
    return Bytes(own, sum(sizes) - own)


def cache_bytes(
    generator: Generator,
    partitioner: PjitPartitioner,
    batch_size: int,
    input_length: int,
    ends: Sequence[int],
    num_rows: int = 1,
) -> int:
    """Bytes on each device of keys and values, of a batch at the end of each of these stages.

    Args:
      generator: the model.
      partitioner: the mesh.
      batch_size: prompts, global.
      input_length: tokens of the longest prompt.
      ends: positions decoded so far, one entry for each batch.
      num_rows: K, rows that share a prompt.
    """
    positions = sum(input_length + num_rows * end for end in ends)
    prompts = partitioner.round_up_batch(batch_size) // partitioner.num_batch_shards
    total = 0
    for shape in generator.cache_shapes:
        whole = prompts * positions * shape.bytes_per_position
        divides = shape.num_kv_heads % partitioner.num_model_shards == 0
        total += whole // partitioner.num_model_shards if divides else whole
    return total
