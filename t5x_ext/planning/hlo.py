"""Reads the text of an optimised HLO module: computations of instructions with their shapes.

    %fusion.7 = (bf16[8,1024]{1,0:T(8,128)(2,1)S(1)}, f32[8]{0}) fusion(%a, %b), kind=kLoop, ...
     name       shape: dtype[dims]{layout, S(memory space)}      opcode operands   attributes

It keeps only what costs are computed from. The grammar is that of XLA's HloModule::ToString.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

HBM = 0  # memory space of arrays without S(n); S(1) is VMEM on a TPU

_ITEM_BITS = {
    "pred": 8,
    "token": 0,
    "opaque": 0,
    "s2": 2,
    "u2": 2,
    "s4": 4,
    "u4": 4,
    "f4e2m1fn": 4,
    "s8": 8,
    "u8": 8,
    "f8e4m3": 8,
    "f8e4m3fn": 8,
    "f8e5m2": 8,
    "f8e4m3b11fnuz": 8,
    "f8e4m3fnuz": 8,
    "f8e5m2fnuz": 8,
    "f8e3m4": 8,
    "f8e8m0fnu": 8,
    "s16": 16,
    "u16": 16,
    "f16": 16,
    "bf16": 16,
    "s32": 32,
    "u32": 32,
    "f32": 32,
    "s64": 64,
    "u64": 64,
    "f64": 64,
    "c64": 64,
    "c128": 128,
}

_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([^\s(]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([^\s=]+) = (.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
# What a kernel's author has to say stands on lines of its own.
_KERNEL_METADATA = re.compile(r"(kernel_metadata=\{)\n(.*)\n(\}\})")


@dataclasses.dataclass(frozen=True, slots=True)
class Array:
    """One array of an instruction's result, per device.

    Attributes:
      dtype: HLO's name of the element type.
      dims: size of each dimension.
      space: memory space, `HBM` or one on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int

    @property
    def num_bytes(self) -> int:
        """Bytes without the padding of tiles."""
        return math.prod(self.dims) * _ITEM_BITS[self.dtype] // 8


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique within the module.
      opcode: 'fusion', 'convolution', ...
      arrays: arrays of the result; tuples are flattened.
      operands: names of the operands, in order.
      literal: the text in the parentheses, such as a parameter's number or a constant's value.
      attributes: the rest of the line.
      is_root: whether it gives the computation's result.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str
    is_root: bool

    def attribute(self, key: str) -> str | None:
        """A plain value: `attribute('calls')` is 'fused_computation.3'."""
        match = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return match.group(1) if match else None

    @property
    def num_bytes(self) -> int:
        """Bytes of the result, wherever it lives."""
        return sum(array.num_bytes for array in self.arrays)

    @property
    def hbm_bytes(self) -> int:
        """Bytes of the result that live in HBM."""
        return sum(array.num_bytes for array in self.arrays if array.space == HBM)


class Computation:
    """Instructions by name, in the order in which they run where the module is scheduled."""

    def __init__(self, instructions: dict[str, Instruction]) -> None:
        self.instructions = instructions

    def __getitem__(self, name: str) -> Instruction:
        return self.instructions[name]

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """The instructions whose results an instruction takes."""
        return [self.instructions[name] for name in instruction.operands]

    @functools.cached_property
    def root(self) -> Instruction:
        """The instruction that gives the result."""
        return next(i for i in self if i.is_root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Parameters by number."""
        return {int(i.literal): i for i in self if i.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Instructions that take a result, by the name of what gives it."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self:
            for name in dict.fromkeys(instruction.operands):
                found[name].append(instruction)
        return found


@dataclasses.dataclass(frozen=True)
class Module:
    """Computations by name; `entry` is the name of the one that runs."""

    computations: dict[str, Computation]
    entry: str

    def called(self, instruction: Instruction, key: str = "calls") -> Computation:
        """The computation that an instruction names under an attribute."""
        return self.computations[instruction.attribute(key)]


def parse(text: str) -> Module:
    """Reads a module.

    Args:
      text: what `jax.stages.Compiled.as_text()` returns.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, name = None, None
    instructions: dict[str, Instruction] = {}
    for line in _KERNEL_METADATA.sub(r"\1\2\3", text).splitlines():
        if name is None:
            match = _COMPUTATION.match(line)
            if match:
                name, instructions = match.group(2), {}
                entry = name if match.group(1) else entry
        elif line.startswith("}"):
            computations[name], name = Computation(instructions), None
        else:
            match = _INSTRUCTION.match(line)
            if match:
                parsed = _parse_instruction(match.group(2), match.group(3), bool(match.group(1)))
                instructions[parsed.name] = parsed
    if entry is None:
        raise ValueError("not the text of an HLO module: no ENTRY computation")
    return Module(computations, entry)


def _parse_instruction(name: str, text: str, is_root: bool) -> Instruction:
    """Takes `TYPE opcode(operands), attributes` apart."""
    end = _closing(text, 0) + 1 if text[0] == "(" else text.index(" ")
    shape, rest = text[:end], text[end:].lstrip()
    start = rest.index("(")
    close = _closing(rest, start)
    literal = rest[start + 1 : close]
    opcode = rest[:start]
    has_operands = opcode not in ("constant", "parameter")
    return Instruction(
        name=name,
        opcode=opcode,
        arrays=_parse_arrays(shape),
        operands=tuple(_NAME.findall(literal)) if has_operands else (),
        literal="" if has_operands else literal,
        attributes=rest[close + 1 :],
        is_root=is_root,
    )


def _closing(text: str, start: int) -> int:
    """Position of the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"unbalanced parentheses in HLO: {text[:80]}")


@functools.cache
def _parse_arrays(shape: str) -> tuple[Array, ...]:
    arrays = []
    for dtype, dims, layout in _ARRAY.findall(shape):
        if dtype in _ITEM_BITS:
            sizes = tuple(int(dim.lstrip("<=")) for dim in dims.split(",") if dim)
            space = _SPACE.search(layout)
            arrays.append(Array(dtype, sizes, int(space.group(1)) if space else HBM))
    return tuple(arrays)
