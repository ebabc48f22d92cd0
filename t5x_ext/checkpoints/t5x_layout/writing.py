"""Writing T5X's own layout: the one that each of its versions restores, with or without Orbax."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from t5x_ext.checkpoints import meta, tensorstores, trees
from t5x_ext.checkpoints.destinations import Check, complete_or_absent, unchecked
from t5x_ext.checkpoints.sources import Index, LazyTensor, Source
from t5x_ext.checkpoints.t5x_layout import flax_msgpack
from t5x_ext.checkpoints.t5x_layout.moments import empty_moments
from t5x_ext.checkpoints.t5x_layout.places import LAYER_AXIS, Place, network_for, places
from t5x_ext.checkpoints.t5x_layout.stored import INDEX, META_FILE
from t5x_ext.errors import ConfigError
from t5x_ext.models import network
from t5x_ext.models.t5_config import T5Config

_VERSION = 3


def write_t5x(
    source: Source,
    destination: str,
    scan_layers: bool = False,
    dtype: str | None = None,
    check: Check = unchecked,
) -> None:
    """Writes parameters, step and an optimizer's empty state, streaming; complete or absent.

    What T5X restores by default to go on training with Adafactor. The second moments start at zero:
    sources do not carry an optimizer's state. Another optimizer needs
    `RestoreCheckpointConfig.fallback_to_scratch = True` and `assignment_map = ()` there.

    Args:
        source: A checkpoint with a config.
        destination: Directory to create, for T5X best named `checkpoint_<step>`; must not exist.
        scan_layers: Write for examples/scalable_t5 with scanned layers instead of examples/t5, or
            instead of scalable_t5 with its layers by number where each has a position table.
        dtype: "float32" or "bfloat16" instead of each parameter's own.
        check: Called with the directory that holds everything, before it gets its name.

    Raises:
        ConfigError: If the source has no config, or the destination exists.
        ValueError: If a file of the source is damaged.
    """
    trees.check_dtype(dtype, "dtype")
    if source.config is None:
        raise ConfigError(f"{source.path}: states no model config, which the names need")
    if not isinstance(source.config, T5Config):
        raise ConfigError(
            f"{source.path}: is a {source.config.family} model; allowed in T5X's layout: t5"
        )
    placed = places(source.config, network_for(source.config, scan_layers))
    with complete_or_absent(destination) as directory:
        target: dict[str, Any] = {}
        moments: dict[str, Any] = {}
        specs = trees.named_leaves(network.Transformer(source.config).specs)
        for name, place in placed.items():
            for part, spec in _write(directory, source.tensors[name], place, dtype).items():
                _insert(target, part, spec)
                _insert(moments, part, empty_moments(place, specs[name].axes))
        state = {
            "target": target,
            "state": {"step": np.int32(source.step), "param_states": moments},
        }
        index = flax_msgpack.encode({"version": _VERSION, "optimizer": state})
        (directory / INDEX).write_bytes(index)
        (directory / META_FILE).write_text(json.dumps(meta.describe(source)))
        meta.copy_tokenizer(source, directory)
        check(directory)


def _write(
    directory: epath.Path, tensor: LazyTensor, place: Place, dtype: str | None
) -> dict[str, dict[str, Any]]:
    """Writes one of our parameters; returns the index's entries of its parts."""
    stored = np.dtype(dtype) if dtype else tensor.dtype
    layer = tensorstores.chunk_shape(place.layer_shape, stored.itemsize)
    chunks = (*layer[:LAYER_AXIS], 1, *layer[LAYER_AXIS:]) if place.scanned else layer
    files = {name: f"target.{name.replace('/', '.')}" for name in place.names}
    writers = [
        tensorstores.create_array(directory, file, place.shape, stored, chunks, gzip=True)
        for file in files.values()
    ]
    for index in _slabs(place, stored.itemsize):
        values = tensor.read(index).astype(stored, copy=False)
        _write_slab(place, writers, index, values)
    # As T5X states them: `metadata` without dtype, the path relative to the index.
    spec = {
        "driver": "zarr",
        "dtype": stored.name,
        "metadata": {
            "shape": list(place.shape),
            "chunks": list(chunks),
            "compressor": tensorstores.GZIP,
        },
    }
    return {
        name: spec | {"kvstore": {"driver": "file", "path": f"{file}/"}}
        for name, file in files.items()
    }


def _slabs(place: Place, itemsize: int) -> Iterator[Index]:
    """Slices of ours; of a parameter with layers, as many whole layers as may be in memory."""
    if place.num_layers is None:
        yield from tensorstores.slabs(place.ours, itemsize)
    elif place.shared:
        yield (slice(None),) * len(place.ours)
    else:
        count = max(1, tensorstores.SLAB_BYTES // (math.prod(place.layer_shape) * itemsize))
        for first in range(0, place.num_layers, count):
            layers = slice(first, min(first + count, place.num_layers))
            yield (layers, *(slice(None),) * len(place.ours[1:]))


def _write_slab(
    place: Place,
    writers: Sequence[Callable[[Index, np.ndarray], None]],
    index: Index,
    values: np.ndarray,
) -> None:
    if place.num_layers is None:
        writers[0](index, values)
        return
    first, count = (0, place.num_layers) if place.shared else (index[0].start, len(values))
    layers = np.broadcast_to(values.reshape(-1, *place.layer_shape), (count, *place.layer_shape))
    if place.scanned:
        whole = (slice(None),) * LAYER_AXIS
        writers[0]((*whole, slice(first, first + count)), np.moveaxis(layers, 0, LAYER_AXIS))
        return
    for write, layer in zip(writers[first : first + count], layers, strict=True):
        write((), layer)


def _insert(tree: dict[str, Any], name: str, leaf: Any) -> None:
    *parents, last = name.split("/")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = leaf
