"""Progress of a checkpoint that is read tensor by tensor."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from t5x_ext.checkpoints.sources import Index, LazyTensor, Source
from t5x_ext.terminal import note


@contextmanager
def shown(source: Source, doing: str) -> Iterator[Source]:
    """A source whose reads move a progress bar or, off a terminal, print a line a tensor."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        total = sum(math.prod(t.shape) * t.dtype.itemsize for t in source.tensors.values())
        with tqdm(total=total, desc=doing, unit="B", unit_scale=True) as bar:
            yield _watched(source, lambda name, values: bar.update(values.nbytes))
        return
    seen: set[str] = set()

    def print_line(name: str, values: np.ndarray) -> None:
        if name not in seen:
            seen.add(name)
            shape = list(source.tensors[name].shape)
            count = f"{len(seen)}/{len(source.tensors)}"
            note(f"{doing} {count}  {name} {shape} {values.dtype}")

    yield _watched(source, print_line)


def _watched(source: Source, on_read: Callable[[str, np.ndarray], object]) -> Source:
    def watch(name: str, tensor: LazyTensor) -> LazyTensor:
        def read(index: Index) -> np.ndarray:
            values = tensor.read(index)
            on_read(name, values)
            return values

        return dataclasses.replace(tensor, read=read)

    tensors = {name: watch(name, tensor) for name, tensor in source.tensors.items()}
    return dataclasses.replace(source, tensors=tensors)
