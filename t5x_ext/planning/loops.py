"""Trip counts of HLO loops.

HLO does not say how often a `while` runs, nor which element of its state is the counter. So this
module finds the integer scalars that the condition depends on and runs the loop on them alone, as
the machine would. That works for any form of counter the compiler may choose.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

from t5x_ext.planning.hlo import Computation, Instruction, Module

Value = int | None  # None: not known before the program runs
# (number of a parameter, element of it if it is a tuple) -> value
Arguments = Callable[[int, int | None], Value]

_MAX_ROUNDS = 1_000_000
_MAX_DEPTH = 100

_KNOWN_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SAME = {
    "bitcast",
    "convert",
    "copy",
    "copy-done",
    "opt-barrier",
    "optimization-barrier",
    "reshape",
}
_ARITHMETIC: dict[str, Callable[..., int]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": lambda x, y: int(x / y),
    "maximum": max,
    "minimum": min,
    "negate": operator.neg,
    "not": operator.not_,
    "select": lambda predicate, x, y: x if predicate else y,
    "clamp": lambda low, x, high: max(low, min(x, high)),
}
_COMPARISONS = {
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
}


def unknown(parameter: int, element: int | None) -> Value:
    """Arguments of a computation of whose inputs nothing is known."""
    del parameter, element
    return None


def _elements(state: dict[int, Value]) -> Arguments:
    """Arguments of a loop's condition and body: its one parameter is the state."""
    return lambda parameter, element: state.get(element)


class LoopCounter:
    """Counts the rounds of loops of one module."""

    def __init__(self, module: Module) -> None:
        self._module = module

    def trip_count(
        self, loop: Instruction, computation: Computation, arguments: Arguments = unknown
    ) -> int | None:
        """How often the body of a loop runs.

        A condition that depends on data as well (`index < limit and not all done`) counts as if
        the data never ended the loop.

        Args:
          loop: a `while`.
          computation: where it stands.
          arguments: what is known of that computation's inputs.

        Returns:
          The number of rounds; None if no counter decides it.
        """
        known = _KNOWN_TRIP_COUNT.search(loop.attributes)
        if known:
            return int(known.group(1))
        condition = self._module.called(loop, "condition")
        body = self._module.called(loop, "body")
        counters = self._controls(condition, body)
        state = {i: self._value(computation, loop.operands[0], i, arguments) for i in counters}
        for rounds in range(_MAX_ROUNDS):
            current = _elements(state)
            goes_on = self._value(condition, condition.root.name, None, current)
            if goes_on is not None and not goes_on:
                return rounds
            if all(value is None for value in state.values()):
                return None
            state = {i: self._value(body, body.root.name, i, current) for i in counters}
        return None

    def body_arguments(
        self, loop: Instruction, computation: Computation, arguments: Arguments
    ) -> Arguments:
        """What is known inside a loop's body: the elements of its state that never change."""
        body = self._module.called(loop, "body")

        def invariant(parameter: int, element: int | None) -> Value:
            del parameter
            # A value no program computes: it comes back only if the element is passed through.
            probe: Any = object()
            passed = self._value(
                body, body.root.name, element, lambda _, i: probe if i == element else None
            )
            if passed is not probe:
                return None
            return self._value(computation, loop.operands[0], element, arguments)

        return invariant

    def _controls(self, condition: Computation, body: Computation) -> set[int]:
        """Elements of the state that decide when the loop ends."""
        found: set[int] = set()

        def record(parameter: int, element: int | None) -> Value:
            if element is not None:
                found.add(element)
            return None

        self._value(condition, condition.root.name, None, record)
        looked_at: set[int] = set()
        while found - looked_at:
            element = (found - looked_at).pop()
            looked_at.add(element)
            self._value(body, body.root.name, element, record)
        return found

    def _value(
        self,
        computation: Computation,
        name: str,
        element: int | None,
        arguments: Arguments,
        depth: int = 0,
    ) -> Value:
        """The value of a scalar, or of an element of a tuple."""
        instruction = computation[name]
        opcode = instruction.opcode
        if depth > _MAX_DEPTH:
            return None

        def operand(index: int, inner: int | None = None) -> Value:
            return self._value(
                computation, instruction.operands[index], inner, arguments, depth + 1
            )

        if opcode == "constant":
            return _constant(instruction.literal)
        if opcode == "parameter":
            return arguments(int(instruction.literal), element)
        if opcode == "get-tuple-element":
            return operand(0, int(instruction.attribute("index")))
        if opcode == "tuple":
            return operand(element) if element is not None else None
        if opcode in _SAME:
            return operand(0, element)
        if opcode == "copy-start":
            return operand(0)
        if opcode in ("fusion", "call"):
            inner = self._module.called(instruction, "calls" if opcode == "fusion" else "to_apply")
            return self._value(inner, inner.root.name, element, operand, depth + 1)
        return _combine(instruction, operand)


def _combine(instruction: Instruction, operand: Callable[[int], Value]) -> Value:
    opcode = instruction.opcode
    if opcode not in _ARITHMETIC and opcode not in ("compare", "and", "or"):
        return None
    values = [operand(index) for index in range(len(instruction.operands))]
    if opcode == "and" and 0 in values:
        return 0
    if not all(isinstance(value, int) for value in values):
        return None
    if opcode == "compare":
        return _COMPARISONS[instruction.attribute("direction")](*values)
    if opcode in ("and", "or"):
        return values[0] & values[1] if opcode == "and" else values[0] | values[1]
    return _ARITHMETIC[opcode](*values)


def _constant(literal: str) -> Value:
    if literal in ("true", "false"):
        return literal == "true"
    return int(literal) if literal.lstrip("-").isdecimal() else None
