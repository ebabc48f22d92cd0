"""What was written is read back and compared with what it was made from, bit by bit."""

from __future__ import annotations

import numpy as np
from etils import epath

from t5x_ext.checkpoints import peft, tensorstores, trees
from t5x_ext.checkpoints.adapters import Adapter
from t5x_ext.checkpoints.params import open_source
from t5x_ext.checkpoints.sources import Source
from t5x_ext.errors import ConfigError
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.merging import find_products


def compare(source: Source, written: epath.Path, dtype: str | None = None) -> None:
    """Opens what was written and compares its tensors with the source's, bit by bit.

    Raises:
        ConfigError: They differ, or one cannot be read.
    """
    result = open_source(str(written))
    trees.check_tree(written, dict(result.tensors), dict(source.tensors))
    for name, tensor in source.tensors.items():
        stored = np.dtype(dtype or tensor.dtype)
        for index in tensorstores.slabs(tensor.shape, stored.itemsize):
            wanted = tensor.read(index).astype(stored, copy=False)
            found = result.tensors[name].read(index)
            if found.dtype != stored or not _same_bits(wanted, found):
                raise ConfigError(f"{written}: {name} differs from {source.path}")


def compare_adapter(adapter: Adapter, written: epath.Path, config: ModelConfig) -> None:
    """Reads a directory of PEFT's and compares the factors of what is added to each kernel.

    PEFT knows no parts of fused tensors: those without an adapter come back with a B of zeros.

    Raises:
        ConfigError: They differ, or one cannot be read.
    """
    stored = peft.read(written, config)
    wanted = find_products(config, adapter.lora, adapter.params)
    found = find_products(config, stored.lora, stored.params)
    for name in sorted({*wanted, *found}):
        if name not in wanted:
            same = not found[name].b.any()
        else:
            same = name in found and all(map(_same_bits, found[name], wanted[name]))
        if not same:
            raise ConfigError(f"{written}: the adapter of {name} differs from {adapter.path}")


def _same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return np.array_equal(left.view(np.uint8), right.view(np.uint8))
