"""A plan: what a run needs on a machine, and what that takes and costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from t5x_ext.models import BaseTransformerModel
from t5x_ext.models.parameters import count_params
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning import compiling, lowering, roofline
from t5x_ext.planning.compiling import Compiled
from t5x_ext.planning.devices import Machine
from t5x_ext.planning.lowering import Workload
from t5x_ext.training.trainer import Program, Trainer


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run as its configuration states it.

    Attributes:
      model: the model and its optimizer.
      partitioner: the mesh; its devices are replaced by the machine's.
      trainer: microbatches and schedule.
      workload: a batch of training, of one model.
      num_steps: length of the run; None if only the data tells.
      includes_initial: whether these include the steps of an initial checkpoint that is not here.
      decoding: a batch of decoding, of one model; None if the run decodes nothing.
      experts: models that train, and decode, together in one program.
      use_hardware_rng: see `t5x_ext.train.train`.
      microbatches_name: what gin calls the number of microbatches of this run.
      trains: False for a run that only decodes; `decoding` is given then.
    """

    model: BaseTransformerModel
    partitioner: PjitPartitioner
    trainer: Trainer
    workload: Workload
    num_steps: int | None = None
    includes_initial: bool = False
    decoding: Workload | None = None
    experts: int = 1
    use_hardware_rng: bool = False
    microbatches_name: str = "NUM_MICROBATCHES"
    trains: bool = True

    @property
    def num_microbatches(self) -> int:
        """Parts of a batch."""
        return self.trainer.num_microbatches or 1

    @property
    def program(self) -> Program:
        """The functions that the run compiles."""
        return Program(self.model, self.partitioner, self.trainer)

    def on(self, machine: Machine) -> Setup:
        """The same run laid over a machine's devices."""
        devices = compiling.describe_devices(machine)
        return dataclasses.replace(
            self,
            partitioner=dataclasses.replace(
                self.partitioner, devices=devices, device_bytes=machine.device.memory_bytes
            ),
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What came out for one setup on one machine.

    Attributes:
      setup: laid over the machine's devices.
      machine: what it is for.
      price_per_chip_hour: US dollars.
      train: the compiled train step; None if it does not fit, or the run only decodes.
      needed_bytes: what it takes on each device.
      is_lower_bound: whether it takes more still: parameters, optimizer and gradients alone do not
        fit, and nothing was compiled.
      decoding: the compiled decoding of one batch; None if there is none or it does not fit.
      decoding_needed_bytes: what that takes; None if the run decodes nothing.
    """

    setup: Setup
    machine: Machine
    price_per_chip_hour: float
    train: Compiled | None
    needed_bytes: int
    is_lower_bound: bool = False
    decoding: Compiled | None = None
    decoding_needed_bytes: int | None = None

    @property
    def missing_bytes(self) -> int:
        """By how much the larger of training and decoding exceeds the memory of a device."""
        needed = max(self.needed_bytes, self.decoding_needed_bytes or 0)
        return max(needed - self.machine.device.memory_bytes, 0)

    @property
    def fits(self) -> bool:
        """Whether everything fits."""
        return self.missing_bytes == 0

    @property
    def model_flops(self) -> int | None:
        """FLOPs of one step by formula, all models and devices together; None if unknown."""
        load = self.setup.workload
        of_one = self.setup.model.module.train_flops(
            load.rows, load.input_length, load.target_length
        )
        return None if of_one is None else self.setup.experts * of_one

    @property
    def step_secs(self) -> float | None:
        """Estimated seconds of a train step."""
        return self.train.totals.step_secs if self.train and self.train.totals else None

    @property
    def tokens_per_sec(self) -> float | None:
        """Positions of encoder and decoder together, padding included."""
        load = self.setup.workload
        tokens = self.setup.experts * load.rows * (load.input_length + load.target_length)
        return tokens / self.step_secs if self.step_secs else None

    @property
    def utilization(self) -> float | None:
        """Model FLOPs as a share of what the machine could do in the time of a step (MFU)."""
        peak = self.machine.device.flops_per_sec * self.machine.count
        if self.step_secs is None or self.model_flops is None:
            return None
        return self.model_flops / (peak * self.step_secs)

    @property
    def decoding_secs(self) -> float | None:
        """Estimated seconds of decoding one batch to the longest possible outputs."""
        totals = self.decoding and self.decoding.totals
        return totals.step_secs if totals else None

    @property
    def whole_weights(self) -> bool | None:
        """Whether decoding gathers split weights once, not for every token; None without any."""
        load, setup = self.setup.decoding, self.setup
        if load is None:
            return None
        return lowering.holds_whole_weights(setup.program, load, setup.experts)

    @property
    def cache_bytes_per_position(self) -> int | None:
        """Keys and values that decoding caches of one position of one row; None without any."""
        if self.setup.decoding is None:
            return None
        return self.setup.model.generator.cache_shape.bytes_per_position

    @property
    def hours(self) -> float | None:
        """Hours of all steps; None if unknown."""
        if self.setup.num_steps is None or self.step_secs is None:
            return None
        return self.setup.num_steps * self.step_secs / 3600

    @property
    def dollars(self) -> float | None:
        """What these hours cost on all chips."""
        per_hour = self.machine.count * self.price_per_chip_hour
        return None if self.hours is None else self.hours * per_hour

    def as_record(self) -> dict[str, Any]:
        """What `--json` prints: plain numbers; bytes and FLOPs per device where not said."""
        setup, device = self.setup, self.machine.device
        return {
            "machine": {
                "name": self.machine.name,
                "device": device.name,
                "count": self.machine.count,
                "memory_bytes": device.memory_bytes,
                "price_per_chip_hour": self.price_per_chip_hour,
            },
            "method": compiling.describe_method(self.machine),
            "is_estimate": self.machine.topology is None,
            "model": {
                "params": count_params(setup.model.specs),
                "dtype": setup.model.config.dtype,
                "remat_policy": setup.model.config.remat_policy,
            },
            "batch": dataclasses.asdict(setup.workload)
            | {"num_microbatches": setup.num_microbatches},
            "mesh": setup.partitioner.axis_sizes,
            "fits": self.fits,
            "missing_bytes": self.missing_bytes,
            "needed_bytes": self.needed_bytes,
            "is_lower_bound": self.is_lower_bound,
            "model_flops_all_devices": self.model_flops,
            "train": _compiled_record(self.train),
            "decoding": _compiled_record(self.decoding),
            "decoding_batch": setup.decoding and dataclasses.asdict(setup.decoding),
            "decoding_needed_bytes": self.decoding_needed_bytes,
            "decoding_whole_weights": self.whole_weights,
            "decoding_cache_bytes_per_position": self.cache_bytes_per_position,
            "step_secs": self.step_secs,
            "tokens_per_sec": self.tokens_per_sec,
            "utilization": self.utilization,
            "decoding_secs": self.decoding_secs,
            "experts": setup.experts,
            "num_steps": setup.num_steps,
            "num_steps_include_initial": setup.includes_initial,
            "hours": self.hours,
            "dollars": self.dollars,
        }


def make_plan(setup: Setup, machine: Machine, price_per_chip_hour: float | None = None) -> Plan:
    """Compiles what a run does, for a machine.

    Args:
      setup: the run.
      machine: what it would run on.
      price_per_chip_hour: US dollars; None takes the built-in price.

    Raises:
      ConfigError: mesh, batch and model do not divide, or the machine cannot be described.
    """
    setup = setup.on(machine)
    if price_per_chip_hour is None:
        price_per_chip_hour = machine.device.price_per_hour
    if not setup.trains:
        return add_decoding(Plan(setup, machine, price_per_chip_hour, None, 0), setup.decoding)
    least = least_bytes(setup)
    if least > machine.device.memory_bytes:
        return Plan(setup, machine, price_per_chip_hour, None, least, is_lower_bound=True)
    program = setup.program
    with jax.default_prng_impl("unsafe_rbg" if setup.use_hardware_rng else "threefry2x32"):
        train, needed = _attempt(
            lambda: compiling.compile_train_step(program, setup.workload, machine, setup.experts)
        )
    return add_decoding(Plan(setup, machine, price_per_chip_hour, train, needed), setup.decoding)


def add_decoding(plan: Plan, decoding: Workload | None) -> Plan:
    """The same plan with decoding of such batches compiled too, if there are any."""
    setup = dataclasses.replace(plan.setup, decoding=decoding)
    plan = dataclasses.replace(plan, setup=setup)
    if decoding is None:
        return plan
    compiled, needed = _attempt(
        lambda: compiling.compile_decoding(setup.program, decoding, plan.machine, setup.experts)
    )
    return dataclasses.replace(plan, decoding=compiled, decoding_needed_bytes=needed)


def least_bytes(setup: Setup) -> int:
    """Bytes on each device below which no train step gets: parameters, optimizer and gradients.

    Gradients are counted with half a parameter's bytes: a compiler may keep them in bfloat16.
    Parameters under adapters are there once, without any.

    Args:
      setup: laid over a machine's devices.
    """
    state = lowering.stack(setup.program.abstract_state(), setup.experts)
    params = lowering.bytes_per_device(state.params)
    own = params + params // 2 + lowering.bytes_per_device(state.opt_state)
    return own + lowering.bytes_per_device(setup.program.abstract_frozen())


def _attempt(compile_step: Callable[[], Compiled]) -> tuple[Compiled | None, int]:
    """The compiled step, or None if it does not fit, and the bytes it needs."""
    try:
        compiled = compile_step()
    except compiling.OutOfMemory as error:
        return None, error.needed_bytes
    return compiled, compiled.memory.peak


def _compiled_record(compiled: Compiled | None) -> dict[str, Any] | None:
    if compiled is None:
        return None
    record: dict[str, Any] = {
        "memory_bytes": dataclasses.asdict(compiled.memory),
        "compile_secs": compiled.compile_secs,
    }
    if compiled.totals is not None:
        record |= _totals_record(compiled.totals)
    if compiled.token is not None:
        record["token"] = _totals_record(compiled.token)
    return record


def _totals_record(totals: roofline.Totals) -> dict[str, Any]:
    return {
        "flops": totals.flops,
        "hbm_bytes": totals.hbm_bytes,
        "wire_bytes": totals.wire_bytes,
        "collectives": [
            {"kind": kind, "group_size": size} | dataclasses.asdict(traffic)
            for (kind, size), traffic in sorted(totals.collectives.items())
        ],
        "operation_secs": totals.operation_secs,
        "exposed_collective_secs": totals.exposed_secs,
        "kernels_without_cost": totals.kernels_without_cost,
        "unknown_loops": totals.unknown_loops,
    }
