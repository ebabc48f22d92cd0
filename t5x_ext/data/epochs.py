"""The plan of one training epoch: which example, with which reference, in which row.

A plan is a pure function of (data, seed, epoch), made from lengths alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from t5x_ext.data.packing import Layout, lay_out, pack_rows
from t5x_ext.data.records import Example, Member, reference_index
from t5x_ext.errors import ConfigError

# What a random stream is for; part of its key, so that no two streams are the same.
_SHUFFLE_EPOCH, _SHUFFLE_ROWS, _SHUFFLE_MEMBER = range(3)


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """One epoch; item k of the layout is example examples[k] with its target targets[k].

    Attributes:
        examples: int64 [items], index into EpochPlanner.examples.
        targets: int64 [items], index into that example's targets.
        layout: the row and place of each item.
    """

    examples: np.ndarray
    targets: np.ndarray
    layout: Layout


class EpochPlanner:
    """Plans epochs over the examples of a mixture.

    An epoch is as long as all members together. Members share it by rate (largest remainder); each
    goes on in the next epoch where it stopped in this one. With one member, or rates that are
    proportional to sizes, every example comes exactly once an epoch.

    Args:
        members: (name, examples, rate) of each task; members without examples are left out.
        seed: seed of shuffling and of drawing references.
        shuffle: False keeps the order of the members and of their examples.

    Raises:
        ConfigError: no examples, no positive rate, or an example without a target.
    """

    def __init__(self, members: Sequence[Member], seed: int, shuffle: bool = True):
        members = [member for member in members if member.examples and member.rate > 0]
        if not members:
            raise ConfigError("training data: no examples; allowed: at least one, at a rate > 0")
        self.examples: list[Example] = [ex for member in members for ex in member.examples]
        for example in self.examples:
            if not example.targets:
                raise ConfigError(
                    f"training data: example {example.id!r} of {example.task} has no target; "
                    "allowed: at least one"
                )
        # An empty input takes up one position; see batching.encoder_tokens.
        self.input_lengths = np.array([max(len(ex.inputs), 1) for ex in self.examples])
        self.target_lengths = np.array([len(t) for ex in self.examples for t in ex.targets])
        self._num_targets = np.array([len(ex.targets) for ex in self.examples])
        # The targets of example i are at _first_target[i].. in target_lengths.
        self._first_target = np.cumsum(self._num_targets) - self._num_targets
        self._sizes = [len(member.examples) for member in members]
        self._quotas = share_out(len(self.examples), [member.rate for member in members])
        self._seed = seed
        self._shuffle = shuffle

    def plan(self, epoch: int, pack_into: tuple[int, int] | None = None) -> EpochPlan:
        """Plans an epoch.

        Args:
            epoch: number of the epoch, from 0.
            pack_into: encoder and decoder tokens of a row to pack into; None: a row per example.
        """
        examples, passes = self._choose_examples(epoch)
        order = self._order(len(examples), _SHUFFLE_EPOCH, epoch)
        examples, passes = examples[order], passes[order]
        targets = np.zeros(len(examples), np.int64)
        for item in np.flatnonzero(self._num_targets[examples] > 1):
            example = self.examples[examples[item]]
            targets[item] = reference_index(
                self._seed, example.id, int(passes[item]), len(example.targets)
            )

        input_lengths = self.input_lengths[examples]
        target_lengths = self.target_lengths[self._first_target[examples] + targets]
        rows = np.arange(len(examples))
        if pack_into:
            rows = pack_rows(input_lengths, target_lengths, *pack_into)
            # The rows opened last are the emptiest: spread them over the epoch.
            rows = self._order(int(rows.max()) + 1, _SHUFFLE_ROWS, epoch)[rows]
        return EpochPlan(examples, targets, lay_out(rows, input_lengths, target_lengths))

    def _choose_examples(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Examples of this epoch, and how often each one's member was gone through before.

        A member is an endless stream, one permutation of its examples after another, of which each
        epoch takes the next `quota`.
        """
        examples, passes = [], []
        offset = 0
        for member, (size, quota) in enumerate(zip(self._sizes, self._quotas, strict=True)):
            numbers, places = np.divmod(np.arange(epoch * quota, (epoch + 1) * quota), size)
            for number in np.unique(numbers):
                order = self._order(size, _SHUFFLE_MEMBER, int(number), member)
                examples.append(offset + order[places[numbers == number]])
            passes.append(numbers)
            offset += size
        return np.concatenate(examples), np.concatenate(passes)

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


def describe_data(members: Sequence[Member]) -> str:
    """Names, counts and a hash of every token, to tell whether two runs see the same data."""
    digest = hashlib.sha256()
    for member in members:
        digest.update(f"{member.name}\0{len(member.examples)}\0{member.rate}\0".encode())
        for example in member.examples:
            digest.update(f"{example.id}\0{len(example.inputs)}\0".encode())
            digest.update(example.inputs.tobytes())
            for target in example.targets:
                digest.update(target.tobytes())
    count = sum(len(member.examples) for member in members)
    more = f" and {len(members) - 1} more tasks" if len(members) > 1 else ""
    return f"{count} examples of {members[0].name}{more}, hash {digest.hexdigest()[:16]}"
