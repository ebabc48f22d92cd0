"""How many models of a study fit into one program.

A mesh with S devices along `expert` has S slots, each the devices of the other axes. A program
trains one model in each slot, or two, or more: each further one takes as much memory as the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from t5x_ext.errors import ConfigError
from t5x_ext.planning import compiling
from t5x_ext.planning.devices import GIB
from t5x_ext.planning.lowering import Workload, lower_train_step
from t5x_ext.training.trainer import Program

AUTO = "auto"


def check_experts(experts: int | str, axis: int) -> None:
    """Raises ConfigError unless that many models can be trained on that many slots."""
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
    """The most models of one slot that fit: 0 if not even one does.

    Each answer costs the compilation of a program, so guesses follow the line through two answers:
    those of one and two at first, then those of the most that fit and the fewest that do not. Once
    some do not fit, it is enough to fill nine tenths of the memory.

    Args:
      peak_bytes: models in each slot -> bytes on each device.
      available: bytes of a device.
      wanted: at most that many.
    """
    one = peak_bytes(1)
    if one > available:
        return 0
    (fit, fit_bytes), most = (1, one), wanted
    before = (fit, fit_bytes)
    too_many: tuple[int, int] | None = None
    number = min(2, wanted)
    while number > fit and not (too_many and fit_bytes >= 0.9 * available):
        peak = peak_bytes(number)
        if peak > available:
            too_many, most = (number, peak), number - 1
        else:
            before, (fit, fit_bytes) = (fit, fit_bytes), (number, peak)
        other, other_bytes = too_many or before
        each = max(math.ceil((other_bytes - fit_bytes) / (other - fit)), 1)
        number = min(fit + (available - fit_bytes) // each, most)
    return fit
