"""Which models of a study are tuned together. The study and its plan both use this rule."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

Model = TypeVar("Model")


def program_size(count: int, experts: int, slots: int) -> int:
    """Models that the program of a group has room for: a power of two, so that few are compiled.

    Args:
      count: models in the group.
      experts: models in a group, at most.
      slots: parts of the mesh that hold separate models, equally many each.
    """
    return -(-min(1 << (count - 1).bit_length(), experts) // slots) * slots


def make_groups(
    models: Iterable[Model],
    experts: int,
    steps_of: Callable[[Model], int],
    program_of: Callable[[Model], Hashable],
) -> Iterator[list[Model]]:
    """Joins models in groups and yields each group as soon as it is full.

    A group trains until its longest model is done, and a model that is done earlier still costs its
    share of each remaining step. So models with the same number of steps are joined first. Models
    left over when all have been seen are sorted by steps, longest first, and joined only if their
    numbers of steps have the same number of bits (5 and 7, but not 7 and 8): then no model idles
    for more steps than it trains.

    Args:
      models: in any order.
      experts: models in a group, at most.
      steps_of: train steps of a model; a model with none forms a group by itself.
      program_of: models can be joined if this is equal for them.
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
