"""Compiles a step ahead of time, for a machine that is not here.

A TPU slice is described by libtpu, whose compiler runs on any host: memory and program are those
of the real run. GPUs are stood in for, so theirs are estimates: by the same compiler for as many
chips of TPU v5p where libtpu is installed, else by XLA's CPU compiler for as many virtual devices.
Parameters and optimizer are exact always: they follow from shapes and shardings.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from t5x_ext.decoding.loop import TOKEN_LOOP
from t5x_ext.errors import ConfigError
from t5x_ext.planning import hlo, roofline
from t5x_ext.planning.devices import GIB, Machine
from t5x_ext.planning.lowering import (
    Workload,
    abstract_models,
    bytes_per_device,
    lower_decoding,
    lower_train_step,
    stack,
    waiting_bytes,
)
from t5x_ext.training.trainer import Program

# libtpu looks for a TPU, for its neighbours and for a metadata server unless it is told not to.
# The accelerator type is that of any machine; the topology asked for is what counts.
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
# Arguments and results alone, or with temporaries.
_OUT_OF_MEMORY = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM")
_EXCEEDED = re.compile(
    r"of ([\d.]+)([KMGT]?) hbm\. Exceeded hbm capacity by ([\d.]+)([KMGT]?)\.", re.IGNORECASE
)


class OutOfMemory(Exception):
    """A program does not fit.

    Attributes:
      needed_bytes: what it would take on each device.
    """

    def __init__(self, needed_bytes: int) -> None:
        super().__init__(f"{needed_bytes} bytes")
        self.needed_bytes = needed_bytes


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    Attributes:
      params: parameters, from their shapes and shardings.
      optimizer: optimizer slots, likewise.
      temporaries: activations, gradients and everything else, at their highest.
      peak: all of it.
    """

    params: int
    optimizer: int
    temporaries: int
    peak: int


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled step.

    Attributes:
      memory: what it takes on each device.
      totals: what it costs; None if the compiler tells no more than that it would fit.
      compile_secs: how long the compiler took.
      token: of decoding, what one token costs, all rows of the batch together.
    """

    memory: Memory
    totals: roofline.Totals | None
    compile_secs: float
    token: roofline.Totals | None = None


def describe_devices(machine: Machine) -> list[Any]:
    """The machine's devices, to lay a mesh over; nothing can be computed on them.

    Raises:
      ConfigError: libtpu is missing or does not know the slice, or there are too few virtual
        CPU devices.
    """
    slice_ = _tpu_slice(machine)
    if slice_ is None:
        devices = jax.devices("cpu")
        if len(devices) < machine.count:
            raise ConfigError(
                f"--devices: {machine.name} with {len(devices)} virtual CPU devices; set XLA_FLAGS="
                f"--xla_force_host_platform_device_count={machine.count}"
            )
        return devices[: machine.count]
    os.environ.update(TPU_ENVIRONMENT)
    from jax.experimental import topologies

    try:
        topology = topologies.get_topology_desc(
            platform="tpu",
            topology_name=slice_.topology,
            chip_config_name=slice_.device.chip_config,
        )
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(f"--topology: {machine.name}: {str(error).splitlines()[0]}") from None
    return list(topology.devices)


def describe_method(machine: Machine) -> str:
    """How memory and costs are found for a machine, in a line."""
    slice_ = _tpu_slice(machine)
    if slice_ is None:
        return "estimate: program and temporaries as XLA's CPU compiler makes them, in float32"
    if machine.topology is None:
        return f"estimate: program and temporaries as the compiler for TPU {slice_.name} makes them"
    return "the program that libtpu compiles for this slice"


def _tpu_slice(machine: Machine) -> Machine | None:
    """The slice to compile for, None for virtual CPU devices."""
    has_libtpu = importlib.util.find_spec("libtpu") is not None
    if machine.topology is None:
        return machine.stand_in if has_libtpu else None
    if not has_libtpu:
        raise ConfigError("--topology: libtpu is not installed; pip install 't5x_ext[plan]'")
    return machine


def compile_train_step(
    program: Program, workload: Workload, machine: Machine, experts: int = 1
) -> Compiled:
    """Compiles the train step that a run would use.

    Args:
      program: with a partitioner over `describe_devices(machine)`.
      workload: the batch of one model.
      machine: what to compile for.
      experts: models that train together.

    Raises:
      OutOfMemory: it does not fit.
      ConfigError: batch, parameters and mesh do not divide.
    """
    state = stack(program.abstract_state(), experts)
    params = bytes_per_device(state.params) + bytes_per_device(program.abstract_frozen())
    optimizer = bytes_per_device(state.opt_state)
    return _compile(lower_train_step(program, workload, experts), params, optimizer, machine)


def compile_decoding(
    program: Program, workload: Workload, machine: Machine, experts: int = 1
) -> Compiled:
    """Compiles greedy decoding of one batch to its longest possible outputs.

    Its memory includes that of rows that wait for a later stage (`t5x_ext.decoding.stages`).

    Args:
      program: with a partitioner over `describe_devices(machine)`.
      workload: the batch of one model; its rows are rounded up to what the mesh divides, its
        target length is the longest output.
      machine: what to compile for.
      experts: models that decode together.

    Raises:
      OutOfMemory: it does not fit.
    """
    params = bytes_per_device(abstract_models(program, experts))
    waiting = waiting_bytes(program, workload, experts)
    try:
        compiled = _compile(lower_decoding(program, workload, experts), params, 0, machine)
    except OutOfMemory as error:
        raise OutOfMemory(error.needed_bytes + waiting) from None
    peak = compiled.memory.peak + waiting
    if peak > machine.device.memory_bytes:
        raise OutOfMemory(peak)
    memory = Memory(params, 0, peak - params, peak)
    return dataclasses.replace(compiled, memory=memory)


def parse_out_of_memory(message: str) -> int | None:
    """Bytes needed according to the compiler's message, None if it says something else."""
    match = _OUT_OF_MEMORY.search(message) or _EXCEEDED.search(message)
    if match is None:
        return None
    parts = iter(match.groups())
    return sum(int(float(number) * _UNITS[unit]) for number, unit in zip(parts, parts, strict=True))


def measure_peak(lowered: jax.stages.Lowered, platform: str) -> int:
    """Bytes that a program takes on each of the devices it was lowered for."""
    try:
        return _peak_bytes(lowered.compile().memory_analysis(), platform == "tpu")
    except jax.errors.JaxRuntimeError as error:
        needed = parse_out_of_memory(str(error))
        if needed is None:
            raise
        return needed


def _compile(
    lowered: jax.stages.Lowered, params: int, optimizer: int, machine: Machine
) -> Compiled:
    def memory(peak: int) -> Memory:
        return Memory(params, optimizer, max(peak - params - optimizer, 0), peak)

    is_tpu = _tpu_slice(machine) is not None
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as dump:
        try:
            compiled = lowered.compile({"xla_dump_to": dump} if is_tpu else None)
        except jax.errors.JaxRuntimeError as error:
            needed = parse_out_of_memory(str(error))
            if needed is None:
                raise
            if needed > machine.device.memory_bytes:
                raise OutOfMemory(needed) from None
            # The machine has more memory than the one that stands in for it.
            return Compiled(memory(needed), None, time.monotonic() - start)
        compile_secs = time.monotonic() - start
        peak = _peak_bytes(compiled.memory_analysis(), is_tpu)
        if peak > machine.device.memory_bytes:  # a stand-in has more memory than the machine
            raise OutOfMemory(peak)
        module = hlo.parse(_program_text(compiled, dump))
    cost = (module, machine.device, machine.count)
    token = roofline.estimate_round(*cost, TOKEN_LOOP)
    return Compiled(memory(peak), roofline.estimate(*cost), compile_secs, token)


def _program_text(compiled: jax.stages.Compiled, dump: str) -> str:
    """The optimised program; where it cannot be had from JAX, as the TPU compiler wrote it down.

    JAX does not know all forms of asynchronous instructions that programs for v5p have. What the
    compiler writes down says less of what it keeps in the chip's own memory, so that HBM traffic
    comes out higher from it.
    """
    try:
        with _without_native_log():
            return compiled.as_text()
    except jax.errors.JaxRuntimeError:
        programs = Path(dump).glob("*.jit_*.after_optimizations.txt")
        return max(programs, key=lambda path: path.stat().st_size).read_text()


@contextlib.contextmanager
def _without_native_log() -> Iterator[None]:
    """Drops what native code writes to standard error; here the stack trace of what it raises."""
    if sys.stderr is None:  # a process without standard error
        yield
        return
    sys.stderr.flush()
    original = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)


def _peak_bytes(stats: Any, is_tpu: bool) -> int:
    if is_tpu:
        return stats.peak_memory_in_bytes
    # The CPU compiler leaves temporaries out of its peak.
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes + results + stats.temp_size_in_bytes
