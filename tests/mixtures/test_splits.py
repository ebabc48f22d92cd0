"""The table of splits, for every size near its edges."""

from __future__ import annotations

import pytest

from mixtures.errors import DataError
from mixtures.records import Instance, TaskRecord
from mixtures.splits import split_instances


def record(count: int) -> TaskRecord:
    instances = tuple(Instance(f"i{k}", "x", ("y",)) for k in range(count))
    return TaskRecord("t", "C", ("C",), (), (), "Do.", (), (), instances, (), (), ())


def indices(part: tuple[Instance, ...]) -> list[int]:
    return [int(instance.id[1:]) for instance in part]


@pytest.mark.parametrize("count", [1, 26, 99, 100, 101, 109, 110, 111, 119, 120, 127, 310])
@pytest.mark.parametrize("policy", ["disjoint", "paper"])
def test_test_track(count, policy):
    splits = split_instances(record(count), "test", policy)
    everything = list(range(count))
    leaked = policy == "paper" and count < 120
    assert splits.leaked is leaked
    assert indices(splits.test) == (everything if leaked else everything[:100])
    assert indices(splits.validation) == (everything if leaked else everything[100:110])
    assert indices(splits.train) == (everything if leaked else everything[110:])


@pytest.mark.parametrize("count", [1, 100, 109, 110, 111, 300])
@pytest.mark.parametrize("policy", ["disjoint", "paper"])
def test_train_track(count, policy):
    splits = split_instances(record(count), "train", policy)
    everything = list(range(count))
    assert splits.test == () and not splits.leaked
    if count < 110:
        assert (indices(splits.train), splits.validation) == (everything, ())
    else:
        assert indices(splits.validation) == everything[100:110]
        assert indices(splits.train) == everything[:100] + everything[110:]


def test_wrong_arguments():
    with pytest.raises(DataError, match="split policy 'papre'; allowed: disjoint, paper"):
        split_instances(record(5), "test", "papre")
    with pytest.raises(DataError, match="track 'validation'; allowed: train, test"):
        split_instances(record(5), "validation")
