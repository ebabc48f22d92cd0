"""How T5X keeps arrays: four layouts of a checkpoint directory, read as one dict of arrays.

    checkpoint + target.*/         T5X's own: an index, and a zarr array for each parameter; small
                                   arrays are in the index
    checkpoint + _optimizer.*/     the same by early Orbax, with placeholders in the index
    state/checkpoint + target.*/   Orbax as T5X ran it; with state/_METADATA in later versions
    state/_METADATA + d/           Orbax with OCDBT

The index is MessagePack as `flax.serialization` writes it. Its keys of arrays are
`optimizer/target/<parameter>`, `optimizer/state/step` and `optimizer/state/param_states/...`, in
Orbax's layouts without `optimizer`. Any of these directories may also be copied alone.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from t5x_ext import files
from t5x_ext.checkpoints import orbax_trees, tensorstores, trees
from t5x_ext.checkpoints.digests import hash_files
from t5x_ext.checkpoints.directories import STATE
from t5x_ext.checkpoints.manifests import files_in
from t5x_ext.checkpoints.sources import Index, LazyTensor
from t5x_ext.checkpoints.t5x_layout import flax_msgpack
from t5x_ext.errors import ConfigError

INDEX = "checkpoint"
META_FILE = "t5x_ext.json"  # no part of the layout: T5X does not look at it

_VERSIONS = (2, 3)  # 3 came in June 2021; in 2 bfloat16 was kept as uint16, which is refused
_ROOTS = ("optimizer/", "_optimizer/")
_TARGET = "target/"
_STEP = "state/step"
_VERSION = "version"
_STATISTICS = "state/param_states/"  # an optimizer's: passed over
_TENSORFLOW = re.compile(r"\.(index|meta|data-\d+-of-\d+)$")  # ends of its files
_PLACEHOLDER = "PLACEHOLDER://"
# First parts of the paths of the files that hold parameters, or say which there are.
_WEIGHTS = (
    INDEX,
    orbax_trees.METADATA,
    "target.",
    "optimizer.target.",
    "_optimizer.target.",
    "manifest.ocdbt",
    "d",
    "ocdbt.process_",
)


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a checkpoint holds.

    Attributes:
      params: arrays by T5X's name, e.g. `encoder/layers_0/mlp/wi/kernel`.
      step: updates they have seen; 0 if nothing says.
      digest_fn: hashes the files they are made of.
      meta: what our own writer says of them, as JSON.
    """

    params: Mapping[str, LazyTensor]
    step: int
    digest_fn: Callable[[], str]
    meta: Mapping[str, Any]


def is_t5x(directory: epath.Path) -> bool:
    """Whether a directory holds a checkpoint in one of these layouts."""
    return _item(directory) is not None


def is_tensorflow(path: epath.Path) -> bool:
    """Whether a path is a checkpoint of TensorFlow, as T5's first release has them.

    Args:
        path: A directory, a prefix such as `model.ckpt-1000000`, or one of the files that begin so.
    """
    if files.is_dir(path):
        return any(_TENSORFLOW.search(name) for name in files.names_in(path))
    prefix = _TENSORFLOW.sub("", path.name)
    return files.is_file(path.parent / f"{prefix}.index")


def tensorflow_error(path: str) -> ConfigError:
    """What to say of a checkpoint of TensorFlow."""
    return ConfigError(
        f"{path}: a TensorFlow checkpoint, which is not read; allowed: T5X's native ones, in which "
        "T5's models are released too (gs://t5-data/pretrained_models/t5x), or what T5X's "
        "convert_tf_checkpoint makes of this one; Hugging Face's directories"
    )


def open_stored(directory: epath.Path) -> Stored:
    """Opens a checkpoint directory of any of these layouts, without reading parameters.

    Raises:
        ConfigError: If it holds entries that are neither parameters nor optimizer state, arrays of
            another dtype than float32 or bfloat16, or was written before June 2021.
        ValueError: If a file is damaged or missing.
    """
    item = _item(directory)
    if item is None:
        raise ValueError("its files are missing")
    if (item / INDEX).exists():
        entries = _read_index(item)
    elif (item / orbax_trees.METADATA).exists():
        names = [name for name in orbax_trees.names_in(item) if _is_wanted(name)]
        entries = dict(orbax_trees.open_arrays(item, names))
    else:
        found = {path.name.replace(".", "/"): path.name for path in _array_dirs(item)}
        entries = dict(tensorstores.open_arrays(item, found))
    params = {
        name.removeprefix(_TARGET): array
        for name, array in entries.items()
        if name.startswith(_TARGET)
    }
    _check_entries(directory, entries)
    step = int(entries[_STEP].whole()) if _STEP in entries else _step_in_name(directory)
    meta_file = directory / META_FILE
    meta = json.loads(meta_file.read_text()) if meta_file.exists() else {}
    return Stored(params, step, lambda: hash_files(_weight_files(item), item), meta)


def _weight_files(item: epath.Path) -> list[epath.Path]:
    return [path for path in files_in(item) if path.relative_to(item).parts[0].startswith(_WEIGHTS)]


def _item(directory: epath.Path) -> epath.Path | None:
    """The directory with the arrays: Orbax's manager adds one level."""
    for item in (directory, directory / STATE):
        described = (item / INDEX).is_file() or orbax_trees.is_orbax(item)
        if described or (item.is_dir() and any(_array_dirs(item))):
            return item
    return None


def _array_dirs(item: epath.Path) -> Iterator[epath.Path]:
    prefix = _TARGET.replace("/", ".")
    return (path for path in item.iterdir() if path.name.startswith(prefix) and path.is_dir())


def _read_index(item: epath.Path) -> dict[str, LazyTensor]:
    raw = (item / INDEX).read_bytes()
    if raw.startswith(b"model_checkpoint_path"):
        raise tensorflow_error(str(item))
    leaves = {}
    try:
        tree = flax_msgpack.decode(raw)
    except ValueError as error:
        raise ValueError(f"{INDEX}: {error}") from None
    for name, leaf in flax_msgpack.named_leaves(tree):
        root = next((root for root in _ROOTS if name.startswith(root)), "")
        leaves[name.removeprefix(root)] = leaf
    version = leaves.pop(_VERSION, _VERSIONS[-1])
    if version not in _VERSIONS:
        raise ConfigError(f"{item / INDEX}: version {version}; allowed: {_VERSIONS}")
    leaves = {name: leaf for name, leaf in leaves.items() if _is_wanted(name)}
    on_disk = {name: _directory_of(leaf) for name, leaf in leaves.items()}
    arrays = tensorstores.open_arrays(
        item,
        {name: directory for name, directory in on_disk.items() if directory},
        ocdbt=(item / "manifest.ocdbt").exists(),
    )
    return {name: arrays.get(name) or _in_memory(leaf) for name, leaf in leaves.items()}


def _directory_of(leaf: Any) -> str | None:
    """The directory that an entry of the index refers to; None if it is itself the value.

    Only the last part of the path counts: the rest, and the bucket, tell where the checkpoint was
    written, not where it is.
    """
    if isinstance(leaf, dict):  # a TensorStore spec; before 0.1.14 the path was beside kvstore
        path = leaf["kvstore"].get("path") or leaf["path"]
        return path.rstrip("/").rpartition("/")[2]
    if isinstance(leaf, str) and leaf.startswith(_PLACEHOLDER):
        return leaf.removeprefix(_PLACEHOLDER)
    return None


def _in_memory(leaf: Any) -> LazyTensor:
    array = np.asarray(leaf)

    def read(index: Index) -> np.ndarray:
        return np.asarray(array[index], order="C")

    return LazyTensor(array.shape, array.dtype, read)


def _is_wanted(name: str) -> bool:
    return not name.startswith(_STATISTICS)


def _check_entries(directory: epath.Path, entries: Mapping[str, LazyTensor]) -> None:
    unknown = [name for name in entries if not name.startswith(_TARGET) and name != _STEP]
    if unknown:
        raise ConfigError(
            f"{directory}: holds {', '.join(unknown[:4])}; known are {_TARGET}..., {_STEP} and"
            f" {_STATISTICS}..."
        )
    for name, array in entries.items():
        if name != _STEP and array.dtype.name not in trees.DTYPES:
            raise ConfigError(
                f"{directory}: {name} is {array.dtype.name}; allowed: {', '.join(trees.DTYPES)}"
            )


def _step_in_name(directory: epath.Path) -> int:
    match = re.search(r"_(\d+)$", directory.name)
    return int(match[1]) if match else 0
