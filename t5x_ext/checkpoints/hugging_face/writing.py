"""Writes any opened checkpoint as a directory that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
from etils import epath

from t5x_ext.checkpoints import trees
from t5x_ext.checkpoints.destinations import Check, complete_or_absent, unchecked
from t5x_ext.checkpoints.hugging_face import configs, names, safetensors_files, tokenizers
from t5x_ext.checkpoints.hugging_face.safetensors_files import TensorInfo
from t5x_ext.checkpoints.sources import LazyTensor, Source
from t5x_ext.errors import ConfigError
from t5x_ext.models.t5_config import T5Config

MAX_FILE_BYTES = 5_000_000_000


def write_hf(
    source: Source,
    destination: str,
    dtype: str | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    check: Check = unchecked,
) -> None:
    """Writes config.json, generation_config.json, safetensors and the tokenizer's files.

    Our parameters are read one at a time and each exactly once; at most one and one layer's share
    of it are in memory.

    Args:
        source: The checkpoint.
        destination: Directory to create, local or `gs://`; complete or absent.
        dtype: 'float32' or 'bfloat16' for all weights; None keeps each one's.
        max_file_bytes: Larger weights are split into several files with an index.
        check: Called with the directory that holds everything, before it gets its name.

    Raises:
        ConfigError: If the destination exists, or the model has no counterpart in transformers.
    """
    trees.check_dtype(dtype, "dtype")
    if source.config is None:
        raise ConfigError(
            f"{source.path}: does not state the model's config, which transformers needs"
        )
    if not isinstance(source.config, T5Config):
        raise ConfigError(f"{source.path}: {source.config.family} models cannot be written yet")
    # Wider dtypes first, so that every tensor starts at a multiple of its item size.
    tensors = sorted(source.tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    placements = names.placements(source.config)
    stored = {name: np.dtype(dtype or tensor.dtype) for name, tensor in tensors}
    infos = [
        TensorInfo(theirs, placements[name].shape, stored[name])
        for name, _ in tensors
        for theirs in placements[name].names
    ]
    model_type = source.meta.get("hugging_face", {}).get("model_type", "t5")
    config = configs.from_t5_config(source.config, model_type, _most_common(infos))
    metadata = {"source": source.path, "source_kind": source.kind, "source_sha256": source.digest}

    def arrays() -> Iterator[np.ndarray]:
        for name, tensor in tensors:
            yield from _take_apart(tensor, placements[name], stored[name])

    with complete_or_absent(destination) as directory:
        safetensors_files.write_files(directory, infos, arrays(), metadata, max_file_bytes)
        _write_json(directory / configs.CONFIG_FILE, config)
        _write_json(directory / "generation_config.json", configs.SPECIAL_TOKENS)
        if source.tokenizer_dir is not None:
            tokenizers.copy_tokenizer(epath.Path(source.tokenizer_dir), directory)
        check(directory)


def _take_apart(
    tensor: LazyTensor, placement: names.Placement, dtype: np.dtype
) -> Iterator[np.ndarray]:
    """transformers' tensors of one of our parameters."""
    whole = tensor.whole()
    for part in whole if placement.stacked else (whole,):
        yield (part.T if placement.transposed else part).astype(dtype, copy=False)


def _most_common(infos: list[TensorInfo]) -> str:
    """The dtype that most of the values have."""
    sizes: dict[str, int] = {}
    for info in infos:
        sizes[info.dtype.name] = sizes.get(info.dtype.name, 0) + info.num_bytes
    return max(sizes, key=sizes.__getitem__)


def _write_json(path: epath.Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
