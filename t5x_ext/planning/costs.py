"""What one HLO instruction costs on one device: FLOPs, bytes of HBM traffic, bytes on the wire.

FLOPs are those of matrix products (2 per multiply-add). Traffic is what crosses between HBM and
the chip: results and operands that the compiler placed in HBM, slices counted by their own size
and updates in place by what they write.
"""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

from t5x_ext.planning.hlo import HBM, Computation, Instruction, Module

_FREE = {
    "add-dependency",
    "after-all",
    "async-update",
    "bitcast",
    "constant",
    "domain",
    "get-tuple-element",
    "opt-barrier",
    "optimization-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "reshape",
    "tuple",
    "call",
    "conditional",
    "while",  # what they run is counted, not they
}
# Custom calls that move nothing: they name buffers for the compiler.
_FREE_TARGETS = {
    "AllocateBuffer",
    "ConcatBitcast",
    "PinToDevice",
    "SPMDFullToShardShape",
    "SPMDShardToFullShape",
    "Sharding",
    "X64Combine",
    "X64SplitHigh",
    "X64SplitLow",
}
_SLICES = {"slice", "dynamic-slice", "gather"}
COLLECTIVES = {
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
}

_KERNEL = '"tpu_custom_call"'
_KERNEL_FLOPS = re.compile(r'"cost_estimate":\{[^}]*"flops":"(\d+)"')
# JAX's splash attention declares no cost. These are the products for each head, of [L, C] and
# [C, L] or of [L, L] and [L, C], in each of its kernels.
_SPLASH = re.compile(r"splash_mha_(fwd|dq|dkv)_")
_SPLASH_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
_SPLASH_BLOCK = re.compile(r'block_q\w*\\":\s*(\d+)')
# A computation that overlaps a collective with other work carries copies of the collective.
_IN_FLIGHT = re.compile(r"chain_id=|AsyncCollective")


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices.

    Attributes:
      kind: HLO's opcode; an all-reduce of which each device keeps a slice is a 'reduce-scatter'.
      group_size: devices that take part.
      payload_bytes: bytes of the whole array that is exchanged: the larger of what a device gives
        and what it gets.
      chain: whether other computations carry copies of it, which are not counted.
    """

    kind: str
    group_size: int
    payload_bytes: int
    chain: bool = False

    @property
    def wire_bytes(self) -> float:
        """Bytes that each device sends, with the ring algorithms."""
        share = (self.group_size - 1) / self.group_size
        rounds = {
            "all-reduce": 2 * share,
            "all-gather": share,
            "reduce-scatter": share,
            "all-to-all": share,
            "ragged-all-to-all": share,
        }
        return rounds.get(self.kind, 1.0) * self.payload_bytes


class CostModel:
    """Costs of the instructions of one module.

    Args:
      module: parsed HLO.
      num_devices: devices the program runs on, for collectives over all of them.
    """

    def __init__(self, module: Module, num_devices: int) -> None:
        self._module = module
        self._num_devices = num_devices

    def flops(self, instruction: Instruction, computation: Computation) -> int:
        """FLOPs of matrix products; of a kernel, what its author declares or we know of it."""
        opcode = instruction.opcode
        if opcode == "convolution":
            return _convolution_flops(instruction, *computation.operands(instruction)[:2])
        if opcode == "dot":
            return _dot_flops(instruction, computation.operands(instruction)[0])
        if is_kernel(instruction):
            declared = _KERNEL_FLOPS.search(instruction.attributes)
            if declared:
                return int(declared.group(1))
            return _splash_flops(instruction, computation.operands(instruction))
        if opcode in ("fusion", "async-start"):
            inner = self._module.called(instruction)
            return sum(self.flops(i, inner) for i in inner)
        return 0

    def hbm_bytes(self, instruction: Instruction, computation: Computation) -> int:
        """Bytes read from and written to HBM."""
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done") or _is_free_call(instruction):
            return 0
        if opcode == "fusion":
            return self._fusion_bytes(instruction, computation)
        if opcode in ("copy-start", "slice-start"):
            return _async_copy_bytes(instruction)
        operands = computation.operands(instruction)
        if opcode == "async-start" or opcode.endswith("-start"):
            return 2 * sum(operand.hbm_bytes for operand in operands)
        if opcode in _SLICES:
            read = instruction.num_bytes if operands[0].hbm_bytes else 0
            return instruction.hbm_bytes + read
        if opcode == "dynamic-update-slice":
            update = operands[1]
            written = update.num_bytes if instruction.hbm_bytes else 0
            return written + update.hbm_bytes
        return instruction.hbm_bytes + sum(operand.hbm_bytes for operand in operands)

    def collectives(self, instruction: Instruction, computation: Computation) -> list[Collective]:
        """Exchanges that begin with an instruction, those inside a fusion included."""
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            return [self._collective(kind, instruction, computation)]
        if instruction.opcode not in ("fusion", "async-start"):
            return []
        inner = self._module.called(instruction)
        found = [c for i in inner for c in self.collectives(i, inner)]
        return found if starts_chain(instruction) else [c for c in found if not c.chain]

    def _collective(
        self, kind: str, instruction: Instruction, computation: Computation
    ) -> Collective:
        size = _group_size(instruction.attributes, self._num_devices)
        payload = sum(operand.num_bytes for operand in computation.operands(instruction))
        if kind == "all-gather":
            payload *= size
        users = computation.users[instruction.name]
        if kind == "all-reduce" and users and all(u.opcode == "dynamic-slice" for u in users):
            kind = "reduce-scatter"
        chain = "chain_id=" in instruction.attributes
        return Collective(kind, size, payload, chain)

    def _fusion_bytes(self, fusion: Instruction, computation: Computation) -> int:
        if starts_chain(fusion):
            return sum(array.num_bytes for array in fusion.arrays[:2] if array.space == HBM)
        if ends_chain(fusion):
            return 0
        inner = self._module.called(fusion)
        total = 0
        for number, operand in enumerate(computation.operands(fusion)):
            if operand.hbm_bytes:
                total += self._bytes_read(inner, inner.parameters[number].name, operand.hbm_bytes)
        root = inner.root
        results = inner.operands(root) if root.opcode == "tuple" else [root]
        if len(results) != len(fusion.arrays):  # a single instruction with several results
            return total + fusion.hbm_bytes
        for result, array in zip(results, fusion.arrays, strict=True):
            if array.space == HBM:
                total += min(self._bytes_written(inner, result), array.num_bytes)
        return total

    def _bytes_read(self, inner: Computation, name: str, whole: int) -> int:
        """How much of a value in HBM a fused computation reads."""
        total = sum(self._read_by(user, inner, name, whole) for user in inner.users[name])
        return min(total, whole)

    def _read_by(self, user: Instruction, inner: Computation, name: str, whole: int) -> int:
        if user.opcode in ("bitcast", "reshape"):
            return self._bytes_read(inner, user.name, whole)
        if user.opcode in _SLICES and user.operands[0] == name:
            return user.num_bytes
        if user.opcode == "dynamic-update-slice" and user.operands[1] != name:
            return 0  # updated in place
        if user.opcode == "fusion":
            nested = self._module.called(user)
            return sum(
                self._bytes_read(nested, nested.parameters[number].name, whole)
                for number, operand in enumerate(user.operands)
                if operand == name
            )
        if user.opcode == "tuple" or _IN_FLIGHT.search(user.attributes):
            return 0  # handed through
        return whole

    def _bytes_written(self, inner: Computation, result: Instruction) -> int:
        """How much of a fused computation's result it writes."""
        if result.opcode == "bitcast":
            return self._bytes_written(inner, inner.operands(result)[0])
        if result.opcode == "dynamic-update-slice":
            return inner.operands(result)[1].num_bytes
        if result.opcode == "fusion":
            nested = self._module.called(result)
            if nested.root.opcode != "tuple":
                return self._bytes_written(nested, nested.root)
        if result.opcode == "parameter" or _IN_FLIGHT.search(result.attributes):
            return 0
        return result.num_bytes


def is_kernel(instruction: Instruction) -> bool:
    """Whether it is a hand-written (Pallas) kernel."""
    return instruction.opcode == "custom-call" and _KERNEL in instruction.attributes


def has_known_cost(kernel: Instruction) -> bool:
    """Whether a kernel carries its author's `CostEstimate`, or is one whose products we know."""
    return bool(_KERNEL_FLOPS.search(kernel.attributes) or _SPLASH.match(kernel.name))


def _splash_flops(kernel: Instruction, operands: list[Instruction]) -> int:
    """FLOPs of JAX's causal splash attention; 0 for another kernel."""
    match = _SPLASH.match(kernel.name)
    if not match:
        return 0
    # Queries [..., L, C] are the first operand that is no number of a block or a segment.
    query = next(a for a in (one.arrays[0] for one in operands) if a.dtype[0] in "bf")
    block = _SPLASH_BLOCK.search(kernel.attributes)
    length = query.dims[-2]
    num_blocks = length // int(block.group(1)) if block else 1
    pairs = length**2 * (num_blocks + 1) // (2 * num_blocks)  # of queries and keys, of one head
    return (
        2 * _SPLASH_PRODUCTS[match.group(1)] * math.prod(query.dims[:-2]) * pairs * query.dims[-1]
    )


def starts_chain(instruction: Instruction) -> bool:
    """Whether a fusion begins a collective that later fusions continue during their own work."""
    return instruction.opcode == "fusion" and instruction.name.startswith("async-collective-start")


def ends_chain(instruction: Instruction) -> bool:
    """Whether a fusion waits for such a collective."""
    return instruction.opcode == "fusion" and instruction.name.startswith("async-collective-done")


def _is_free_call(instruction: Instruction) -> bool:
    if instruction.opcode != "custom-call":
        return False
    target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return bool(target) and target.group(1) in _FREE_TARGETS


def _async_copy_bytes(start: Instruction) -> int:
    """A copy between memories: (copy: destination, source; slice: source, destination, ...)."""
    if start.opcode == "copy-start":
        return sum(array.num_bytes for array in start.arrays[:2] if array.space == HBM)
    source, destination = start.arrays[0], start.arrays[-2]
    return destination.num_bytes * ((source.space == HBM) + (destination.space == HBM))


def _dot_flops(dot: Instruction, left: Instruction) -> int:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    axes = [int(axis) for axis in contracted.group(1).split(",") if axis] if contracted else []
    depth = math.prod(left.arrays[0].dims[axis] for axis in axes)
    return 2 * math.prod(dot.arrays[0].dims) * depth


def _convolution_flops(conv: Instruction, left: Instruction, right: Instruction) -> int:
    """FLOPs of a convolution, the form that matrix products take on a TPU.

    Only pairs of an output and a kernel position that meet a real input element count: compilers
    write batched products as convolutions whose window is mostly padding.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", conv.attributes)
    left_labels, right_labels, out_labels = labels.groups()
    sizes = {
        "in": dict(zip(left_labels, left.arrays[0].dims, strict=True)),
        "kernel": dict(zip(right_labels, right.arrays[0].dims, strict=True)),
        "out": dict(zip(out_labels, conv.arrays[0].dims, strict=True)),
    }
    axes = sorted(label for label in left_labels if label.isdigit())
    window = re.search(r"window=\{([^}]*)\}", conv.attributes)
    fields = dict(part.split("=") for part in window.group(1).split()) if window else {}

    def field(name: str, default: str) -> list[str]:
        return fields[name].split("x") if name in fields else [default] * len(axes)

    pairs = 1
    for axis, pad, stride, spread_in, spread_kernel in zip(
        axes,
        field("pad", "0_0"),
        field("stride", "1"),
        field("lhs_dilate", "1"),
        field("rhs_dilate", "1"),
        strict=True,
    ):
        outputs = np.arange(sizes["out"][axis])[:, None] * int(stride) - int(pad.split("_")[0])
        places = outputs + np.arange(sizes["kernel"][axis])[None, :] * int(spread_kernel)
        last = (sizes["in"][axis] - 1) * int(spread_in)
        real = (places >= 0) & (places <= last) & (places % int(spread_in) == 0)
        pairs *= int(real.sum())
    return 2 * sizes["out"]["b"] * sizes["out"]["f"] * sizes["kernel"]["i"] * pairs


def _group_size(attributes: str, num_devices: int) -> int:
    """Devices of one replica group, in any of HLO's notations."""
    iota = re.search(r"replica_groups=\[\d+,([\d,]+)\]<=", attributes)  # [groups,size]<=[...]
    if iota:
        return math.prod(int(size) for size in iota.group(1).split(","))
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)  # {{0,1},{2,3}}
    if listed:
        return len(listed.group(1).split(","))
    # mesh['x'=4,'y'=4] {'y'}, or a part of an axis {'x':(1)2}
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes)
    if mesh:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh.group(1)))
        named = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh.group(2))
        return math.prod(int(part or sizes[axis]) for axis, part in named)
    return 2 if "source_target_pairs=" in attributes else num_devices
