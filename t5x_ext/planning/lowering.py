"""What is compiled: the steps of a run, traced with the shapes and shardings of their arguments."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from t5x_ext.data.features import Features, Lengths
from t5x_ext.data.packing import lay_out
from t5x_ext.decoding import placement
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.loop import PromptExtras, decode_batch
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.decoding.stages import stage_ends
from t5x_ext.models import parameters
from t5x_ext.partitioning import EXPERT_AXIS, PjitPartitioner
from t5x_ext.training.experts import ExpertProgram
from t5x_ext.training.trainer import Program


@dataclasses.dataclass(frozen=True)
class Workload:
    """The shape of a batch.

    Attributes:
      rows: global.
      input_length: encoder positions.
      target_length: decoder positions.
      pack: whether rows hold several examples; "batch": each batch's are joined.
    """

    rows: int
    input_length: int
    target_length: int
    pack: bool | str = False


def lower_train_step(program: Program, workload: Workload, experts: int) -> jax.stages.Lowered:
    """The train step, ready to be compiled for the devices of the program's partitioner."""
    program.partitioner.check_batch(workload.rows, program.trainer.num_microbatches or 1)
    step: Any = program.train_step if experts == 1 else ExpertProgram(program, experts).train_step
    lengths = {"inputs": workload.input_length, "targets": workload.target_length}
    row_lengths = program.model.features.limits(lengths)
    return step.lower(*train_arguments(program, workload.rows, row_lengths, experts))


def train_arguments(
    program: Program, rows: int, row_lengths: Lengths, experts: int
) -> tuple[Any, ...]:
    """What training gives to the train step, as shapes, dtypes and shardings.

    A step that is compiled for these is not compiled again when training comes to it.

    Args:
      program: the step.
      rows: of a batch, global.
      row_lengths: positions of a row, as `TrainBatches.row_lengths` has them.
      experts: models that train side by side.
    """
    state = stack(program.abstract_state(), experts)
    features, partitioner = program.model.features, program.partitioner
    batch = stack(abstract_batch(features, rows, row_lengths, partitioner), experts)
    key = jax.eval_shape(lambda: jax.random.key(0))
    if experts == 1:
        return state, batch, key, program.abstract_frozen()
    keys = jax.ShapeDtypeStruct((experts,), key.dtype)
    active = jax.ShapeDtypeStruct((experts,), jnp.bool_)
    return state, batch, keys, active, program.abstract_frozen()


def lower_decoding(program: Program, workload: Workload, experts: int) -> jax.stages.Lowered:
    """Greedy decoding of one batch to its longest possible outputs, ready to be compiled."""
    decode, *arguments = decoding_call(program, workload, experts)
    return decode.lower(*arguments)


def decoding_call(program: Program, workload: Workload, experts: int) -> tuple[Any, ...]:
    """The jitted function of `lower_decoding`, and its arguments as shapes and shardings."""
    params = abstract_models(program, experts)
    whole = holds_whole_weights(program, workload, experts)
    program, experts = _decoding_program(program, experts)
    partitioner, generator = program.partitioner, program.model.generator
    rows = partitioner.round_up_batch(workload.rows)
    # Which id ends a row, and a few beyond the vocabulary's, change nothing that costs.
    ids = OutputIds(eos=(1,), num_valid=program.model.config.vocab_size)
    limit = workload.target_length
    axis_name = EXPERT_AXIS if experts > 1 else None

    def decode(params: Any, prompts: jax.Array, adapters: jax.Array | None) -> jax.Array:
        lengths = jnp.full(rows, workload.input_length)
        extras = PromptExtras(adapters=adapters)
        with partitioner.activate():
            return decode_batch(
                generator, params, prompts, lengths, limit, ids, None, axis_name, whole, extras
            )

    if experts > 1:
        in_axes = (generator.models_axes()[0], 0, 0)
        decode = jax.vmap(decode, in_axes, axis_name=EXPERT_AXIS, spmd_axis_name=EXPERT_AXIS)

    def of_rows(*shape: int) -> Any:
        axes = ("batch", None)[: len(shape)]
        one = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=partitioner.sharding(axes))
        return stack(one, experts)

    adapters = of_rows(rows) if _has_adapter_a_row(program) else None
    prompts = of_rows(rows, workload.input_length)
    return jax.jit(decode, out_shardings=partitioner.sharding(())), params, prompts, adapters


def _decoding_program(program: Program, experts: int) -> tuple[Program, int]:
    """What decodes the prompts of models that were tuned together, and how many of it there are.

    Adapters are as many as the mesh has slots: one network holds those of a slot, and each batch
    has rows of any of them.
    """
    if experts == 1 or not program.model.module.frozen:
        return program, experts
    slots = program.partitioner.num_expert_slots
    model = program.model.with_adapters(experts // slots)
    return dataclasses.replace(program, model=model), slots


def _has_adapter_a_row(program: Program) -> bool:
    return program.model.module.num_adapters is not None


def abstract_models(program: Program, experts: int) -> Any:
    """The parameters that several models decode with; those under adapters are there once."""
    program, experts = _decoding_program(program, experts)
    own = parameters.select(program.model.module.trainable, program.abstract_params())
    return parameters.join(program.abstract_frozen(), stack(own, experts))


def waiting_bytes(program: Program, workload: Workload, experts: int) -> int:
    """Bytes on each device of rows that wait for a later stage: up to one batch for each stage.

    A row keeps keys and values of its prompt and of the positions decoded so far.
    """
    ends = stage_ends(workload.target_length, Decoder.first_stage)
    program, experts = _decoding_program(program, experts)
    slots = program.partitioner.num_expert_slots
    return max(experts // slots, 1) * _cache_bytes(program, workload, ends[:-1])


def holds_whole_weights(program: Program, workload: Workload, experts: int) -> bool:
    """Whether decoding gathers the decoder's weights once, before the first token."""
    ends = stage_ends(workload.target_length, Decoder.first_stage)
    program, experts = _decoding_program(program, experts)
    return placement.holds_whole_weights(
        program.model.generator,
        program.partitioner,
        _cache_bytes(program, workload, ends),
        num_models=experts,
    )


def _cache_bytes(program: Program, workload: Workload, ends: Sequence[int]) -> int:
    """Bytes on each device of the keys and values of one model's batches, see `placement`."""
    return placement.cache_bytes(
        program.model.generator, program.partitioner, workload.rows, workload.input_length, ends
    )


def stack(tree: Any, experts: int) -> Any:
    """Abstract arrays of one model -> of several, split over the mesh's `expert` axis."""
    if experts == 1:
        return tree

    def one(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec = PartitionSpec(EXPERT_AXIS, *leaf.sharding.spec)
        sharding = NamedSharding(leaf.sharding.mesh, spec)
        return jax.ShapeDtypeStruct((experts, *leaf.shape), leaf.dtype, sharding=sharding)

    return jax.tree.map(one, tree)


def abstract_batch(
    features: Features, rows: int, row_lengths: Lengths, partitioner: PjitPartitioner
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of a batch's features, read off a batch of no rows."""
    nothing = lay_out(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int))
    sharding = partitioner.sharding(("batch", None))
    return {
        name: jax.ShapeDtypeStruct((rows, array.shape[1]), array.dtype, sharding=sharding)
        for name, array in features.build([], [], nothing, row_lengths).items()
    }


def bytes_per_device(tree: Any) -> int:
    """Bytes that one device holds of abstract arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
