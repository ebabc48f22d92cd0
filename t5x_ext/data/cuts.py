"""How many prompts and targets of each source lost tokens to TASK_FEATURE_LENGTHS, in one line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from t5x_ext.data.records import Example

_LINES = 20  # sources that are told of one by one


class Cuts(NamedTuple):
    """Rows of a source, and those that did not fit.

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


def cut_lines(
    cuts: Mapping[str, Cuts], lengths: Mapping[str, int] | None, what: str = ""
) -> list[str]:
    """A line for each source that was cut; none where all fits.

    Args:
        cuts: by source.
        lengths: TASK_FEATURE_LENGTHS, tokens; None cuts nothing.
        what: the part of the data, such as 'train', which ends a source's name.
    """
    if lengths is None:
        return []
    found = {name: each for name, each in cuts.items() if each.prompts or each.targets}
    lines = [_line(f"{name} {what}".strip(), each, lengths) for name, each in found.items()]
    if len(lines) <= _LINES:
        return lines
    rest = Cuts()
    for each in list(found.values())[_LINES:]:
        rest = rest.plus(each)
    return [*lines[:_LINES], _line(f"{len(lines) - _LINES} more sources {what}", rest, lengths)]


def _line(name: str, cuts: Cuts, lengths: Mapping[str, int]) -> str:
    return (
        f"{name.strip()}: of {cuts.rows:,} rows, {cuts.prompts:,} prompts were cut to "
        f"{lengths['inputs']:,} tokens, {cuts.targets:,} targets to {lengths['targets']:,} "
        "(TASK_FEATURE_LENGTHS)"
    )
