"""Which prompts begin alike, and in what order that is read once for many of them.

Prompts of a task share its definition and its examples, and those of a template its first lines. A
batch of such prompts reads what they share once, and then the rest of each row:

    definition, examples | question 1          read: N prefixes of P tokens,
                         | question 2                B rows of S tokens,
                         | question 3          instead of B rows of P + S

Nothing is kept from one batch to the next: a batch of 16 reads a sixteenth of what it would have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from t5x_ext.data.length_buckets import make_length_buckets, smallest_holding
from t5x_ext.partitioning import PjitPartitioner

# A beginning counts as shared where this many prompts have it: two that happen to begin with the
# same words split no group.
LEAST_PROMPTS = 4
# Of the positions that a batch reads otherwise, so many at most: an order by what prompts share
# also mixes their lengths.
WORTH_A_BATCH, WORTH_AN_ORDER = 0.75, 0.8
# What sharing has to save in all, in FLOPs a device: some seconds of its time, as compiling
# programs for more shapes takes seconds. A CPU does 100 GFLOP/s, an accelerator 100 TFLOP/s.
LEAST_SAVED_FLOPS = {"cpu": 5e11}
LEAST_SAVED_FLOPS_ELSEWHERE = 1e15
SHORTEST = 16  # tokens that a prefix or the rest of a row is padded to, at least


class Cut(NamedTuple):
    """What the rows of a batch are read as.

    Attributes:
      num_prefixes: N.
      prefix_length: P, padded.
      rest_length: S, padded.
    """

    num_prefixes: int
    prefix_length: int
    rest_length: int

    def positions(self, num_rows: int) -> int:
        """Positions to read for that many rows."""
        return self.num_prefixes * self.prefix_length + num_rows * self.rest_length


def least_saved(num_params: int, partitioner: PjitPartitioner) -> int:
    """Positions that sharing has to save in all, to be worth the programs that it compiles."""
    flops = LEAST_SAVED_FLOPS.get(partitioner.platform, LEAST_SAVED_FLOPS_ELSEWHERE)
    return int(flops * partitioner.mesh.devices.size / (2 * num_params))


def shared_lengths(prompts: Sequence[np.ndarray], kinds: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Groups of prompts by what they begin with.

    Args:
      prompts: int32 [length] each.
      kinds: prompts of different kinds share nothing, whatever their tokens.

    Returns:
      groups: int32 [n], the group of each prompt.
      shared: int32 [n], tokens that all prompts of its group begin with, less than any has.
    """
    groups, shared = np.zeros(len(prompts), np.int32), np.zeros(len(prompts), np.int32)
    if not prompts:
        return groups, shared
    keyed = [
        np.concatenate([np.array([kind], np.int32), prompt])
        for kind, prompt in zip(kinds, prompts, strict=True)
    ]
    # Bytes of big-endian numbers sort as the numbers do.
    order = sorted(range(len(keyed)), key=lambda place: keyed[place].astype(">u4").tobytes())
    alike = np.array(
        [_common(keyed[one], keyed[other]) for one, other in zip(order, order[1:], strict=False)],
        np.int64,
    )
    reach = _reach(alike)
    is_boundary = 2 * alike < np.maximum(reach[:-1], reach[1:])
    starts = [0, *(np.flatnonzero(is_boundary) + 1), len(order)]
    for group, (start, end) in enumerate(zip(starts, starts[1:], strict=False)):
        members = order[start:end]
        groups[members] = group
        if len(members) > 1:
            least = min(len(prompts[place]) for place in members) - 1
            shared[members] = max(min(int(alike[start : end - 1].min()) - 1, least), 0)
    return groups, shared


def order_by_prefix(groups: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Places group by group, that with the longest prompt first; in a group, longest first."""
    longest = np.zeros(int(groups.max(initial=-1)) + 1, np.int64)
    np.maximum.at(longest, groups, lengths)
    return np.lexsort((-lengths, groups, -longest[groups]))


def make_cut(
    num_prefixes: int,
    longest_prefix: int,
    longest_rest: int,
    longest: int,
    round_up: Callable[[int], int],
) -> Cut:
    """Padded sizes, few of which are compiled.

    Args:
      num_prefixes: different prefixes.
      longest_prefix: tokens of the longest.
      longest_rest: most tokens of a row after its prefix.
      longest: most tokens of a prompt.
      round_up: the next number of rows that the mesh divides.
    """
    sizes = make_length_buckets(longest, SHORTEST, per_doubling=2)
    return Cut(
        round_up(1 << (num_prefixes - 1).bit_length()),
        smallest_holding(longest_prefix, sizes, "inputs"),
        smallest_holding(longest_rest, sizes, "inputs"),
    )


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """Entries that both begin with."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length


def _reach(alike: np.ndarray) -> np.ndarray:
    """What each of n sorted prompts shares with `LEAST_PROMPTS - 1` neighbours: [n - 1] -> [n]."""
    width = min(LEAST_PROMPTS - 1, len(alike))
    if width == 0:
        return np.zeros(len(alike) + 1, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(alike, width).min(axis=1)
    # Prompt i lies in the windows i - width to i.
    nothing = np.zeros(width, np.int64)
    around = np.concatenate([nothing, windows, nothing])
    return np.lib.stride_tricks.sliding_window_view(around, width + 1).max(axis=1)
