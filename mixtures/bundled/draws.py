"""Seeded random choices that are the same on every Python version."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """Random choices as a pure function of a text seed.

    Only ``random.Random.random`` is used: its sequence for a given seed is guaranteed by Python,
    that of ``choice``, ``sample`` and ``shuffle`` is not.
    """

    def __init__(self, seed: str):
        self._random = random.Random(seed)

    def below(self, n: int) -> int:
        """Returns an integer from 0 to n - 1."""
        return int(self._random.random() * n)

    def one(self, items: Sequence[T]) -> T:
        """Returns one of the items."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[T], k: int) -> list[T]:
        """Returns k different items in random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(k)]

    def mixed(self, items: Sequence[T]) -> list[T]:
        """Returns all items in random order."""
        return self.some(items, len(items))

    def coin(self) -> bool:
        """Returns True half of the time."""
        return self._random.random() < 0.5
