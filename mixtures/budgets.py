"""Label budgets: which of a task's training instances a run may see.

Names: `n<K>` = K instances a task, `p<K>` = K percent of them (at least one), `all`. The paper's
are n10 n100 n200 n1000 p1 all. Budgets of one task nest: a smaller one is a subset of a larger.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mixtures.errors import DataError, warn_once

ORDERS = ("seeded", "release")

_ALLOWED = "a count such as 100 or 'n100', a percentage such as 'p1' (1 to 100), or 'all'"


@dataclass(frozen=True)
class Budget:
    """How many instances a task may give: `amount` instances (kind n), percent (kind p), or all."""

    kind: str
    amount: int = 0

    @property
    def name(self) -> str:
        """The canonical name: n100, p1, all."""
        return self.kind if self.kind == "all" else f"{self.kind}{self.amount}"

    def count(self, available: int) -> int:
        """Instances asked for where `available` exist; for kind n this may be more than exist."""
        if self.kind == "n":
            return self.amount
        if self.kind == "p":
            return max(1, available * self.amount // 100)
        return available


def parse_budget(value: str | int | Budget) -> Budget:
    """Reads 10, '10', 'n10', 'p1' or 'all'.

    Raises:
        DataError: anything else, a count below 1, or a percentage outside 1 to 100.
    """
    if isinstance(value, Budget):
        return value
    match = re.fullmatch(r"(n|p)?([1-9][0-9]{0,8})", str(value))
    if value == "all":
        return Budget("all")
    if match is None:
        raise DataError(f"budget {value!r}; allowed: {_ALLOWED}")
    budget = Budget(match[1] or "n", int(match[2]))
    if budget.kind == "p" and budget.amount > 100:
        raise DataError(f"budget {value!r}; allowed: {_ALLOWED}")
    return budget


def select(
    task_name: str,
    ids: Sequence[str],
    budget: str | int | Budget,
    seed: int = 0,
    order: str = "seeded",
) -> tuple[int, ...]:
    """Chooses the training instances of one task under a budget.

    Where there are fewer than the budget asks for, all are taken, with a warning.

    A pure function of its arguments: no state, the same on every machine. Under order "seeded" an
    instance's place depends only on (seed, task_name, its id), under "release" on its position.

    Args:
        task_name: the task, for the hash and for messages.
        ids: ids of the task's training instances, each once.
        budget: what `parse_budget` takes.
        seed: picks another sample; unused under order "release".
        order: "seeded", or "release" for the first instances as the paper's code has it.

    Returns:
        Indices into `ids`, ascending.

    Raises:
        DataError: wrong budget or order.
    """
    budget = parse_budget(budget)
    if order not in ORDERS:
        raise DataError(f"budget order '{order}'; allowed: {', '.join(ORDERS)}")
    wanted = budget.count(len(ids))
    if not ids:
        warn_once(f"task '{task_name}': no training instances, whatever the budget")
    elif wanted > len(ids):
        warn_once(
            f"task '{task_name}': budget {budget.name} asks for more than the {len(ids)} training "
            "instances available; all of them are taken"
        )
    if wanted >= len(ids):
        return tuple(range(len(ids)))
    if order == "release":
        return tuple(range(wanted))
    ranked = sorted(range(len(ids)), key=lambda index: _rank(seed, task_name, ids[index]))
    return tuple(sorted(ranked[:wanted]))


def _rank(seed: int, task_name: str, instance_id: str) -> bytes:
    """A place in a shuffled order that depends on this instance alone."""
    return hashlib.sha256(f"{seed}\x1f{task_name}\x1f{instance_id}".encode()).digest()
