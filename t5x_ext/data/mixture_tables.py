"""What a run is trained on, source by source: rows, tokens, share, passes.

A source is a task or set that rows name as theirs: `writing.mixed` is one SeqIO task with rows of
several sets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from t5x_ext.data.epochs import share_out
from t5x_ext.data.records import Example
from t5x_ext.data.tables import Member, MemoryTable

_LINES = 20


@dataclass(frozen=True)
class SourceShare:
    """One source.

    Attributes:
        name: of the set or task.
        rows: its rows.
        tokens: of their prompts, and of their targets (of several the mean), EOS included.
        share: of the rows that training sees, 0 to 1.
        passes: how often its rows are gone through.
    """

    name: str
    rows: int
    tokens: int
    share: float
    passes: float


def share_of_sources(members: Sequence[Member], epochs: float) -> list[SourceShare]:
    """The sources of a mixture, in the order of the data.

    Args:
        members: as of `open_members`.
        epochs: length of the run; an epoch has as many rows as all members together.
    """
    members = [member for member in members if len(member.examples) and member.rate > 0]
    sizes = [len(member.examples) for member in members]
    quotas = share_out(sum(sizes), [member.rate for member in members])
    found = []
    for member, size, quota in zip(members, sizes, quotas, strict=True):
        table = member.examples
        rows: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        if isinstance(table, MemoryTable):
            for example in table:
                rows[example.task] += 1
                tokens[example.task] += _tokens(example)
        else:  # on disk: told as one
            rows[member.name] = size
            targets = table.target_lengths.sum() / max(1, table.num_targets.sum()) * size
            tokens[member.name] = int(table.input_lengths.sum() + targets)
        for name, count in rows.items():
            share = count / size * quota / sum(sizes)
            found.append(SourceShare(name, count, tokens[name], share, epochs * quota / size))
    return found


def source_lines(shares: Sequence[SourceShare]) -> list[str]:
    """The sources as a table of plain text."""
    width = max(len("source"), *(len(share.name) for share in shares))
    lines = [f"{'source':<{width}}  {'rows':>9}  {'tokens':>12}  {'share':>6}  {'passes':>7}"]
    for each in shares[:_LINES]:
        lines.append(
            f"{each.name:<{width}}  {each.rows:>9,}  {each.tokens:>12,}  {each.share:>6.1%}  "
            f"{each.passes:>7.2f}"
        )
    if len(shares) > _LINES:
        lines.append(f"... and {len(shares) - _LINES} more sources")
    return lines


def _tokens(example: Example) -> int:
    targets = sum(map(len, example.targets)) // max(1, len(example.targets))
    return len(example.inputs) + targets
