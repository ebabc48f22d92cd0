"""Tasks whose preprocessors draw at random, such as span corruption.

SeqIO gives a preprocessor that is wrapped by `seqio.map_over_dataset(num_seeds=...)` seeds of its
own for every example; they come from TensorFlow's global seed when the dataset is opened. Opened
under another seed for each pass over the data, such a task gives other examples in every epoch, and
the same ones whenever that pass is read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

# Draws that keep a state, which cannot be repeated for one example.
_STATEFUL = ("Random", "Multinomial", "TruncatedNormal", "ParameterizedTruncatedNormal")


def takes_seeds(dataset: tf.data.Dataset) -> bool:
    """Whether a dataset opened by SeqIO gives seeds to one of its preprocessors."""
    return any("RandomDataset" in type(part).__name__ for part in _parts(dataset))


def draws_without_seeds(dataset: tf.data.Dataset) -> bool:
    """Whether a function in a dataset calls `tf.random.uniform` or another that keeps a state."""
    graphs = [
        wrapper.function.graph.as_graph_def()
        for part in _parts(dataset)
        for wrapper in part._functions()
    ]
    nodes = [
        node
        for graph in graphs
        for nodes in (graph.node, *(function.node_def for function in graph.library.function))
        for node in nodes
    ]
    return any(node.op.startswith(_STATEFUL) for node in nodes)


def draw_seed(seed: int, task: str, number: int) -> int:
    """The seed of a task's examples in the `number`th pass over them, 0 to 2**31 - 1."""
    digest = hashlib.blake2b(f"draw\x1f{seed}\x1f{task}\x1f{number}".encode(), digest_size=4)
    return int.from_bytes(digest.digest(), "big") >> 1


def _parts(dataset: Any) -> Iterator[Any]:
    """A dataset, and those that it is made of, each once."""
    seen: set[int] = set()
    left = [dataset]
    while left:
        part = left.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            left += part._inputs()
