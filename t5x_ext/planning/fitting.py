"""How many models of a study fit into one program.

A mesh with S devices along `expert` has S slots, each the devices of the other axes. A program
trains one model in each slot, or two, or more: each further one takes as much memory as the second.
"""

from __future__ import annotations

from collections.abc import Callable

from t5x_ext.errors import ConfigError
from t5x_ext.planning import compiling
from t5x_ext.planning.devices import GIB
from t5x_ext.planning.lowering import Workload, lower_train_step
from t5x_ext.training.trainer import Program

AUTO = "auto"


def check_experts(experts: int | str, axis: int) -> None:
    """Raises ConfigError unless so many models can be trained on so many slots."""
    if experts != AUTO and not (isinstance(experts, int) and experts >= 1 and experts % axis == 0):
        raise ConfigError(
            f"EXPERTS: {experts!r}; allowed: '{AUTO}', or a multiple of the mesh's expert axis, "
            f"{axis}"
        )


def choose_experts(program: Program, workload: Workload, wanted: int) -> int:
    """As many models as fit into the devices that are here, found by compiling their train step.

    Args:
      program: what each model does.
      workload: the largest batch of one model.
      wanted: models that could be trained together.

    Raises:
      ConfigError: not even one model per slot fits.
    """
    slots, available = program.partitioner.num_expert_slots, program.partitioner.memory_bytes

    def peak_bytes(per_slot: int) -> int:
        lowered = lower_train_step(program, workload, per_slot * slots)
        return compiling.measure_peak(lowered, program.partitioner.platform)

    per_slot = most_per_slot(peak_bytes, available, -(-wanted // slots))
    if per_slot == 0:
        raise ConfigError(
            f"EXPERTS: '{AUTO}': one model in each of {slots} slots needs more than the "
            f"{available / GIB:.2f} GiB of a device; allowed: more devices a model (fsdp, model), "
            "more microbatches, a stronger REMAT_POLICY"
        )
    return per_slot * slots


def most_per_slot(peak_bytes: Callable[[int], int], available: int, wanted: int) -> int:
    """The most models of one slot that fit: 0 where not even one does.

    Args:
      peak_bytes: models in each slot -> bytes on each device; asked for one and for two.
      available: bytes of a device.
      wanted: at most so many.
    """
    one = peak_bytes(1)
    if one > available:
        return 0
    if wanted <= 1:
        return 1
    each = max(peak_bytes(2) - one, 1)
    return min(1 + (available - one) // each, wanted)
