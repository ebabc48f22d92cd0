"""Tensors that files hold more than once, and whether the output is tied to the embedding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_ext.checkpoints.sources import LazyTensor
from t5x_ext.errors import ConfigError

_COMPARED_BYTES = 1 << 24  # of each of two tensors at a time


def equal(left: LazyTensor, right: LazyTensor) -> bool:
    """Compares two matrices bit by bit, some rows at a time."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    rows = max(1, _COMPARED_BYTES // max(1, math.prod(left.shape[1:]) * left.dtype.itemsize))
    parts = (
        (slice(first, min(first + rows, left.shape[0])),) + (slice(None),) * (len(left.shape) - 1)
        for first in range(0, left.shape[0], rows)
    )
    return all(left.read(part).tobytes() == right.read(part).tobytes() for part in parts)


def keep_first(
    stored: Mapping[str, LazyTensor], same: Sequence[str], path: str
) -> dict[str, LazyTensor]:
    """Keeps one of several tensors that must be equal, under the first name.

    Raises:
        ConfigError: If they differ.
    """
    present = [name for name in same if name in stored]
    for name in present[1:]:
        if not equal(stored[present[0]], stored[name]):
            raise ConfigError(f"{path}: {name} differs from {present[0]}, whose copy it is")
    others = {name: tensor for name, tensor in stored.items() if name not in present}
    return others | ({same[0]: stored[present[0]]} if present else {})


def resolve_head(
    raw: Mapping[str, Any],
    stored: Mapping[str, LazyTensor],
    path: str,
    *,
    head: str,
    embedding: str,
    tied_by_default: bool,
) -> tuple[bool, dict[str, LazyTensor]]:
    """Decides by the tensors whether the output is tied: config.json's flag is often wrong.

    A head that differs from the embedding is used whatever the flag says; one that equals it is
    left out where the flag says that they are tied.

    Returns:
        Whether it is tied, and the tensors without a superfluous head.

    Raises:
        ConfigError: If there is no head, and config.json says that there is one.
    """
    flag = raw.get("tie_word_embeddings", tied_by_default)
    if head not in stored:
        if not flag:
            raise ConfigError(
                f"{path}: tie_word_embeddings is {flag!r}, but there is no {head}; allowed without"
                " one: true"
            )
        return True, dict(stored)
    if not flag or embedding not in stored or not equal(stored[head], stored[embedding]):
        return False, dict(stored)
    return True, {name: tensor for name, tensor in stored.items() if name != head}
