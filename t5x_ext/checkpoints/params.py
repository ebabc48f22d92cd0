"""Parameters without the rest of a run: written for others, read as a new start.

`load_params` never reads an optimizer's state or a data position: a run that starts from another
run's checkpoint has both new. To continue a run, see `Checkpointer.restore`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from t5x_ext.checkpoints import trees
from t5x_ext.checkpoints.directories import (
    FINGERPRINT,
    META,
    PREFIX,
    STATE,
    check_manifest,
    checkpoint_dir,
    files_in,
    first_line,
    read_newest,
    saved_steps,
    write_manifest,
)
from t5x_ext.errors import ConfigError

PyTree = Any

_ENDS_HASHED = 1 << 20  # bytes at each end of a large file that enter its fingerprint


def save_params(path: str, params: PyTree, meta: dict[str, Any]) -> None:
    """Writes parameters as a checkpoint of their own, complete or absent.

    Args:
        path: Directory to create; must not exist.
        params: Tree of arrays.
        meta: JSON to keep with them, see `load_meta`.

    Raises:
        ConfigError: If the path exists.
    """
    directory = epath.Path(path).expanduser().absolute()
    if directory.exists():
        raise ConfigError(f"{directory}: already exists; parameters are not written over")
    ocp = trees.orbax()
    items = {STATE: ocp.args.PyTreeSave({"params": params}), META: ocp.args.JsonSave(meta)}
    if all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(params)):
        items[FINGERPRINT] = ocp.args.JsonSave({"params_sha256": _hash_params(params)})
    # Asynchronous, although it is waited for: only these savers have a last step to hook into.
    options = ocp.AsyncOptions(post_finalization_callback=lambda: write_manifest(directory))
    with ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), async_options=options) as writer:
        writer.save(directory, args=ocp.args.Composite(**items))


def load_params(path: str, wanted: PyTree | None = None, dtype: str | None = None) -> PyTree:
    """Reads parameters, and nothing else, from a checkpoint.

    Args:
        path: What `save_params` wrote, a `checkpoint_<step>` directory, or a MODEL_DIR, which
            means its newest checkpoint that can be read.
        wanted: Parameter tree with `jax.ShapeDtypeStruct` leaves; their shardings say where each
            tensor goes, and their dtypes what it is cast to. None returns all parameters as
            NumPy arrays in nested dicts, on a host with any number of devices.
        dtype: Dtype for floating-point parameters instead ("float32", "bfloat16").

    Returns:
        The parameters, in the structure of `wanted`.

    Raises:
        ConfigError: If there is no checkpoint, or it is damaged, or it holds other tensors.
    """
    trees.check_dtype(dtype, "RestoreCheckpointConfig.dtype")

    def read(checkpoint: epath.Path) -> PyTree:
        layout = _layout(checkpoint)
        if layout is None:
            raise FileNotFoundError(f"it has no {STATE} directory")
        check_manifest(checkpoint)
        return _LOADERS[layout](checkpoint, wanted, dtype)

    return _read_from(path, read)


def load_meta(path: str) -> dict[str, Any]:
    """Reads the `meta` of the checkpoint that `load_params` would choose for the same path."""
    ocp = trees.orbax()

    def read(checkpoint: epath.Path) -> dict[str, Any]:
        check_manifest(checkpoint)
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            return reader.restore(checkpoint / META)

    return _read_from(path, read)


def fingerprint(path: str) -> str:
    """A hash that tells one set of weights from another, without reading gigabytes.

    For a checkpoint by `save_params` it is the hash of the parameters' names, shapes, dtypes and
    values, so the same parameters saved twice have one fingerprint. For others it covers every
    file's name and size, and its bytes up to 1 MiB from either end: a copy has the same one, a
    second save of the same values has not.

    Args:
        path: What `load_params` takes; of a MODEL_DIR, the newest checkpoint counts.

    Returns:
        64 hexadecimal digits.

    Raises:
        ConfigError: If there is no checkpoint.
    """
    directory = _existing(path)
    steps = saved_steps(directory)
    if steps:
        directory = checkpoint_dir(directory, steps[0])
    if (directory / FINGERPRINT).is_dir():
        ocp = trees.orbax()
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            return reader.restore(directory / FINGERPRINT)["params_sha256"]
    return _hash_files(directory)


def _existing(path: str) -> epath.Path:
    directory = epath.Path(path).expanduser().absolute()
    if not directory.is_dir():
        raise ConfigError(f"checkpoint {path!r}: no such directory")
    if not saved_steps(directory) and not _layout(directory):
        raise ConfigError(
            f"{directory}: holds no checkpoint; allowed: a {PREFIX}_<step> directory, a MODEL_DIR"
            " with such directories, or saved parameters"
        )
    return directory


def _read_from(path: str, read: Callable[[epath.Path], Any]) -> Any:
    """Applies `read` to a checkpoint, or to the newest sound one of a MODEL_DIR."""
    directory = _existing(path)
    if saved_steps(directory):
        result, _ = read_newest(directory, read)
        return result
    try:
        return read(directory)
    except (ConfigError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # see read_newest
        raise ConfigError(f"{directory} cannot be read: {first_line(error)}") from error


def _layout(directory: epath.Path) -> str | None:
    """Tells by its files who wrote a checkpoint; None if it is none that `load_params` reads."""
    return "t5x_ext" if (directory / STATE).is_dir() else None


def _load_t5x_ext(checkpoint: epath.Path, wanted: PyTree | None, dtype: str | None) -> PyTree:
    saved = {"params": trees.saved_tree(checkpoint / STATE)["params"]}
    if wanted is None:
        args = trees.host_restore_args(saved, dtype)
    else:
        tree = {
            "params": jax.tree.map(
                lambda leaf: trees.wanted_leaf(leaf, dtype if trees.is_floating(leaf) else None),
                wanted,
            )
        }
        trees.check_tree(checkpoint, saved, tree)
        args = trees.restore_args(tree, partial=True)
    ocp = trees.orbax()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.restore(checkpoint / STATE, args=args)["params"]


# Converters from other layouts add a line here and a test to `_layout`.
_LOADERS: dict[str, Callable[[epath.Path, PyTree | None, str | None], PyTree]] = {
    "t5x_ext": _load_t5x_ext,
}


def _hash_params(params: PyTree) -> str:
    digest = hashlib.sha256()
    for name, leaf in sorted(trees.named_leaves(params).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


def _hash_files(directory: epath.Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(files_in(directory)):
        size = path.stat().length
        digest.update(f"{path.relative_to(directory)} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_ENDS_HASHED))
            if size > _ENDS_HASHED:
                file.seek(max(_ENDS_HASHED, size - _ENDS_HASHED))
                digest.update(file.read(_ENDS_HASHED))
    return digest.hexdigest()
