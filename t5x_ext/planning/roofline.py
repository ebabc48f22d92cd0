"""Adds up the costs of a compiled program and estimates how long it takes.

The time is a roofline, instruction by instruction: max(FLOPs / peak, HBM bytes / bandwidth), times
the rounds of the loops around it. Collectives go over links that work in parallel with the chip, so
an asynchronous one costs only what the instructions between its start and its end do not hide.

Left out: vector arithmetic, latencies, how well a product fills the matrix units, waiting for the
host, and links that several collectives share. A real step is slower, never faster.
"""

from __future__ import annotations

import collections
import dataclasses
import re

from t5x_ext.planning.costs import (
    Collective,
    CostModel,
    ends_chain,
    has_known_cost,
    is_kernel,
    starts_chain,
)
from t5x_ext.planning.devices import Device
from t5x_ext.planning.hlo import Computation, Instruction, Module
from t5x_ext.planning.loops import Arguments, LoopCounter, unknown

_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Traffic:
    """All collectives of one kind and group size.

    Attributes:
      count: how often one runs.
      payload_bytes: bytes of the whole arrays exchanged.
      wire_bytes: bytes that each device sends.
    """

    count: float = 0
    payload_bytes: float = 0
    wire_bytes: float = 0


@dataclasses.dataclass
class Totals:
    """Costs of a program on one device, every loop counted as often as it runs.

    Attributes:
      flops: of matrix products.
      hbm_bytes: traffic.
      collectives: `Traffic` by (kind, group size).
      operation_secs: sum of the rooflines of all instructions, collectives left out.
      exposed_secs: time in which the chip waits for a collective.
      kernels: hand-written kernels in the program's text.
      kernels_without_cost: those of them whose FLOPs are missing, since they declare none.
      unknown_loops: loops counted once, because data alone ends them.
    """

    flops: float = 0
    hbm_bytes: float = 0
    collectives: dict[tuple[str, int], Traffic] = dataclasses.field(default_factory=dict)
    operation_secs: float = 0
    exposed_secs: float = 0
    kernels: int = 0
    kernels_without_cost: int = 0
    unknown_loops: int = 0

    @property
    def step_secs(self) -> float:
        """The estimate."""
        return self.operation_secs + self.exposed_secs

    @property
    def wire_bytes(self) -> float:
        """Bytes that each device sends."""
        return sum(traffic.wire_bytes for traffic in self.collectives.values())

    def add(self, other: Totals, times: float = 1) -> None:
        """Adds costs that come up `times` times."""
        self.flops += other.flops * times
        self.hbm_bytes += other.hbm_bytes * times
        self.operation_secs += other.operation_secs * times
        self.exposed_secs += other.exposed_secs * times
        self.kernels += other.kernels
        self.kernels_without_cost += other.kernels_without_cost
        self.unknown_loops += other.unknown_loops
        for key, traffic in other.collectives.items():
            self._add_traffic(key, traffic, times)

    def add_collective(self, one: Collective) -> None:
        """Adds one exchange."""
        traffic = Traffic(1, one.payload_bytes, one.wire_bytes)
        self._add_traffic((one.kind, one.group_size), traffic, 1)

    def _add_traffic(self, key: tuple[str, int], more: Traffic, times: float) -> None:
        held = self.collectives.get(key, Traffic())
        self.collectives[key] = Traffic(
            held.count + more.count * times,
            held.payload_bytes + more.payload_bytes * times,
            held.wire_bytes + more.wire_bytes * times,
        )


def estimate(module: Module, device: Device, num_devices: int) -> Totals:
    """Costs of a whole program.

    Args:
      module: optimised HLO; scheduled, for the overlap of collectives to mean anything.
      device: what it runs on.
      num_devices: how many of them.
    """
    walk = _Walk(module, device, num_devices)
    return walk.computation(module.computations[module.entry], unknown)


def estimate_round(module: Module, device: Device, num_devices: int, scope: str) -> Totals | None:
    """Costs of one round of the outermost loop that was traced under a `jax.named_scope`.

    Args:
      module: as of `estimate`.
      device: what it runs on.
      num_devices: how many of them.
      scope: the name.

    Returns:
      The round's costs, those of its condition included; None if there is no such loop.
    """
    walk = _Walk(module, device, num_devices)
    endings = f"{scope}/while", f"{scope})/while"
    for computation in module.computations.values():
        for instruction in computation:
            name = _OP_NAME.search(instruction.attributes)
            # A transformation puts the scope's name in parentheses: vmap(scope).
            if instruction.opcode == "while" and name and name[1].endswith(endings):
                return walk.round(instruction, unknown)
    return None


class _Links:
    """Collectives under way in one computation, seen from its clock (seconds of operations)."""

    def __init__(self, bytes_per_sec: float) -> None:
        self._bytes_per_sec = bytes_per_sec
        self._free_at = 0.0
        self._arrivals: dict[str, float] = {}
        self._chains: collections.deque[float] = collections.deque()

    def start(self, instruction: Instruction, wire_bytes: float, now: float) -> None:
        self._free_at = max(self._free_at, now) + wire_bytes / self._bytes_per_sec
        if starts_chain(instruction):
            self._chains.append(self._free_at)
        else:
            self._arrivals[instruction.name] = self._free_at

    def wait(self, instruction: Instruction, now: float) -> float:
        """Seconds until what an instruction waits for has arrived."""
        if ends_chain(instruction):
            arrival = self._chains.popleft() if self._chains else now
        else:
            arrival = self._arrivals.pop(instruction.operands[0], now)
        return max(arrival - now, 0.0)

    def exchange(self, wire_bytes: float, now: float) -> float:
        """Seconds that a synchronous collective takes, after those under way."""
        self._free_at = max(self._free_at, now) + wire_bytes / self._bytes_per_sec
        return self._free_at - now


class _Walk:
    def __init__(self, module: Module, device: Device, num_devices: int) -> None:
        self._module = module
        self._device = device
        self._costs = CostModel(module, num_devices)
        self._loops = LoopCounter(module)

    def computation(self, computation: Computation, arguments: Arguments) -> Totals:
        totals = Totals()
        links = _Links(self._device.link_bytes_per_sec)
        for instruction in computation:
            self._called(instruction, computation, arguments, totals)
            self._operation(instruction, computation, totals)
            now = totals.step_secs
            found = self._costs.collectives(instruction, computation)
            for one in found:
                totals.add_collective(one)
            wire_bytes = sum(one.wire_bytes for one in found)
            is_async = instruction.opcode.endswith("-start") or starts_chain(instruction)
            if found and is_async:
                links.start(instruction, wire_bytes, now)
            elif found:
                totals.exposed_secs += links.exchange(wire_bytes, now)
            elif instruction.opcode.endswith("-done") or ends_chain(instruction):
                totals.exposed_secs += links.wait(instruction, now)
        return totals

    def round(self, loop: Instruction, arguments: Arguments) -> Totals:
        """Costs of a loop's body and of asking whether it continues."""
        totals = self.computation(self._module.called(loop, "body"), arguments)
        totals.add(self.computation(self._module.called(loop, "condition"), arguments))
        return totals

    def _operation(
        self, instruction: Instruction, computation: Computation, totals: Totals
    ) -> None:
        if is_kernel(instruction):
            totals.kernels += 1
            totals.kernels_without_cost += not has_known_cost(instruction)
        flops = self._costs.flops(instruction, computation)
        moved = self._costs.hbm_bytes(instruction, computation)
        totals.flops += flops
        totals.hbm_bytes += moved
        device = self._device
        totals.operation_secs += max(flops / device.flops_per_sec, moved / device.hbm_bytes_per_sec)

    def _called(
        self,
        instruction: Instruction,
        computation: Computation,
        arguments: Arguments,
        totals: Totals,
    ) -> None:
        """Adds what an instruction runs that is not fused into it."""
        if instruction.opcode == "while":
            rounds = self._loops.trip_count(instruction, computation, arguments)
            inner = self._loops.body_arguments(instruction, computation, arguments)
            one = self.round(instruction, inner)
            one.unknown_loops += rounds is None
            totals.add(one, 1 if rounds is None else rounds)
        elif instruction.opcode == "call":
            totals.add(self.computation(self._module.called(instruction, "to_apply"), unknown))
        elif instruction.opcode == "conditional":
            branches = _branches(instruction)
            for name in branches:  # any of them may run: their mean
                branch = self.computation(self._module.computations[name], unknown)
                totals.add(branch, 1 / len(branches))


def _branches(conditional: Instruction) -> list[str]:
    listed = conditional.attributes.partition("branch_computations={")[2].partition("}")[0]
    if listed:
        return [name.strip().lstrip("%") for name in listed.split(",")]
    return [conditional.attribute(f"{side}_computation") for side in ("true", "false")]
