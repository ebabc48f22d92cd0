"""Writes any opened checkpoint as one of ours, tensor by tensor."""

from __future__ import annotations

import hashlib

import numpy as np
from etils import epath

from t5x_ext.checkpoints import meta, orbax_trees, tensorstores, trees
from t5x_ext.checkpoints.destinations import complete_or_absent
from t5x_ext.checkpoints.directories import FINGERPRINT, META, STATE, write_manifest
from t5x_ext.checkpoints.own_layout import CONTENT, PARAMS, write_json
from t5x_ext.checkpoints.sources import Source

_COMPRESSOR = {"id": "zstd", "level": 1}  # as Orbax


def write_params(source: Source, destination: str, dtype: str | None = None) -> None:
    """Writes parameters, config and origin, streaming; complete or absent.

    The result is what `save_params` writes of the same values, and has the same fingerprint. Orbax
    itself would want all values in memory; its format is written through TensorStore instead.

    Args:
        source: The checkpoint.
        destination: Directory to create; must not exist.
        dtype: "float32" or "bfloat16" instead of each tensor's own.

    Raises:
        ConfigError: If the destination exists.
        ValueError: If a file of the source is damaged.
    """
    trees.check_dtype(dtype, "dtype")
    with complete_or_absent(destination) as directory:
        content = _write_state(source, directory / STATE, dtype)
        write_json(directory, META, meta.describe(source))
        write_json(directory, FINGERPRINT, {CONTENT: content})
        meta.copy_tokenizer(source, directory)
        write_manifest(directory)


def _write_state(source: Source, state: epath.Path, dtype: str | None) -> str:
    """Writes all arrays and their description; returns the hash of their content."""
    state.mkdir()
    digest = hashlib.sha256()
    for name, tensor in sorted(source.tensors.items()):  # the order of the fingerprint
        stored = np.dtype(dtype) if dtype else tensor.dtype
        digest.update(f"{name} {stored} {tensor.shape}\n".encode())
        write = tensorstores.create_array(
            state,
            f"{PARAMS}.{name.replace('/', '.')}",
            tensor.shape,
            stored,
            tensorstores.chunk_shape(tensor.shape, stored.itemsize),
            compressor=_COMPRESSOR,
            ocdbt=True,
        )
        for index in tensorstores.slabs(tensor.shape, stored.itemsize):
            values = tensor.read(index).astype(stored, copy=False)
            digest.update(values.view(np.uint8).data)
            write(index, values)
    names = [f"{PARAMS}/{name}" for name in source.tensors]
    (state / orbax_trees.METADATA).write_text(orbax_trees.describe_tree(names))
    return digest.hexdigest()
