"""Our own checkpoints as sources: what runs save, and what `save_params` and `convert` write."""

from __future__ import annotations

import json
from typing import Any

from etils import epath

from t5x_ext.checkpoints import orbax_trees, trees
from t5x_ext.checkpoints.digests import hash_files
from t5x_ext.checkpoints.directories import FINGERPRINT, META, STATE, files_in
from t5x_ext.checkpoints.meta import config_in, tokenizer_of
from t5x_ext.checkpoints.sources import Source
from t5x_ext.models import network

PARAMS = "params"
CONTENT = "params_sha256"  # in the fingerprint

_JSON = "metadata"  # Orbax's name for the file of a JSON item


def open_t5x_ext(path: str) -> Source:
    """Opens one checkpoint directory.

    The tensors are those under `params`, of whatever model; optimizer state is passed over.

    Raises:
        ValueError: If a part is damaged or missing.
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
    meta = read_json(checkpoint, META)
    config = config_in(meta, checkpoint)
    if config is not None:
        trees.check_tree(checkpoint, tensors, trees.named_leaves(network.Transformer(config).specs))
    return Source(
        kind="t5x_ext",
        path=path,
        tensors=tensors,
        config=config,
        step=meta.get("step", 0),
        digest=_digest(checkpoint),
        meta=meta,
        tokenizer_dir=tokenizer_of(checkpoint),
    )


def read_json(checkpoint: epath.Path, item: str) -> dict[str, Any]:
    """Reads a JSON item."""
    return json.loads((checkpoint / item / _JSON).read_text())


def write_json(checkpoint: epath.Path, item: str, value: dict[str, Any]) -> None:
    """Writes a JSON item as Orbax does."""
    (checkpoint / item).mkdir()
    (checkpoint / item / _JSON).write_text(json.dumps(value))


def _digest(checkpoint: epath.Path) -> str:
    if (checkpoint / FINGERPRINT).is_dir():
        return read_json(checkpoint, FINGERPRINT)[CONTENT]
    return hash_files(files_in(checkpoint), checkpoint)
