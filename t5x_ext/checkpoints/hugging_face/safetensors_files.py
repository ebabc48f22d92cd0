"""The safetensors format: read in slices, written tensor after tensor.

A file is eight bytes (the header's length, little-endian), a JSON header that gives every tensor
its dtype, shape and place, and the values in row-major order without gaps. A large checkpoint is
several such files and an index. Own code rather than the safetensors package, which reads local
files only, writes only what is in memory as a whole, and in 0.8.0 writes the memory of an array
as it lies, whatever its strides.

Source of the format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from t5x_ext import files
from t5x_ext.checkpoints.sources import Index, LazyTensor
from t5x_ext.errors import ConfigError

FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors package


def read_header(path: epath.Path) -> dict[str, LazyTensor]:
    """The tensors of one file, without their values.

    Raises:
        ConfigError: If the file is truncated or otherwise not what its header says.
    """
    size = path.stat().length
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or 8 + length > size:
            raise ConfigError(f"{path}: is truncated, or not a safetensors file ({size} bytes)")
        if length > _MAX_HEADER_BYTES:
            raise ConfigError(f"{path}: is not a safetensors file: its header has {length} bytes")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            spans = {name: _Span.parse(path, name, entry) for name, entry in header.items()}
        except ConfigError:
            raise
        except (ValueError, AttributeError, KeyError, TypeError):
            raise ConfigError(f"{path}: is not a safetensors file: bad header") from None
    _check_spans(path, spans, size - 8 - length)
    return {name: _lazy(path, span, 8 + length) for name, span in spans.items()}


def read_index(index: epath.Path) -> dict[str, LazyTensor]:
    """The tensors of all files that an index names, without their values.

    Raises:
        ConfigError: If a file is missing or damaged, or holds other tensors than the index says.
    """
    tensors = {}
    for file, names in read_weight_map(index).items():
        shard = read_header(index.parent / file)
        for what, wrong in (
            ("lacks", names - shard.keys()),
            ("also holds", shard.keys() - names),
        ):
            if wrong:
                raise ConfigError(
                    f"{index.parent / file}: {what} {min(wrong)} against {index.name}"
                )
        tensors.update(shard)
    return tensors


def read_weight_map(index: epath.Path) -> dict[str, set[str]]:
    """The tensor names of every file that an index names; all of the files exist.

    Raises:
        ConfigError: If the index is malformed, or one of its files is missing or no regular file.
    """
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        names_by_file: dict[str, set[str]] = {}
        for name, file in weight_map.items():
            names_by_file.setdefault(file, set()).add(name)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{index}: is not an index: it has no weight_map") from None
    for file in names_by_file:
        if "/" in file or not (index.parent / file).exists():
            raise ConfigError(f"{index}: names {file}, which is missing")
        files.refuse_endless(index.parent / file)
    return names_by_file


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """A tensor about to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_files(
    directory: epath.Path,
    infos: Sequence[TensorInfo],
    arrays: Iterable[np.ndarray],
    metadata: Mapping[str, str],
    max_file_bytes: int,
) -> None:
    """Writes tensors into one file, or several with an index.

    Args:
        directory: Exists.
        infos: What is to come.
        arrays: The values in the same order; one is held at a time.
        metadata: Goes into every header. `format` is 'pt', which transformers asks for.
        max_file_bytes: A file ends before the tensor that would pass this size.
    """
    shards = _split(infos, max_file_bytes)
    names = [FILE]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        index = {
            "metadata": {"total_size": sum(info.num_bytes for info in infos)},
            "weight_map": {
                info.name: file for file, shard in zip(names, shards, strict=True) for info in shard
            },
        }
        (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    values = iter(arrays)
    for file, shard in zip(names, shards, strict=True):
        write_file(directory / file, shard, values, {"format": "pt", **metadata})


def write_file(
    path: epath.Path,
    infos: Sequence[TensorInfo],
    arrays: Iterator[np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Writes one file; see `write_files`."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for info in infos:
        begin, end = end, end + info.num_bytes
        header[info.name] = {
            "dtype": _CODES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # values start at a multiple of eight bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for info in infos:
            array = next(arrays)
            if array.shape != info.shape or array.dtype != info.dtype:
                raise ValueError(f"{info.name}: {array.dtype} {array.shape} is not as announced")
            file.write(np.ascontiguousarray(array).view(np.uint8).data)
            del array  # it may be a view that keeps a stack of layers in memory


def _split(infos: Sequence[TensorInfo], max_file_bytes: int) -> list[list[TensorInfo]]:
    shards: list[list[TensorInfo]] = [[]]
    size = 0
    for info in infos:
        if shards[-1] and size + info.num_bytes > max_file_bytes:
            shards.append([])
            size = 0
        shards[-1].append(info)
        size += info.num_bytes
    return shards


@dataclasses.dataclass(frozen=True)
class _Span:
    """An entry of a header; bytes count from the end of the header."""

    shape: tuple[int, ...]
    dtype: np.dtype
    begin: int
    end: int

    @classmethod
    def parse(cls, path: epath.Path, name: str, entry: Mapping[str, Any]) -> _Span:
        if entry["dtype"] not in DTYPES:
            raise ConfigError(
                f"{path}: {name} has dtype {entry['dtype']}; allowed: {', '.join(DTYPES)}"
            )
        begin, end = map(int, entry["data_offsets"])
        return cls(tuple(map(int, entry["shape"])), DTYPES[entry["dtype"]], begin, end)


def _check_spans(path: epath.Path, spans: Mapping[str, _Span], num_bytes: int) -> None:
    """The tensors lie one after the other, have the bytes their shapes need, and fill the file."""
    end = 0
    for name, span in sorted(spans.items(), key=lambda item: (item[1].begin, item[1].end)):
        if span.begin != end or span.end - end != math.prod(span.shape) * span.dtype.itemsize:
            raise ConfigError(f"{path}: the header gives {name} an impossible range")
        end = span.end
    if num_bytes != end:
        what = "is truncated" if num_bytes < end else "is longer than its header says"
        raise ConfigError(f"{path}: {what}: {num_bytes} bytes of values instead of {end}")


def _lazy(path: epath.Path, span: _Span, values_begin: int) -> LazyTensor:
    begin = values_begin + span.begin
    read = read_streamed if "://" in str(path) else read_mapped
    return LazyTensor(
        span.shape, span.dtype, lambda index: read(path, begin, span.shape, span.dtype, index)
    )


def read_mapped(
    path: epath.Path, begin: int, shape: tuple[int, ...], dtype: np.dtype, index: Index
) -> np.ndarray:
    """A part of a tensor in a local file; only the pages it lies on are read.

    The map lives for this call: pages of a map that stays open count as this process's memory.
    """
    if 0 in shape:
        return np.empty(shape, dtype)[index]
    mapped = np.memmap(path, np.uint8, "r", begin, (math.prod(shape) * dtype.itemsize,))
    return np.array(mapped.view(dtype).reshape(shape)[index], order="C", subok=False)


def read_streamed(
    path: epath.Path, begin: int, shape: tuple[int, ...], dtype: np.dtype, index: Index
) -> np.ndarray:
    """A part of a tensor in any file: the rows it lies in are read, then cut."""
    first, stop, _ = index[0].indices(shape[0])
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    with path.open("rb") as file:
        file.seek(begin + first * row_bytes)
        data = file.read((stop - first) * row_bytes)
    rows = np.frombuffer(data, dtype).reshape(stop - first, *shape[1:])
    return np.array(rows[(slice(None), *index[1:])], order="C")
