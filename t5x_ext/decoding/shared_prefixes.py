"""Which prompts begin alike, and how what they share is read once for many of them.

Prompts of a task share its definition and its examples, and those of a template its first lines. A
batch of such prompts reads what they share once, and then the rest of each row:

    definition, examples | question 1          read: N prefixes of P tokens,
                         | question 2                B rows of S tokens,
                         | question 3          instead of B rows of P + S

Nothing is kept from one batch to the next. Answers that are scored share their prompts in the same
way, see `scored_rows`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from t5x_ext.data.length_buckets import make_length_buckets, smallest_holding
from t5x_ext.decoding.compile_costs import positions_per_program
from t5x_ext.models import parameters
from t5x_ext.models.generation import Generator
from t5x_ext.partitioning import PjitPartitioner

# A beginning counts as shared where this many prompts have it: two that happen to begin with the
# same words split no group. Two answers to a prompt have nearly all in common.
LEAST_PROMPTS, LEAST_ANSWERS = 4, 2
# Positions left to read, as shares of those of whole prompts and of an order by length; and how
# much longer prompts may be padded to in an order by prefix.
WORTH_A_BATCH, WORTH_AN_ORDER, MOST_PADDING = 0.75, 0.8, 1.1


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


@dataclasses.dataclass(frozen=True)
class Sharing:
    """How prefixes are shared.

    Attributes:
      partitioner: the mesh.
      least_saved: positions that each program for prefixes has to save in all; where it saves
        fewer, prompts are read whole.
      least_prompts: that have to begin alike.
    """

    partitioner: PjitPartitioner
    least_saved: int = 0
    least_prompts: int = LEAST_PROMPTS

    @classmethod
    def of(
        cls, generator: Generator, partitioner: PjitPartitioner, wanted: bool | None
    ) -> Sharing | None:
        """How a model shares them; None where it cannot, or is not to.

        Args:
          generator: the model.
          partitioner: the mesh.
          wanted: None shares where that saves more than it costs to compile.
        """
        if wanted is False or not generator.shares_prefixes:
            return None
        if wanted:
            return cls(partitioner)
        return cls.where_worth(partitioner, parameters.count_params(generator.specs))

    @classmethod
    def where_worth(cls, partitioner: PjitPartitioner, num_params: int) -> Sharing:
        """Sharing that saves more than it costs to compile, for a model of that size."""
        return cls(partitioner, positions_per_program(partitioner, num_params))

    def cut(self, num_prefixes: int, longest_prefix: int, longest_rest: int, limit: int) -> Cut:
        """Padded sizes; few, each a program to compile.

        Args:
          num_prefixes: different prefixes.
          longest_prefix: tokens of the longest.
          longest_rest: most tokens of a row after its prefix.
          limit: most tokens of a prompt.
        """
        # Kernels of accelerators take multiples of 128, and compiling for them takes longer.
        on_cpu = self.partitioner.platform == "cpu"
        shortest, per_doubling = (16, 2) if on_cpu else (128, 1)
        sizes = make_length_buckets(-(-limit // shortest) * shortest, shortest, per_doubling)
        return Cut(
            self.partitioner.round_up_batch(1 << (num_prefixes - 1).bit_length()),
            smallest_holding(longest_prefix, sizes, "inputs"),
            smallest_holding(longest_rest, sizes, "inputs"),
        )


def group(
    prompts: Sequence[np.ndarray], kinds: Sequence[int], least_prompts: int = LEAST_PROMPTS
) -> tuple[np.ndarray, np.ndarray]:
    """Groups of prompts by what they begin with.

    Args:
      prompts: int32 [length] each.
      kinds: prompts of different kinds share nothing, whatever their tokens.
      least_prompts: that have to begin alike.

    Returns:
      shared: int64 [n], tokens that all prompts of its group begin with, fewer than any has.
      groups: int64 [n], the group of each prompt; -1 where its group shares nothing.
    """
    groups, shared = np.full(len(prompts), -1), np.zeros(len(prompts), np.int64)
    if not prompts:
        return shared, groups
    # Bytes of big-endian numbers sort as the numbers do.
    keys = [
        np.concatenate([np.array([kind], np.int32), prompt]).astype(">u4").tobytes()
        for kind, prompt in zip(kinds, prompts, strict=True)
    ]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    alike = np.array(
        [_common(keys[one], keys[other]) for one, other in zip(order, order[1:], strict=False)],
        np.int64,
    )
    reach = _reach(alike, least_prompts - 1)
    is_boundary = 2 * alike < np.maximum(reach[:-1], reach[1:])
    starts = [0, *(np.flatnonzero(is_boundary) + 1), len(order)]
    for number, (start, end) in enumerate(zip(starts, starts[1:], strict=False)):
        members = order[start:end]
        if len(members) > 1:
            least = min(len(prompts[place]) for place in members) - 1
            count = min(int(alike[start : end - 1].min()) - 1, least)
            if count > 0:
                groups[members], shared[members] = number, count
    return shared, groups


def order_by_group(groups: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Places group by group, that with the longest prompt first; in a group, longest first."""
    longest = np.zeros(int(groups.max(initial=-1)) + 2, np.int64)
    np.maximum.at(longest, groups, lengths)  # of group -1, the last place
    return np.lexsort((-lengths, groups, -longest[groups]))


def _common(one: bytes, other: bytes) -> int:
    """Tokens that both keys begin with."""
    length = min(len(one), len(other)) // 4
    first, second = (np.frombuffer(key, ">u4", length) for key in (one, other))
    differs = first != second
    return int(differs.argmax()) if differs.any() else length


def _reach(alike: np.ndarray, num_neighbours: int) -> np.ndarray:
    """What each of n sorted prompts shares with so many neighbours: [n - 1] -> [n]."""
    width = min(num_neighbours, len(alike))
    if width == 0:
        return np.zeros(len(alike) + 1, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(alike, width).min(axis=1)
    # Prompt i lies in the windows i - width to i.
    nothing = np.zeros(width, np.int64)
    around = np.concatenate([nothing, windows, nothing])
    return np.lib.stride_tricks.sliding_window_view(around, width + 1).max(axis=1)
