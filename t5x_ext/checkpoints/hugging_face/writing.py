"""Writes any opened checkpoint as a directory that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from t5x_ext.checkpoints import trees
from t5x_ext.checkpoints.destinations import Check, complete_or_absent, unchecked
from t5x_ext.checkpoints.hugging_face import configs, safetensors_files, tokenizers
from t5x_ext.checkpoints.hugging_face.families import family_of
from t5x_ext.checkpoints.hugging_face.placements import Placement, place_all
from t5x_ext.checkpoints.hugging_face.safetensors_files import TensorInfo
from t5x_ext.checkpoints.sources import EOS_IDS, LazyTensor, Source
from t5x_ext.errors import ConfigError

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
    of it are in memory, or those that transformers keeps in one tensor.

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
    source.check_causal("transformers")
    family = family_of(source.config)
    model_type = source.meta.get("hugging_face", {}).get("model_type")
    config = family.write(source.config, model_type if model_type in family.model_types else None)
    placements = place_all(source.config, family.names(source.config), family.fields)
    # Wider dtypes first, so that every tensor starts at a multiple of its item size.
    groups = sorted(
        (_Group(dtype, source.tensors, group) for group in _fused(placements)),
        key=lambda group: -group.dtype.itemsize,
    )
    infos = [info for group in groups for info in group.infos()]
    dtype_name = _most_common(infos)
    tokens = _special_tokens(source, family.special_tokens(source.meta))
    config |= {**tokens, "dtype": dtype_name, "torch_dtype": dtype_name}
    stated = source.meta.get("generation_config", {})
    generation = {name: stated.get(name, value) for name, value in tokens.items()}
    metadata = {"source": source.path, "source_kind": source.kind, "source_sha256": source.digest}
    arrays = (array for group in groups for array in group.arrays())
    with complete_or_absent(destination) as directory:
        safetensors_files.write_files(directory, infos, arrays, metadata, max_file_bytes)
        _write_json(directory / configs.CONFIG_FILE, config)
        _write_json(directory / configs.GENERATION_FILE, generation)
        if source.tokenizer_dir is not None:
            tokenizers.copy_tokenizer(epath.Path(source.tokenizer_dir), directory)
        check(directory)


def _special_tokens(source: Source, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Ids for transformers, which generates for ever where it is told no end of a text.

    A checkpoint of a run has them of its tokenizer, and of the checkpoint that it began with.
    """
    found = dict(stated)
    if found.get("eos_token_id") is not None:
        return found
    ends: list[int] = []
    if source.tokenizer_dir is not None:
        from mixtures.vocabularies import open_vocabulary

        vocabulary = open_vocabulary(source.tokenizer_dir)
        ends += getattr(vocabulary, "eos_ids", (vocabulary.eos_id,))
        found["bos_token_id"] = getattr(vocabulary, "bos_id", None)
    ends = list(dict.fromkeys((*ends, *source.meta.get(EOS_IDS, ()))))
    if ends:
        found["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    return found


def _fused(placements: Mapping[str, Placement]) -> list[dict[str, Placement]]:
    """The parameters that share tensors, together; all others alone."""
    groups: dict[tuple[str, ...], dict[str, Placement]] = {}
    for name, placement in placements.items():
        groups.setdefault(placement.names, {})[name] = placement
    return list(groups.values())


class _Group:
    """Parameters that are written together, because their tensors are the same.

    All of them are in memory at once: query, key and value of all layers, which no family has
    larger than its feed-forward block.
    """

    def __init__(
        self,
        dtype: str | None,
        tensors: Mapping[str, LazyTensor],
        placements: Mapping[str, Placement],
    ):
        self.parts = [(tensors[name], placement) for name, placement in placements.items()]
        dtypes = {tensors[name].dtype.name: name for name in placements}
        if not dtype and len(dtypes) > 1:
            found = ", ".join(f"{name} is {stored}" for stored, name in dtypes.items())
            raise ConfigError(
                f"dtype: {found}, which transformers keeps in one tensor; allowed: one"
            )
        self.dtype = np.dtype(dtype or self.parts[0][0].dtype)

    def infos(self) -> list[TensorInfo]:
        placement = self.parts[0][1]
        return [TensorInfo(name, placement.shape, self.dtype) for name in placement.names]

    def arrays(self) -> Iterator[np.ndarray]:
        """transformers' tensors, one after the other."""
        parts = [(tensor.whole(), placement) for tensor, placement in self.parts]
        for layer in range(len(self.parts[0][1].names)):
            made = [
                (self._of_layer(whole, placement, layer), placement) for whole, placement in parts
            ]
            first, placement = made[0]
            if placement.rows is None:
                yield first
                continue
            fused = np.empty(placement.shape, self.dtype)
            for values, part in made:
                assert part.rows is not None
                fused[part.rows.numbers()] = values
            yield fused

    def _of_layer(self, whole: np.ndarray, placement: Placement, layer: int) -> np.ndarray:
        part = whole[layer] if placement.stacked else whole
        return (part.T if placement.transposed else part).astype(self.dtype, copy=False)


def _most_common(infos: list[TensorInfo]) -> str:
    """The dtype that most of the values have."""
    sizes: dict[str, int] = {}
    for info in infos:
        sizes[info.dtype.name] = sizes.get(info.dtype.name, 0) + info.num_bytes
    return max(sizes, key=sizes.__getitem__)


def _write_json(path: epath.Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
