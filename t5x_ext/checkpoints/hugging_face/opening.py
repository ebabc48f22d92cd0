"""Opens a directory that transformers wrote, after checking every name and shape in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from t5x_ext import files
from t5x_ext.checkpoints.digests import hash_files
from t5x_ext.checkpoints.hugging_face import configs, names, pickles, safetensors_files, tokenizers
from t5x_ext.checkpoints.sources import Index, LazyTensor, Source
from t5x_ext.errors import ConfigError
from t5x_ext.models.network import T5Config

_COMPARED_BYTES = 1 << 24  # of each of two tensors at a time

# In the order of preference of transformers.
_READERS = {
    safetensors_files.FILE: safetensors_files.read_header,
    safetensors_files.INDEX_FILE: safetensors_files.read_index,
    pickles.FILE: pickles.read_pickle,
    pickles.INDEX_FILE: pickles.read_pickle_index,
}


def open_hf(path: str) -> Source:
    """Opens a T5 1.0, 1.1, LM-adapted, Flan, Tk-Instruct, mT5 or ByT5 checkpoint.

    Every tensor of the files is used exactly once: none may be missing, unknown or mis-shaped.
    Copies of the embedding under its other names are compared with it and then left out, and so
    is the cross-attention position table of T5 1.0, which no forward pass reads.

    Args:
        path: Directory with config.json and weights, local or `gs://`.

    Returns:
        The checkpoint; `meta['hugging_face']` is its config.json.

    Raises:
        ConfigError: If the files are incomplete or damaged, disagree with config.json, or are of
            a model that our network does not express.
    """
    directory = files.absolute(path)
    raw = configs.read_config(directory)
    weights, stored = _read_weights(directory)
    stored = {name: tensor for name, tensor in stored.items() if name != names.UNUSED}
    cfg = _decide_config(directory, raw, stored)
    deepest = max(cfg.num_encoder_layers, cfg.num_decoder_layers)
    if deepest > len(stored):  # before names are made for each of perhaps billions of layers
        raise ConfigError(
            f"{directory / configs.CONFIG_FILE}: {deepest} layers in a stack, but {weights.name}"
            f" has only {len(stored)} tensors"
        )
    aliases = names.EMBEDDING_ALIASES + ((names.HEAD,) if cfg.logits_via_embedding else ())
    stored = _merge_aliases(directory, stored, (names.EMBEDDING, *aliases))
    wanted = names.placements(cfg)
    problem = names.describe_mismatch({n: t.shape for n, t in stored.items()}, wanted)
    if problem:
        raise ConfigError(f"{weights}: tensors do not match {configs.CONFIG_FILE}: {problem}")
    tensors = {
        name: _assemble(directory, [stored[n] for n in placement.names], placement)
        for name, placement in wanted.items()
    }
    return Source(
        kind="hf",
        path=str(directory),
        tensors=tensors,
        config=cfg,
        step=0,
        digest_fn=lambda: hash_files(_weight_files(weights, directory), directory),
        meta={"hugging_face": raw},
        tokenizer_dir=str(directory) if tokenizers.files_in(directory) else None,
    )


def _read_weights(directory: epath.Path) -> tuple[epath.Path, dict[str, LazyTensor]]:
    """The file that says what weights there are, and the tensors by transformers' names."""
    for name, read in _READERS.items():
        if (directory / name).exists():
            return directory / name, read(directory / name)
    raise ConfigError(f"{directory}: holds no weights; allowed: {', '.join(_READERS)}")


def _weight_files(weights: epath.Path, directory: epath.Path) -> list[epath.Path]:
    files = [directory / configs.CONFIG_FILE, weights]
    if weights.name.endswith(".json"):
        files += [directory / name for name in safetensors_files.read_weight_map(weights)]
    return files


def _decide_config(
    directory: epath.Path, raw: Mapping[str, Any], stored: Mapping[str, LazyTensor]
) -> T5Config:
    """Decides by the tensors whether the output is tied, and holds config.json to it."""
    path = directory / configs.CONFIG_FILE
    head, embedding = stored.get(names.HEAD), stored.get(names.EMBEDDING)
    scaled = configs.scales_output(raw)
    stated = {
        field: raw[field]
        for field in ("tie_word_embeddings", "scale_decoder_outputs")
        if field in raw
    } or "no tie_word_embeddings"
    if raw["model_type"] == "mt5":
        # transformers 5 writes tie_word_embeddings: true for these too, and never scales.
        if head is None:
            raise ConfigError(f"{directory}: an mt5 checkpoint without {names.HEAD}")
        tied = False
    elif head is None and not scaled:
        raise ConfigError(
            f"{path}: {stated} means an output that is not scaled, but there is no {names.HEAD};"
            " allowed without one: a scaled output, tied to the embedding (T5 1.0)"
        )
    else:
        tied = scaled
        if tied and head and embedding and not _equal(head, embedding):
            raise ConfigError(
                f"{path}: {stated} means an output tied to the embedding, but {names.HEAD} differs"
                f" from {names.EMBEDDING}; tie_word_embeddings: false would use it"
            )
    return configs.to_t5_config(raw, str(path), logits_via_embedding=tied)


def _merge_aliases(
    directory: epath.Path, stored: dict[str, LazyTensor], same: Sequence[str]
) -> dict[str, LazyTensor]:
    """Keeps one of several tensors that must be equal, under the first name."""
    present = [name for name in same if name in stored]
    for name in present[1:]:
        if not _equal(stored[present[0]], stored[name]):
            raise ConfigError(f"{directory}: {name} differs from {present[0]}, whose copy it is")
    others = {name: tensor for name, tensor in stored.items() if name not in present}
    return others | ({same[0]: stored[present[0]]} if present else {})


def _equal(left: LazyTensor, right: LazyTensor) -> bool:
    """Compares two matrices bit by bit, some rows at a time."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    rows = max(1, _COMPARED_BYTES // max(1, math.prod(left.shape[1:]) * left.dtype.itemsize))
    parts = (
        (slice(first, min(first + rows, left.shape[0])),) + (slice(None),) * (len(left.shape) - 1)
        for first in range(0, left.shape[0], rows)
    )
    return all(left.read(part).tobytes() == right.read(part).tobytes() for part in parts)


def _assemble(
    directory: epath.Path, parts: Sequence[LazyTensor], placement: names.Placement
) -> LazyTensor:
    """One of our parameters, made of transformers' tensors whenever a part of it is read."""
    dtypes = {part.dtype.name: name for name, part in zip(placement.names, parts, strict=True)}
    if len(dtypes) > 1:
        found = ", ".join(f"{name} is {dtype}" for dtype, name in dtypes.items())
        raise ConfigError(f"{directory}: layers of one stack differ in dtype: {found}")
    dtype = parts[0].dtype
    shape = placement.shape[::-1] if placement.transposed else placement.shape

    def read_part(part: LazyTensor, index: Index) -> np.ndarray:
        return part.read(index[::-1]).T if placement.transposed else part.read(index)

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
