"""The plan of one training epoch: which example, with which reference, in which row.

A plan is a pure function of (data, seed, epoch), made from lengths alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixtures.prompts import reference_index
from t5x_ext.data.features import Features
from t5x_ext.data.packing import Layout, lay_out, pack_rows
from t5x_ext.data.tables import ExampleTable, Member, TablePool
from t5x_ext.errors import ConfigError

# What a random stream is for; part of its key, so that no two streams are the same.
_SHUFFLE_EPOCH, _SHUFFLE_ROWS, _SHUFFLE_MEMBER = range(3)

_EXAMPLES_PER_READ = 4096


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """One epoch; item k of the layout is example examples[k] of the pool, with its targets[k].

    Attributes:
        pool: the examples that this epoch is made of.
        examples: uint32 [items], numbers in the pool.
        targets: unsigned [items], index into that example's targets.
        layout: the row and place of each item.
    """

    pool: TablePool
    examples: np.ndarray
    targets: np.ndarray
    layout: Layout


class EpochPlanner:
    """Plans epochs over the examples of a mixture.

    An epoch is as long as all members together. Members share it by rate (largest remainder); each
    continues in the next epoch where it stopped in this one. With one member, or rates that are
    proportional to sizes, every example comes exactly once an epoch.

    Members that draw their examples again (see Member) do so after each pass over them.
    Every later draw gives as many examples as the first; a shorter one starts over.

    Args:
        members: see Member; those without examples are left out.
        seed: seed of shuffling and of drawing references.
        features: how many positions an example takes up.
        shuffle: False keeps the order of the members and of their examples.

    Raises:
        ConfigError: no examples, no positive rate, or an example without a target.
    """

    def __init__(
        self, members: Sequence[Member], seed: int, features: Features, shuffle: bool = True
    ):
        members = [member for member in members if len(member.examples) and member.rate > 0]
        if not members:
            raise ConfigError("training data: no examples; allowed: at least one, at a rate > 0")
        self._tables = [member.examples for member in members]
        self._redraws = [member.redraw for member in members]
        for table in self._tables:
            check_targets(table)
        self._sizes = [len(table) for table in self._tables]
        self._quotas = share_out(sum(self._sizes), [member.rate for member in members])
        self._seed = seed
        self._features = features
        self._shuffle = shuffle

    @property
    def longest(self) -> tuple[int, int] | None:
        """Positions of the longest example on each side; None if later draws may be longer."""
        if any(self._redraws):
            return None
        longest = [0, 0]
        for table in self._tables:
            inputs = np.repeat(table.input_lengths, table.num_targets)
            sides = self._features.sides(inputs, table.target_lengths)
            longest = [
                max(most, int(side.max())) for most, side in zip(longest, sides, strict=True)
            ]
        return longest[0], longest[1]

    def plan(self, epoch: int, pack_into: tuple[int, int] | None = None) -> EpochPlan:
        """Plans an epoch; about 50 bytes an example, and 25 of them stay.

        Args:
            epoch: number of the epoch, from 0.
            pack_into: positions of both sides of a row to pack into; None: a row per example.
        """
        pool = TablePool()
        examples, passes = self._choose_examples(epoch, pool)
        order = self._order(len(examples), _SHUFFLE_EPOCH, epoch)
        examples, passes = examples[order], passes[order]
        del order
        all_input_lengths, num_targets, all_target_lengths = pool.lengths()
        targets = self._draw_targets(pool, num_targets, examples, passes)
        del passes
        input_lengths = all_input_lengths[examples]
        if len(all_target_lengths) == len(num_targets):  # one each
            target_lengths = all_target_lengths[examples]
        else:
            # The targets of example i are at first_target[i].. in all_target_lengths.
            first_target = np.cumsum(num_targets, dtype=np.int64) - num_targets
            target_lengths = all_target_lengths[first_target[examples] + targets]
        sides = self._features.sides(input_lengths, target_lengths)
        if pack_into:
            rows = pack_rows(*sides, *pack_into)
            # The rows opened last are the emptiest: spread them over the epoch.
            spread = self._order(int(rows.max()) + 1, _SHUFFLE_ROWS, epoch).astype(np.uint32)
            rows = spread[rows]
        else:
            rows = np.arange(len(examples), dtype=np.uint32)
        layout = lay_out(rows, *sides)
        return EpochPlan(pool, examples, targets, layout)

    def _draw_targets(
        self, pool: TablePool, num_targets: np.ndarray, examples: np.ndarray, passes: np.ndarray
    ) -> np.ndarray:
        """Which of its targets each example has this time."""
        targets = np.zeros(len(examples), np.min_scalar_type(int(num_targets.max())))
        if num_targets.max() < 2:
            return targets
        several = np.flatnonzero(num_targets[examples] > 1)
        for start in range(0, len(several), _EXAMPLES_PER_READ):
            items = several[start : start + _EXAMPLES_PER_READ]
            for item, example in zip(items, pool.read(examples[items]), strict=True):
                targets[item] = reference_index(
                    len(example.targets), self._seed, example.id, int(passes[item])
                )
        return targets

    def _choose_examples(self, epoch: int, pool: TablePool) -> tuple[np.ndarray, np.ndarray]:
        """Examples of this epoch, and how often each one's member was gone through before.

        A member is an endless stream, one permutation of its examples after another, of which each
        epoch takes the next `quota`.
        """
        examples, passes = [], []
        for member, (size, quota) in enumerate(zip(self._sizes, self._quotas, strict=True)):
            first, last = epoch * quota, (epoch + 1) * quota
            for number in range(first // size, -(-last // size)):
                table = self._table(member, number)
                order = self._order(size, _SHUFFLE_MEMBER, number, member)
                begin, end = max(first - number * size, 0), min(last - number * size, size)
                offset = pool.add(table)
                examples.append((offset + order[begin:end] % len(table)).astype(np.uint32))
                passes.append(np.full(end - begin, number, np.uint32))
        return np.concatenate(examples), np.concatenate(passes)

    def _table(self, member: int, number: int) -> ExampleTable:
        """A member's examples when it is gone through for the `number`th time, from 0."""
        redraw = self._redraws[member]
        if redraw is None or number == 0:
            return self._tables[member]
        table = redraw(number)
        check_targets(table)
        return table

    def _order(self, size: int, *key: int) -> np.ndarray:
        """A permutation of range(size) that is a pure function of (seed, key)."""
        if not self._shuffle:
            return np.arange(size)
        # RandomState and not Generator: NumPy keeps its streams for ever, so that a checkpoint
        # continues exactly under another NumPy.
        return np.random.RandomState([self._seed % 2**32, *key]).permutation(size)


def share_out(total: int, rates: Sequence[float]) -> list[int]:
    """Splits `total` in proportion to `rates`, by largest remainder: 10 at 1:1:1 -> [4, 3, 3]."""
    exact = total * np.array(rates, np.float64) / np.sum(rates)
    shares = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(shares - exact, kind="stable")
    shares[by_remainder[: total - shares.sum()]] += 1
    return shares.tolist()


def check_targets(table: ExampleTable) -> None:
    """Raises ConfigError if a table is empty or an example in it has no target."""
    if not len(table):
        raise ConfigError("training data: no examples in a later draw; allowed: at least one")
    without = np.flatnonzero(np.asarray(table.num_targets) == 0)
    if len(without):
        (example,) = table.read([int(without[0])])
        raise ConfigError(
            f"training data: example {example.id!r} of {example.task} has no target; "
            "allowed: at least one"
        )


def describe_data(members: Sequence[Member], as_before: bool = False) -> str:
    """Names, counts and a hash of every token, to tell whether two runs see the same data.

    Args:
      members: the data.
      as_before: hash as older runs did, whose data in memory and on disk differed.
    """
    digest = hashlib.sha256()
    for member in members:
        digest.update(f"{member.name}\0{len(member.examples)}\0{member.rate}\0".encode())
        if as_before:
            member.examples.update(digest)
        else:
            digest.update(member.examples.digest.encode())
    count = sum(len(member.examples) for member in members)
    more = f" and {len(members) - 1} more tasks" if len(members) > 1 else ""
    return f"{count} examples of {members[0].name}{more}, hash {digest.hexdigest()[:16]}"
