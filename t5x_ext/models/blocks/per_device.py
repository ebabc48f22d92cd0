"""Kernels that know nothing of meshes, run by every device on its own rows and heads."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from t5x_ext.models.blocks.pattern import Heads
from t5x_ext.partitioning import active_partitioner

# (query [B, Q, H*C], key [B, K, G*C], value [B, K, G*C], query segments int32 [B, Q], key segments
# int32 [B, K]) -> [B, Q, H*C]
Kernel = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def model_shards() -> int:
    """Devices that share the heads of a row."""
    partitioner = active_partitioner()
    return 1 if partitioner is None else partitioner.num_model_shards


def uneven(heads: Heads) -> str | None:
    """How the heads fail to divide among devices, or None. A single key head is on all of them."""
    parts = model_shards()
    if heads.num_heads % parts:
        return f"{heads.num_heads} heads on {parts} devices along `model`"
    if heads.kv > 1 and heads.kv % parts:
        return f"{heads.kv} key heads on {parts} devices along `model`"
    return None


def per_device(kernel: Kernel, heads: Heads) -> Kernel:
    """`kernel` on arrays of the whole mesh: each device calls it with its rows and heads."""
    partitioner = active_partitioner()
    if partitioner is None:
        return kernel
    queries = partitioner.spec(("batch", "length", "joined_kv"))
    keys = partitioner.spec(("batch", "length", "joined_kv" if heads.kv > 1 else "kv"))
    segments = PartitionSpec(queries[0], None)
    return jax.shard_map(
        kernel,
        mesh=partitioner.mesh,
        in_specs=(queries, keys, keys, segments, segments),
        out_specs=queries,
        check_vma=False,  # a kernel does not say over which axes its results vary
    )


def is_on_tpu() -> bool:
    """Whether what is being traced will run on TPUs, described ones included."""
    partitioner = active_partitioner()
    return (jax.default_backend() if partitioner is None else partitioner.platform) == "tpu"
