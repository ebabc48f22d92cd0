"""T5X's checkpoint as a source: its parts turned into our parameters, slice by slice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from etils import epath

from t5x_ext.checkpoints import trees
from t5x_ext.checkpoints.meta import config_in, tokenizer_of
from t5x_ext.checkpoints.sources import Index, LazyTensor, Source
from t5x_ext.checkpoints.t5x_layout.places import LAYER_AXIS, Place, places, recognise
from t5x_ext.checkpoints.t5x_layout.stored import open_stored
from t5x_ext.errors import ConfigError
from t5x_ext.models.t5_config import T5Config


def open_t5x(path: str) -> Source:
    """Opens a T5X checkpoint of one of its T5 networks, in any of its layouts.

    Its config is inferred, see `places.recognise`, unless `write_t5x` wrote it. Of layers whose
    position tables differ, each keeps its own; the tables (a few KiB) are read to tell.

    Args:
        path: Directory of one checkpoint, local or `gs://`.

    Raises:
        ConfigError: If it is of another model: a parameter is missing, left over, or of another
            shape; or if it states that its layers share a position table, and they do not.
        Damage: If a file is damaged or missing.
    """
    directory = epath.Path(path)
    stored = open_stored(directory)
    try:
        kind, inferred = recognise({name: part.shape for name, part in stored.params.items()})
    except ConfigError as error:
        raise ConfigError(f"{directory}: {error}") from None
    meta = {"step": stored.step, **stored.meta}
    stated = config_in(meta, directory)
    config = stated or inferred
    if not isinstance(config, T5Config):
        raise ConfigError(f"{directory}: states a {config.family} model; its parameters are T5's")
    for field in ("num_encoder_layers", "num_decoder_layers"):
        if getattr(config, field) != getattr(inferred, field):
            raise ConfigError(
                f"{directory}: its model_config has {field} {getattr(config, field)!r:.40}, its"
                f" parameters {getattr(inferred, field)}"
            )
    placed = places(config, kind)
    wanted = {
        name: jax.ShapeDtypeStruct(place.shape, np.float32)
        for place in placed.values()
        for name in place.names
    }
    trees.check_tree(directory, stored.params, wanted)
    differing = _differing_tables(placed, stored.params)
    if differing and stated:
        raise ConfigError(
            f"{directory}: {differing} differs from layer to layer; its model_config has"
            " position_table_per_layer False"
        )
    if differing:
        config = config.replace(position_table_per_layer=True)
        placed = places(config, kind)  # the same parts, put together in another way
    tensors = {
        name: _tensor(place, [stored.params[part] for part in place.names])
        for name, place in placed.items()
    }
    return Source(
        kind="t5x",
        path=path,
        tensors=tensors,
        config=config,
        step=stored.step,
        digest_fn=stored.digest_fn,
        meta=meta,
        tokenizer_dir=tokenizer_of(directory),
    )


def _tensor(place: Place, parts: Sequence[LazyTensor]) -> LazyTensor:
    """Our parameter: the layers first, heads and head_dim one axis."""

    def read(index: Index) -> np.ndarray:
        bounds = tuple(
            slice(*part.indices(size)[:2]) for part, size in zip(index, place.ours, strict=True)
        )
        if place.num_layers is None:
            return parts[0].read(bounds)
        if place.shared:
            return _read_layers(place, parts, slice(0, 1), bounds)[0]
        return _read_layers(place, parts, bounds[0], bounds[1:])

    return LazyTensor(place.ours, parts[0].dtype, read)


def _read_layers(
    place: Place, parts: Sequence[LazyTensor], layers: slice, bounds: Index
) -> np.ndarray:
    """Some layers [layers, ...], cut to `bounds` of a layer in our shape."""
    bounds, cut = _split(place, bounds)
    if place.scanned:
        whole = parts[0].read((*bounds[:LAYER_AXIS], layers, *bounds[LAYER_AXIS:]))
        values = np.moveaxis(whole, LAYER_AXIS, 0)
    else:
        shape = [part.stop - part.start for part in bounds]
        values = np.empty((layers.stop - layers.start, *shape), parts[0].dtype)
        for row, part in zip(values, parts[layers], strict=True):
            row[...] = part.read(bounds)
    if place.split_axis is not None:
        at = place.split_axis + 1
        joined = math.prod(values.shape[at : at + 2])
        values = values.reshape(*values.shape[:at], joined, *values.shape[at + 2 :])
    return np.ascontiguousarray(values[(slice(None), *cut)])


def _split(place: Place, bounds: Index) -> tuple[Index, Index]:
    """Slices of a layer in T5X's shape that hold `bounds`, and the part of them that is meant."""
    at = place.split_axis
    if at is None:
        return bounds, (slice(None),) * len(bounds)
    head_dim = place.layer_shape[at + 1]
    start, stop = bounds[at].start, bounds[at].stop
    first, last = start // head_dim, -(-stop // head_dim)
    heads = (slice(first, last), slice(0, head_dim))
    cut = [slice(None)] * len(bounds)
    cut[at] = slice(start - first * head_dim, stop - first * head_dim)
    return (*bounds[:at], *heads, *bounds[at + 1 :]), tuple(cut)


def _differing_tables(placed: Mapping[str, Place], params: Mapping[str, LazyTensor]) -> str | None:
    """The first parameter that the layers of our model share and those of the files do not."""
    for place in placed.values():
        if not place.shared:
            continue
        tables = [params[name].whole() for name in place.names]
        layers = np.moveaxis(tables[0], LAYER_AXIS, 0) if place.scanned else np.stack(tables)
        if len({layer.tobytes() for layer in layers}) > 1:  # bits: 0.0 == -0.0, but NaN != NaN
            return place.names[0]
    return None
