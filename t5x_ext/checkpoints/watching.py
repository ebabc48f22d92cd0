"""Progress of a checkpoint that is read tensor by tensor."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from t5x_ext.checkpoints.sources import Index, LazyTensor, Source
from t5x_ext.terminal import note

_QUIET_SECS = 5.0  # between two lines


@contextmanager
def shown(source: Source, doing: str) -> Iterator[Source]:
    """A source whose reads move a progress bar or, off a terminal, print a line now and then."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        total = sum(math.prod(t.shape) * t.dtype.itemsize for t in source.tensors.values())
        with tqdm(total=total, desc=doing, unit="B", unit_scale=True) as bar:
            yield _watched(source, lambda name, values: bar.update(values.nbytes))
        return
    seen: set[str] = set()
    said = time.monotonic()

    def print_line(name: str, values: np.ndarray) -> None:
        nonlocal said
        is_last = name not in seen and len(seen) == len(source.tensors) - 1
        seen.add(name)
        if is_last or time.monotonic() - said >= _QUIET_SECS:
            said = time.monotonic()
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
