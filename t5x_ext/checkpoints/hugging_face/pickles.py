"""pytorch_model.bin: pickles, read through PyTorch without running what is in them."""

from __future__ import annotations

import pickle
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from t5x_ext.checkpoints.hugging_face.safetensors_files import DTYPES, read_weight_map
from t5x_ext.checkpoints.sources import Index, LazyTensor
from t5x_ext.errors import ConfigError

FILE = "pytorch_model.bin"
INDEX_FILE = "pytorch_model.bin.index.json"


def read_pickle(path: epath.Path) -> dict[str, LazyTensor]:
    """The tensors of one file, mapped into memory.

    Raises:
        ConfigError: If PyTorch is not installed, or the file is remote, damaged or holds anything
            but tensors.
    """
    try:
        import torch
    except ImportError:
        raise ConfigError(
            f"{path}: a pickle is read through PyTorch, which is not installed;"
            " pip install 't5x_ext[torch]', or give the checkpoint as safetensors"
        ) from None
    if "://" in str(path):
        raise ConfigError(f"{path}: a pickle is read from local files only; copy it here first")
    try:
        state = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, OSError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else "empty"
        raise ConfigError(f"{path}: PyTorch cannot read it as tensors only: {reason}") from None
    if not isinstance(state, dict):
        raise ConfigError(f"{path}: holds a {type(state).__name__}, not tensors by name")
    return {name: _lazy(path, name, value) for name, value in state.items()}


def read_pickle_index(index: epath.Path) -> dict[str, LazyTensor]:
    """The tensors of all files that an index names; as `read_pickle`."""
    tensors = {}
    for file in read_weight_map(index):
        tensors.update(read_pickle(index.parent / file))
    return tensors


def _lazy(path: epath.Path, name: str, value: Any) -> LazyTensor:
    import torch

    if not isinstance(value, torch.Tensor):
        raise ConfigError(f"{path}: {name} is a {type(value).__name__}, not a tensor")
    dtypes = {
        torch.float32: np.dtype(np.float32),
        torch.float16: np.dtype(np.float16),
        torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
    }
    if value.dtype not in dtypes:
        raise ConfigError(f"{path}: {name} has dtype {value.dtype}; allowed: {', '.join(DTYPES)}")
    dtype = dtypes[value.dtype]

    def read(index: Index) -> np.ndarray:
        part = value[index].contiguous()
        # NumPy knows no bfloat16: the bits go over as bytes.
        return np.array(part.view(torch.uint8).numpy().view(dtype))

    return LazyTensor(tuple(value.shape), dtype, read)
