"""What is worth a program of its own: few prompts in few places, stages, prefixes read apart."""

from __future__ import annotations

from t5x_ext.partitioning import PjitPartitioner

# What is computed while a program of decoding is compiled, some 5 s on a CPU and 10 s on an
# accelerator, in FLOPs a device.
COMPILE_FLOPS, COMPILE_FLOPS_ON_CPU = 1e15, 5e11
# A batch for fewer prompts has a quarter of the places, so that few are ever compiled: 8, 2, 1.
SMALLER = 4
# How often a call is taken to be made with other prompts of its kind.
TIMES_ASKED = 10


def positions_per_program(partitioner: PjitPartitioner, num_params: int) -> int:
    """Positions that a model of that size computes while one more program is compiled."""
    flops = COMPILE_FLOPS_ON_CPU if partitioner.platform == "cpu" else COMPILE_FLOPS
    return int(flops * partitioner.mesh.devices.size / (2 * num_params))


def smaller_batch(partitioner: PjitPartitioner, batch_size: int) -> int:
    """Places of the next smaller batch that the mesh divides; the same where there is none."""
    return min(batch_size, partitioner.round_up_batch(-(-batch_size // SMALLER)))


def places_for(
    partitioner: PjitPartitioner, batch_size: int, count: int, length: int, worth: int
) -> int:
    """Places of the smallest batch for some prompts that saves what its programs cost.

    Args:
      partitioner: the mesh.
      batch_size: most places.
      count: prompts.
      length: positions of the longest, its answer included.
      worth: positions that one more program has to save, see `positions_per_program`.
    """
    most = places = partitioner.round_up_batch(batch_size)
    while count <= (fewer := smaller_batch(partitioner, places)) < places:
        places = fewer
    saved = TIMES_ASKED * (most - places) * length
    return places if saved > worth else most
