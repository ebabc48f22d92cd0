"""Which models of a study are tuned together: one rule, for the study itself and for its plan."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

Model = TypeVar("Model")


def make_groups(
    models: Iterable[Model],
    experts: int,
    steps_of: Callable[[Model], int],
    program_of: Callable[[Model], Hashable],
) -> Iterator[list[Model]]:
    """Joins models in groups, each given as soon as it is full.

    A group takes as long as its longest model, and one that has made its steps still costs its
    share of every further one. So models that make equally many steps go together first, as soon
    as there are enough of them. The others come at the end, the longest first, and only those whose
    steps lie between the same powers of two go together: no model waits longer than it works.

    Args:
      models: in any order.
      experts: models of a group, at most.
      steps_of: train steps of a model; one that makes none is alone.
      program_of: models for which this is equal can go together.
    """
    waiting: dict[Hashable, dict[int, list[Model]]] = {}
    for model in models:
        steps = steps_of(model)
        if steps == 0:
            yield [model]
            continue
        by_steps = waiting.setdefault((program_of(model), steps.bit_length()), {})
        by_steps.setdefault(steps, []).append(model)
        if len(by_steps[steps]) == experts:
            yield by_steps.pop(steps)
    for by_steps in waiting.values():
        left = [model for steps in sorted(by_steps, reverse=True) for model in by_steps[steps]]
        for start in range(0, len(left), experts):
            yield left[start : start + experts]
