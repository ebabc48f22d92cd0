"""Fingerprints that tell the base of one adapter from that of another.

A few values of every tensor are hashed, rounded to bfloat16: one base has one fingerprint in every
layout, dtype and quantisation, and taking it reads next to nothing. It tells models apart, not
damage: checksums do that.
"""

from __future__ import annotations

import hashlib

import ml_dtypes
import numpy as np

from t5x_ext.checkpoints.sources import Source

_ROWS, _WIDTH = 4, 16  # positions of the first axis, and of each other axis


def fingerprint_base(source: Source) -> str:
    """The fingerprint of a model's parameters.

    Args:
        source: Holds whole parameters, no adapter.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(source.tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        first, *others = tensor.shape or (1,)
        inner = tuple(slice(0, min(size, _WIDTH)) for size in others)
        for row in sorted({(first - 1) * part // (_ROWS - 1) for part in range(_ROWS)}):
            values = tensor.read((slice(row, row + 1), *inner)[: len(tensor.shape)])
            rounded = np.ascontiguousarray(values, np.float32).astype(ml_dtypes.bfloat16)
            digest.update(rounded.view(np.uint8).data)
    return digest.hexdigest()
