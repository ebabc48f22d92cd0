"""Opens a directory that transformers wrote, after checking every name and shape in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from t5x_ext import files
from t5x_ext.checkpoints.digests import hash_files
from t5x_ext.checkpoints.hugging_face import configs, pickles, safetensors_files, tokenizers
from t5x_ext.checkpoints.hugging_face.families import family_by_model_type
from t5x_ext.checkpoints.hugging_face.placements import (
    Placement,
    deepest_stack,
    describe_mismatch,
    place_all,
)
from t5x_ext.checkpoints.sources import Index, LazyTensor, Source
from t5x_ext.errors import ConfigError
from t5x_ext.models.config import ModelConfig

# In the order of preference of transformers.
_READERS = {
    safetensors_files.FILE: safetensors_files.read_header,
    safetensors_files.INDEX_FILE: safetensors_files.read_index,
    pickles.FILE: pickles.read_pickle,
    pickles.INDEX_FILE: pickles.read_pickle_index,
}


def open_hf(path: str) -> Source:
    """Opens a checkpoint of one of `families`.

    Every tensor of the files is used exactly once: none may be missing, unknown or mis-shaped.
    Copies of a tensor under other names are compared with it and then left out, and so is what no
    forward pass reads.

    Args:
        path: Directory with config.json and weights, local or `gs://`.

    Returns:
        The checkpoint; `meta['hugging_face']` is its config.json, `meta['generation_config']` the
        file of that name where there is one.

    Raises:
        ConfigError: If the files are incomplete or damaged, disagree with config.json, or are of
            a model that our network does not express.
    """
    directory = files.absolute(path)
    raw = configs.read_json(directory / configs.CONFIG_FILE)
    family_by_model_type(raw.get("model_type"), str(directory / configs.CONFIG_FILE))
    weights, stored = _read_weights(directory)
    cfg, tensors = assemble(raw, stored, directory / configs.CONFIG_FILE, weights)
    meta = {"hugging_face": raw}
    if (directory / configs.GENERATION_FILE).exists():
        meta["generation_config"] = configs.read_json(directory / configs.GENERATION_FILE)
    return Source(
        kind="hf",
        path=str(directory),
        tensors=tensors,
        config=cfg,
        step=0,
        digest_fn=lambda: hash_files(_weight_files(weights, directory), directory),
        meta=meta,
        tokenizer_dir=str(directory) if tokenizers.files_in(directory) else None,
    )


def assemble(
    raw: Mapping[str, Any],
    stored: Mapping[str, LazyTensor],
    config_file: epath.Path,
    weights: epath.Path,
) -> tuple[ModelConfig, dict[str, LazyTensor]]:
    """Our config and parameters for transformers' config and tensors.

    Args:
        raw: config.json.
        stored: Tensors by transformers' names.
        config_file: Where `raw` is from, for messages.
        weights: Where `stored` is from, for messages.

    Raises:
        ConfigError: If they do not fit each other, or are of a model that we do not express.
    """
    family = family_by_model_type(raw.get("model_type"), str(config_file))
    try:
        cfg, used = family.read(raw, stored, str(config_file))
    except ConfigError as error:
        if str(config_file) in str(error):
            raise
        raise ConfigError(f"{config_file}: {error}") from None
    deepest = deepest_stack(cfg)
    if deepest > len(stored):  # before names are made for each of perhaps billions of layers
        raise ConfigError(
            f"{config_file}: {deepest} layers in a stack, but {weights.name}"
            f" has only {len(stored)} tensors"
        )
    wanted = place_all(cfg, family.names(cfg), family.fields)
    problem = describe_mismatch({name: t.shape for name, t in used.items()}, wanted)
    if problem:
        raise ConfigError(f"{weights}: tensors do not match {config_file.name}: {problem}")
    tensors = {
        name: _assemble(weights, [used[n] for n in placement.names], placement)
        for name, placement in wanted.items()
    }
    return cfg, tensors


def _read_weights(directory: epath.Path) -> tuple[epath.Path, dict[str, LazyTensor]]:
    """The file that says what weights there are, and the tensors by transformers' names."""
    for name, read in _READERS.items():
        if (directory / name).exists():
            files.refuse_endless(directory / name)
            return directory / name, read(directory / name)
    raise ConfigError(f"{directory}: holds no weights; allowed: {', '.join(_READERS)}")


def _weight_files(weights: epath.Path, directory: epath.Path) -> list[epath.Path]:
    found = [directory / configs.CONFIG_FILE, weights]
    if weights.name.endswith(".json"):
        found += [directory / name for name in safetensors_files.read_weight_map(weights)]
    return found


def _assemble(weights: epath.Path, parts: Sequence[LazyTensor], placement: Placement) -> LazyTensor:
    """One of our parameters, made of transformers' tensors whenever a part of it is read."""
    dtypes = {part.dtype.name: name for name, part in zip(placement.names, parts, strict=True)}
    if len(dtypes) > 1:
        found = ", ".join(f"{name} is {dtype}" for dtype, name in dtypes.items())
        raise ConfigError(f"{weights}: layers of one stack differ in dtype: {found}")
    dtype = parts[0].dtype
    shape = placement.part_shape

    def read_part(part: LazyTensor, index: Index) -> np.ndarray:
        index = index[::-1] if placement.transposed else index
        values = part.read(index) if placement.rows is None else _read_rows(part, index, placement)
        return values.T if placement.transposed else values

    def read_whole(index: Index) -> np.ndarray:
        return np.ascontiguousarray(read_part(parts[0], index))

    def read_stack(index: Index) -> np.ndarray:
        layers = parts[index[0]]
        lengths = [len(range(n)[s]) for n, s in zip(shape, index[1:], strict=True)]
        stack = np.empty((len(layers), *lengths), dtype)
        for i, part in enumerate(layers):
            stack[i] = read_part(part, index[1:])
        return stack

    if placement.stacked:
        return LazyTensor((len(parts), *shape), dtype, read_stack)
    return LazyTensor(shape, dtype, read_whole)


def _read_rows(part: LazyTensor, index: Index, placement: Placement) -> np.ndarray:
    """The rows of a fused tensor that are ours, one run of neighbours at a time."""
    assert placement.rows is not None
    numbers = placement.rows.numbers()[index[0]]
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    if not numbers.size:
        return part.read((slice(0, 0), *index[1:]))
    return np.concatenate(
        [part.read((slice(int(run[0]), int(run[-1]) + 1), *index[1:])) for run in runs]
    )
