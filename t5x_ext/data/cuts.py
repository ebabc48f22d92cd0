"""How many prompts and targets of each task lost tokens to TASK_FEATURE_LENGTHS."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from t5x_ext.data.records import Example


class Cuts(NamedTuple):
    """Rows of a task, and those that did not fit.

    Attributes:
        rows: all of them.
        prompts: rows whose prompt lost text.
        targets: rows of which a target that training may draw lost its end.
    """

    rows: int = 0
    prompts: int = 0
    targets: int = 0

    def with_row(self, example: Example) -> Cuts:
        """These and one row more."""
        prompts, targets = self.prompts + example.truncated, self.targets + example.target_truncated
        return Cuts(self.rows + 1, prompts, targets)

    def plus(self, other: Cuts) -> Cuts:
        """Both together."""
        return Cuts(*(one + more for one, more in zip(self, other, strict=True)))


def cuts_by_task(examples: Iterable[Example]) -> dict[str, Cuts]:
    """Those of examples of several tasks, by task."""
    found: defaultdict[str, Cuts] = defaultdict(Cuts)
    for example in examples:
        found[example.task] = found[example.task].with_row(example)
    return dict(found)


def joined_cuts(parts: Iterable[Mapping[str, Cuts]]) -> dict[str, Cuts]:
    """Those of several parts of the data, by task."""
    found: dict[str, Cuts] = {}
    for part in parts:
        for task, each in part.items():
            found[task] = found.get(task, Cuts()).plus(each)
    return found


def cut_lines(cuts: Mapping[str, Cuts], lengths: Mapping[str, int] | None, what: str) -> list[str]:
    """A line about prompts and one about targets; none where all fit.

    Args:
        cuts: by task.
        lengths: TASK_FEATURE_LENGTHS, tokens; None cuts nothing.
        what: the part of the data, such as 'train'.
    """
    if lengths is None:
        return []
    prompts = {task: each.prompts for task, each in cuts.items()}
    targets = {task: each.targets for task, each in cuts.items()}
    rows = {task: each.rows for task, each in cuts.items()}
    return [
        f"{what}: {sum(lost.values()):,} of {sum(rows.values()):,} {side} were cut to "
        f"{length:,} tokens (TASK_FEATURE_LENGTHS){_worst(lost, rows)}"
        for side, lost, length in (
            ("prompts", prompts, lengths["inputs"]),
            ("targets", targets, lengths["targets"]),
        )
        if any(lost.values())
    ]


def _worst(lost: Mapping[str, int], rows: Mapping[str, int]) -> str:
    """Of several tasks, the one that lost the largest share."""
    if len(rows) < 2:
        return ""
    worst = max(lost, key=lambda task: lost[task] / max(1, rows[task]))
    return f"; most in {worst} ({lost[worst]:,} of {rows[worst]:,})"
