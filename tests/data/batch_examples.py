"""Small examples of random tokens, and batches of them."""

from __future__ import annotations

import itertools

import numpy as np

from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.features import EncoderDecoderFeatures
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory

LENGTHS = {"inputs": 64, "targets": 16}


def make_example(name: str, inputs, *targets) -> Example:
    arrays = tuple(np.array(target, np.int32) for target in targets)
    texts = tuple(" ".join(map(str, target)) for target in targets)
    return Example(name, "task", "", np.array(inputs, np.int32), arrays, "", texts, False)


def make_examples(count: int, prefix: str = "e", seed: int = 0, num_targets: int = 1):
    """Random examples whose first input token tells them apart."""
    random = np.random.RandomState(seed)
    return [
        make_example(
            f"{prefix}{index}",
            [100 + index, *random.randint(3, 99, random.randint(1, 40)), 1],
            *([*random.randint(3, 99, random.randint(1, 9)), 1] for _ in range(num_targets)),
        )
        for index in range(count)
    ]


def make_batches(examples, batch_size=4, pack=True, seed=0, **kwargs) -> TrainBatches:
    return TrainBatches([in_memory("t", examples)], batch_size, LENGTHS, pack, seed, **kwargs)


def take(batches: TrainBatches, count: int):
    return list(itertools.islice(batches, count))


FEATURES = EncoderDecoderFeatures()


def assert_same(some, others):
    for (batch, info), (other, other_info) in zip(some, others, strict=True):
        assert info == other_info
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def share_of(host: int, num_hosts: int):
    """What PjitPartitioner.host_rows is on a mesh of these hosts."""
    return lambda rows: (host * rows // num_hosts, (host + 1) * rows // num_hosts)
