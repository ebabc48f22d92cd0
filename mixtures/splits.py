"""How a task's instances divide into train, validation and test.

    track  policy      n           test       validation   train
    test   disjoint    any         [0:100]    [100:110]    [110:]       parts may be short or empty
    test   paper       n >= 120    [0:100]    [100:110]    [110:]
    test   paper       n < 120     all        all          all          leaked: trained on its test
    train  either      n >= 110    none       [100:110]    [:100] + [110:]
    train  either      n < 110     none       none         all

`paper` is the rule of the Quick Learners code (efficient_instruction_learning, data_prep.py).
Indices are in release order; by the release's convention the first 100 instances of a test-track
task are its evaluation set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mixtures.errors import DataError
from mixtures.records import Instance, TaskRecord

TRACKS = ("train", "test")
POLICIES = ("disjoint", "paper")

TEST_INSTANCES = 100
VALIDATION_INSTANCES = 10
# Fewer instances than this and the paper's code does not divide the task.
PAPER_MINIMUM = 120


@dataclass(frozen=True)
class Splits:
    """The three parts of one task; `leaked` says that test instances are also in train."""

    train: tuple[Instance, ...]
    validation: tuple[Instance, ...]
    test: tuple[Instance, ...]
    leaked: bool = False


def check_track(track: str) -> None:
    """Raises DataError unless `track` is "train" or "test"."""
    if track not in TRACKS:
        raise DataError(f"track '{track}'; allowed: {', '.join(TRACKS)}")


def split_instances(record: TaskRecord, track: str, policy: str = "disjoint") -> Splits:
    """Divides the instances of a task; see the table at the top of this module.

    Args:
        record: the task.
        track: "train" or "test", the release list that names the task.
        policy: "disjoint" or "paper".

    Raises:
        DataError: another track or policy.
    """
    return _divide(record.instances, track, policy)


def split_counts(num_instances: int, track: str, policy: str) -> tuple[int, int]:
    """(training, test) instances of a task with that many in all; see `split_instances`."""
    splits = _divide(tuple(range(num_instances)), track, policy)
    return len(splits.train), len(splits.test)


def _divide(instances: tuple[Any, ...], track: str, policy: str) -> Splits:
    check_track(track)
    if policy not in POLICIES:
        raise DataError(f"split policy '{policy}'; allowed: {', '.join(POLICIES)}")
    validation_end = TEST_INSTANCES + VALIDATION_INSTANCES
    head, middle, tail = (
        instances[:TEST_INSTANCES],
        instances[TEST_INSTANCES:validation_end],
        instances[validation_end:],
    )
    if track == "train":
        if len(instances) < validation_end:
            return Splits(train=instances, validation=(), test=())
        return Splits(train=head + tail, validation=middle, test=())
    if policy == "paper" and len(instances) < PAPER_MINIMUM:
        return Splits(train=instances, validation=instances, test=instances, leaked=True)
    return Splits(train=tail, validation=middle, test=head)
