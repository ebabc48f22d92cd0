"""Our own checkpoints as sources: what runs save, and what `save_params` and `convert` write."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from etils import epath

from t5x_ext.checkpoints import orbax_trees
from t5x_ext.checkpoints.digests import hash_files
from t5x_ext.checkpoints.directories import FINGERPRINT, META, PREFIX, STATE, files_in
from t5x_ext.checkpoints.sources import Source
from t5x_ext.errors import ConfigError
from t5x_ext.models.network import T5Config

TOKENIZER = "tokenizer"
PARAMS = "params"

_JSON = "metadata"  # Orbax's name for the file of a JSON item


def open_t5x_ext(checkpoint: epath.Path) -> Source:
    """Opens one checkpoint directory.

    The tensors are those under `params`, of whatever model; optimizer state is passed over.

    Raises:
        ValueError: If a part is damaged or missing.
        ConfigError: If the model's shape is stated with fields that T5Config has not.
    """
    state = checkpoint / STATE
    prefix = f"{PARAMS}/"
    names = [name for name in orbax_trees.names_in(state) if name.startswith(prefix)]
    if not names:
        raise ValueError("its list of tensors names no parameters")
    arrays = orbax_trees.open_arrays(state, names)
    meta = read_json(checkpoint, META)
    return Source(
        kind="t5x_ext",
        path=str(checkpoint),
        tensors={name.removeprefix(prefix): array for name, array in arrays.items()},
        config=_config(checkpoint, meta),
        step=meta.get("step", 0),
        digest=_digest(checkpoint),
        meta=meta,
        tokenizer_dir=_tokenizer_dir(checkpoint),
    )


def read_json(checkpoint: epath.Path, item: str) -> dict[str, Any]:
    """Reads a JSON item."""
    return json.loads((checkpoint / item / _JSON).read_text())


def write_json(checkpoint: epath.Path, item: str, value: dict[str, Any]) -> None:
    """Writes a JSON item as Orbax does."""
    (checkpoint / item).mkdir()
    (checkpoint / item / _JSON).write_text(json.dumps(value))


def _config(checkpoint: epath.Path, meta: dict[str, Any]) -> T5Config | None:
    fields = meta.get("t5_config")
    if fields is None:
        return None
    unknown = fields.keys() - {field.name for field in dataclasses.fields(T5Config)}
    if unknown:
        raise ConfigError(
            f"{checkpoint}: its t5_config names {', '.join(sorted(unknown))}, which this version"
            " does not know; it was written by a newer one"
        )
    return T5Config(**fields)


def _digest(checkpoint: epath.Path) -> str:
    if (checkpoint / FINGERPRINT).is_dir():
        return read_json(checkpoint, FINGERPRINT)["params_sha256"]
    return hash_files(files_in(checkpoint), checkpoint)


def _tokenizer_dir(checkpoint: epath.Path) -> str | None:
    """A run keeps its tokenizer once, in MODEL_DIR."""
    places = [checkpoint / TOKENIZER]
    if checkpoint.name.startswith(f"{PREFIX}_"):
        places.append(checkpoint.parent / TOKENIZER)
    return next((str(place) for place in places if place.is_dir()), None)
