"""Our own checkpoints, read and written as sources: what runs save, and `save_params`, `convert`.

state/      the arrays: zarr 3 in an OCDBT database, a checksum for each chunk, as `saving` and
            Orbax write it (older ones: zarr 2 without checksums)
meta/       step, seed, config, origin: JSON
data/       the position in the training data, in a run's: JSON
fingerprint/  a hash of all values, in parameters saved alone: JSON
tokenizer/  in converted ones; a run keeps it once, in MODEL_DIR
later.json  what has been added to the meta since, in few
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from t5x_ext import files
from t5x_ext.checkpoints import meta, orbax_trees, tensorstores, trees
from t5x_ext.checkpoints.damage import decoding
from t5x_ext.checkpoints.destinations import Check, complete_or_absent, unchecked
from t5x_ext.checkpoints.digests import hash_files
from t5x_ext.checkpoints.directories import FINGERPRINT, META, STATE
from t5x_ext.checkpoints.manifests import files_in, has_checksums, hash_manifest, write_manifest
from t5x_ext.checkpoints.sources import Source
from t5x_ext.models import network

PARAMS = "params"
CONTENT = "params_sha256"  # in the fingerprint

_LATER = "later.json"
_JSON = "metadata"  # Orbax's name for the file of a JSON item


def open_t5x_ext(path: str) -> Source:
    """Opens one checkpoint directory.

    The tensors are those under `params`, of whatever model; optimizer state is passed over.

    Raises:
        Damage: If a part is damaged or missing.
        ConfigError: If its config is not one of this version's, or not that of its tensors.
    """
    checkpoint = epath.Path(path)
    state = checkpoint / STATE
    prefix = f"{PARAMS}/"
    names = [name for name in orbax_trees.names_in(state) if name.startswith(prefix)]
    if not names:
        raise ValueError("its list of tensors names no parameters")
    arrays = orbax_trees.open_arrays(state, names)
    tensors = {name.removeprefix(prefix): array for name, array in arrays.items()}
    facts = read_meta(checkpoint)
    config = meta.config_in(facts, checkpoint)
    if config is not None:
        whole = network.Transformer(config, meta.lora_in(facts))
        trees.check_tree(checkpoint, tensors, trees.named_leaves(whole.trainable))
    return Source(
        kind="t5x_ext",
        path=path,
        tensors=tensors,
        config=config,
        step=facts.get("step", 0),
        digest_fn=lambda: _digest(checkpoint),
        meta=facts,
        tokenizer_dir=meta.tokenizer_of(checkpoint),
    )


def write_params(
    source: Source, destination: str, dtype: str | None = None, check: Check = unchecked
) -> None:
    """Writes parameters, config and origin of any source, streaming; complete or absent.

    The result is what `save_params` writes of the same values, and has the same fingerprint. Orbax
    itself would want all values in memory; its format is written through TensorStore instead.

    Args:
        source: The checkpoint.
        destination: Directory to create; must not exist.
        dtype: "float32" or "bfloat16" instead of each tensor's own.
        check: Called with the directory that holds everything, before it gets its name.

    Raises:
        ConfigError: If the destination exists.
        Damage: If a file of the source is damaged.
    """
    trees.check_dtype(dtype, "dtype")
    with complete_or_absent(destination) as directory:
        content = _write_state(source, directory / STATE, dtype)
        write_json(directory, META, meta.describe(source))
        write_json(directory, FINGERPRINT, {CONTENT: content})
        meta.copy_tokenizer(source, directory)
        write_manifest(directory)
        check(directory)


def read_meta(checkpoint: epath.Path) -> dict[str, Any]:
    """What a checkpoint says of itself, and what has been added to that.

    Raises:
        Damage: If it does not decode.
    """
    found = read_json(checkpoint, META)
    later = checkpoint / _LATER
    if later.exists():
        with decoding(_LATER):
            found |= json.loads(files.read_text(later))
    return found


def add_to_meta(checkpoint: epath.Path, facts: Mapping[str, Any]) -> None:
    """Adds JSON to what a checkpoint says of itself; the last to be added is all that is added.

    The file is written whole or not at all, beside those of the manifest, which stay as they are.

    Raises:
        ConfigError: If it cannot be written.
    """
    files.write_text(checkpoint / _LATER, json.dumps(facts))


def read_json(checkpoint: epath.Path, item: str) -> dict[str, Any]:
    """Reads a JSON item.

    Raises:
        Damage: If it does not decode.
    """
    with decoding(f"{item}/{_JSON}"):
        return json.loads((checkpoint / item / _JSON).read_text())


def write_json(checkpoint: epath.Path, item: str, value: dict[str, Any]) -> None:
    """Writes a JSON item as Orbax does."""
    (checkpoint / item).mkdir()
    (checkpoint / item / _JSON).write_text(json.dumps(value))


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
        )
        for index in tensorstores.slabs(tensor.shape, stored.itemsize):
            values = tensor.read(index).astype(stored, copy=False)
            digest.update(values.view(np.uint8).data)
            write(index, values)
    names = [f"{PARAMS}/{name}" for name in source.tensors]
    (state / orbax_trees.METADATA).write_text(orbax_trees.describe_tree(names))
    return digest.hexdigest()


def _digest(checkpoint: epath.Path) -> str:
    """A hash of the values where there is one, else of the files."""
    if (checkpoint / FINGERPRINT).is_dir():
        return read_json(checkpoint, FINGERPRINT)[CONTENT]
    if has_checksums(checkpoint):
        return hash_manifest(checkpoint)
    saved = (file for file in files_in(checkpoint) if file.name != _LATER)
    return hash_files(saved, checkpoint)
