"""Arrays in zarr stores, local or on a bucket, in OCDBT or not: read and written in slices."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from etils import epath

from t5x_ext.checkpoints.damage import tensorstore_error
from t5x_ext.checkpoints.sources import Index, LazyTensor

Shape = tuple[int, ...]

CHUNK_BYTES = 64 << 20  # on disk, as T5X's; a small slice then reads little in vain
GZIP = {"id": "gzip", "level": 1}  # level 1 is T5X's default
SLAB_BYTES = 512 << 20  # in memory: chunks of the source may be cut along other axes than ours


@functools.cache
def _tensorstore() -> ModuleType:
    """Imports TensorStore at first use: a config error must not wait for it."""
    import tensorstore

    return tensorstore


def kvstore(directory: epath.Path, name: str, ocdbt: bool = False) -> dict[str, Any]:
    """Names a store to TensorStore.

    Args:
        directory: A local directory or `gs://bucket/...`; whatever paths a checkpoint's own index
            states, its arrays are where the checkpoint is now.
        name: The array's directory in it (or its key prefix in an OCDBT database).
        ocdbt: Whether the directory is an OCDBT database.

    Returns:
        The `kvstore` member of a TensorStore spec.
    """
    path = directory.as_posix()
    if path.startswith("gs://"):
        bucket, _, inside = path.removeprefix("gs://").partition("/")
        base = {"driver": "gcs", "bucket": bucket, "path": f"{inside}/"}
    else:
        base = {"driver": "file", "path": f"{path}/"}
    if ocdbt:
        return {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    return base | {"path": f"{base['path']}{name}/"}


def open_arrays(
    directory: epath.Path, names: Mapping[str, str], *, ocdbt: bool = False, zarr3: bool = False
) -> dict[str, LazyTensor]:
    """Opens arrays of one directory, all at the same time, without reading their values.

    Args:
        directory: Where they lie.
        names: What to call each in the result -> its name in the directory.
        ocdbt: Whether the directory is an OCDBT database.
        zarr3: Whether the arrays are in version 3 of the zarr format.

    Returns:
        The arrays. Their `read` raises `Damage` if a chunk is missing, does not decode or differs
        from its checksum, and ConfigError if it cannot be read now.

    Raises:
        Damage: If an array is not there or its description is damaged.
        ConfigError: If it cannot be read now.
    """
    opening = {
        key: _tensorstore().open(
            {
                "driver": "zarr3" if zarr3 else "zarr",
                "kvstore": kvstore(directory, name, ocdbt),
                # By default a chunk that was deleted reads as zeros.
                "fill_missing_data_reads": False,
            },
            open=True,
            read=True,
        )
        for key, name in names.items()
    }
    return {key: _lazy(directory / names[key], future) for key, future in opening.items()}


def _lazy(path: epath.Path, opening: Any) -> LazyTensor:
    def result(future: Any) -> Any:
        try:
            return future.result()
        except ValueError as error:
            raise tensorstore_error(path, error) from None

    store = result(opening)

    def read(index: Index) -> np.ndarray:
        return np.asarray(result(store[index].read()), order="C")

    return LazyTensor(tuple(store.shape), np.dtype(store.dtype.numpy_dtype), read)


def chunk_shape(shape: Shape, itemsize: int) -> Shape:
    """The largest part of even size of at most `CHUNK_BYTES`, cut along the first axes first.

    For layers [24, 2048, 5120] of float32: [1, 2048, 5120].
    """
    chunk = list(shape)
    for axis, size in enumerate(shape):
        rest = math.prod(shape[axis + 1 :]) * itemsize
        if size * rest <= CHUNK_BYTES:
            break
        parts = math.ceil(size / max(1, CHUNK_BYTES // rest))
        chunk[axis] = math.ceil(size / parts)
    return tuple(chunk)


def slabs(shape: Shape, itemsize: int) -> Iterator[Index]:
    """Cuts a tensor into whole chunks of `chunk_shape`, at most `SLAB_BYTES` together.

    Yields:
        The slices of each slab, in C order; its values are contiguous in the tensor's.
    """
    slab = list(chunk_shape(shape, itemsize))
    for axis in reversed(range(len(shape))):
        room = max(1, SLAB_BYTES // (math.prod(slab) * itemsize))
        slab[axis] = min(shape[axis], slab[axis] * room)
        if slab[axis] < shape[axis]:
            break
    counts = [math.ceil(size / part) for size, part in zip(shape, slab, strict=True)]
    for position in np.ndindex(*counts):
        yield tuple(
            slice(at * part, min(size, (at + 1) * part))
            for at, part, size in zip(position, slab, shape, strict=True)
        )


def codecs(checksums: bool = True) -> list[dict[str, Any]]:
    """How the bytes of a chunk are made of its values, in terms of zarr 3.

    Args:
        checksums: Whether a CRC-32C of the compressed bytes is appended: TensorStore verifies it in
            every read.
    """
    compressed = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": 1}},
    ]
    return [*compressed, {"name": "crc32c"}] if checksums else compressed


def create_array(
    directory: epath.Path,
    name: str,
    shape: Shape,
    dtype: np.dtype,
    chunks: Shape,
    *,
    gzip: bool = False,
) -> Callable[[Index, np.ndarray], None]:
    """Creates an array in an OCDBT database, or as T5X does.

    Args:
        directory: Where to create it.
        name: Its name in the directory.
        shape: Of the whole array.
        dtype: float32 or bfloat16.
        chunks: Shape of a chunk.
        gzip: In zarr 2, in separate files, each with gzip's checksum; else in zarr 3, with
            `codecs`, in an OCDBT database.

    Returns:
        Writes values to slices; one that covers whole chunks reads nothing back.
    """
    spec = {
        "driver": "zarr" if gzip else "zarr3",
        "kvstore": kvstore(directory, name, ocdbt=not gzip),
        "dtype": np.dtype(dtype).name,
        "metadata": {"shape": shape, "chunks": chunks, "compressor": GZIP}
        if gzip
        else {
            "shape": shape,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
            "codecs": codecs(),
        },
        # Else a chunk of zeros is not written, and cannot be told from a missing one.
        "store_data_equal_to_fill_value": True,
    }
    store = _tensorstore().open(spec, create=True).result()

    def write(index: Index, values: np.ndarray) -> None:
        store[index].write(values).result()

    return write
