"""Parameters without the rest of a run: from any kind of checkpoint, onto any devices.

`open_source` is the one way to a checkpoint of any layout; the other functions here are uses of
it. An optimizer's state or a data position is never read: a run that starts from another run's
checkpoint has both new. To continue a run, see `Checkpointer.restore`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from t5x_ext import files
from t5x_ext.checkpoints import orbax_trees, t5x_layout, trees
from t5x_ext.checkpoints.damage import Damage, decoding, first_line, reading
from t5x_ext.checkpoints.digests import hash_tensors
from t5x_ext.checkpoints.directories import (
    FINGERPRINT,
    META,
    PREFIX,
    STATE,
    in_agreement,
    read_newest,
    refuse_pipes,
    saved_steps,
)
from t5x_ext.checkpoints.gguf import find_gguf, open_gguf
from t5x_ext.checkpoints.hugging_face import open_hf
from t5x_ext.checkpoints.manifests import check_manifest, write_manifest
from t5x_ext.checkpoints.meta import ADAPTER
from t5x_ext.checkpoints.own_layout import CONTENT, PARAMS, open_t5x_ext
from t5x_ext.checkpoints.sources import LazyTensor, Source
from t5x_ext.errors import ConfigError
from t5x_ext.models.config import ModelConfig

PyTree = Any
PEFT_CONFIG = "adapter_config.json"  # tells PEFT's directories from others


def save_params(path: str, params: PyTree, meta: dict[str, Any]) -> None:
    """Writes parameters as a separate checkpoint, complete or absent.

    Args:
        path: Directory to create; must not exist.
        params: Tree of arrays.
        meta: JSON to keep with them, see `load_meta`.

    Raises:
        ConfigError: If the path exists.
    """
    directory = files.absolute(path)
    if directory.exists():
        raise ConfigError(f"{directory}: already exists; parameters are not overwritten")
    from t5x_ext.checkpoints import saving  # Orbax takes a second to import

    jsons = {META: meta}
    if all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(params)):
        jsons[FINGERPRINT] = {CONTENT: hash_params(trees.named_leaves(params))}
    contents = saving.items({PARAMS: jax.tree.map(jnp.asarray, params)}, jsons)
    saving.save_once(directory, contents, lambda: write_manifest(directory))


def open_source(path: str) -> Source:
    """Opens a checkpoint of any layout, told by its files.

    Args:
        path: Local or `gs://`. One of

            what runs, `save_params` or `convert` wrote: a directory with `state` and `meta`;
            a Hugging Face directory: `config.json` next to `*.safetensors` (or `*.bin`);
            a GGUF file of a LLaMA, or a directory that holds one;
            a T5X checkpoint: a directory with the file `checkpoint` (or that file), or one that
              Orbax wrote for T5X;
            a MODEL_DIR with `checkpoint_<step>` directories of ours or T5X's, which means its
              newest checkpoint that can be opened.

    Returns:
        The checkpoint; every name, shape and dtype is checked, no value is read.

    Raises:
        ConfigError: If there is no checkpoint, or it is damaged, or not of a family we know.
    """
    return _read_from(path, lambda source: source)


class Loaded(NamedTuple):
    """Parameters, and the checkpoint that they were read from."""

    params: PyTree
    source: Source


def load(
    path: str,
    wanted: PyTree | None = None,
    dtype: str | None = None,
    config: ModelConfig | None = None,
) -> Loaded:
    """Reads parameters straight into their placement; each process reads what its devices hold.

    Of a MODEL_DIR, the newest checkpoint whose values can be read. `open_source` reads no value,
    and may open a newer one that is damaged: what is said of the parameters, such as their step,
    has to come from the source that is returned.

    With `wanted`, all processes of a run have to call it.

    Args:
        path: What `open_source` takes.
        wanted: Parameter tree with `jax.ShapeDtypeStruct` leaves; their shardings say where each
            tensor goes, and their dtypes what it is cast to; kernels in `nf4.NF4` are quantised
            (see `nf4.quantise_abstract`). None returns all parameters as NumPy arrays in nested
            dicts, on a host with any number of devices.
        dtype: Dtype for floating-point parameters instead ("float32", "bfloat16").
        config: Of the network that they are for; None where the checkpoint's own is taken.

    Returns:
        The parameters, in the structure of `wanted`, and where they are from.

    Raises:
        ConfigError: If there is no checkpoint, or it is damaged, or it holds other tensors, or was
            made with another config.
    """
    trees.check_dtype(dtype, "RestoreCheckpointConfig.dtype")

    def read(source: Source) -> Loaded:
        return Loaded(_read_params(source, wanted, dtype, config), source)

    return _read_from(path, read, together=wanted is not None)


def load_params(
    path: str,
    wanted: PyTree | None = None,
    dtype: str | None = None,
    config: ModelConfig | None = None,
) -> PyTree:
    """The parameters that `load` reads."""
    return load(path, wanted, dtype, config).params


def load_meta(path: str) -> dict[str, Any]:
    """Reads the `meta` of the checkpoint that `open_source` opens."""
    return dict(open_source(path).meta)


def fingerprint(path: str) -> str:
    """A hash that tells one set of weights from another.

    For a checkpoint by `save_params` or `convert` it is the hash of the parameters' names, shapes,
    dtypes and values, so the same parameters saved twice have one fingerprint. For one of a run it
    is the hash of its manifest: a copy has the same one, a second save of the same values has not.
    For others it is the hash of the files with the weights, all of which are read.

    Args:
        path: What `open_source` takes.

    Returns:
        64 hexadecimal digits.

    Raises:
        ConfigError: If there is no checkpoint.
    """
    return open_source(path).digest


def hash_values(path: str) -> str:
    """A hash of every value that a checkpoint holds; reads all of them.

    Of a run's checkpoint, that is parameters, optimizer and step: two runs that computed the same
    bits have the same hash, though their files differ. Of others it is the parameters.

    Args:
        path: What `open_source` takes.

    Returns:
        64 hexadecimal digits.

    Raises:
        ConfigError: If there is no checkpoint.
    """

    def read(source: Source) -> str:
        if source.kind != "t5x_ext":
            return hash_tensors(source.tensors)
        state = epath.Path(source.path) / STATE
        return hash_tensors(orbax_trees.open_arrays(state, orbax_trees.names_in(state)))

    return _read_from(path, read)


def hash_params(leaves: Mapping[str, Any]) -> str:
    """The fingerprint of parameters in memory, by name."""
    digest = hashlib.sha256()
    for name, leaf in sorted(leaves.items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


def _open_checkpoint(checkpoint: epath.Path) -> Source:
    layout = _layout(checkpoint)
    # Directories of Hugging Face's files may hold others, such as Git's, which are not read.
    refuse_pipes(checkpoint, below=layout not in (open_hf, open_gguf))
    check_manifest(checkpoint)
    if layout is None:
        raise Damage("its files are missing")
    with decoding(""):
        return layout(str(checkpoint))


def _layout(directory: epath.Path) -> Callable[[str], Source] | None:
    """Tells by its files who wrote a checkpoint."""
    if (directory / STATE).is_dir() and (directory / META).is_dir():
        return open_t5x_ext
    if t5x_layout.is_t5x(directory):
        return t5x_layout.open_t5x
    if (directory / "config.json").exists():
        return open_hf
    if find_gguf(directory):
        return open_gguf
    return None


def _read_from(path: str, read: Callable[[Source], Any], together: bool = False) -> Any:
    """Applies `read` to a checkpoint, or to the newest sound one of a MODEL_DIR.

    Args:
        path: See `open_source`.
        read: Reads from an opened checkpoint.
        together: Whether all processes do this, and have to read the same checkpoint.
    """

    def read_one(checkpoint: epath.Path) -> Any:
        with reading(checkpoint):
            return read(_open_checkpoint(checkpoint))

    directory = files.absolute(path)
    refuse_pipes(directory, below=False)
    if directory.name == t5x_layout.INDEX and directory.is_file():  # as T5X's users write it
        directory = directory.parent
    if not directory.is_dir() and not find_gguf(directory):
        if t5x_layout.is_tensorflow(directory):
            raise t5x_layout.tensorflow_error(path)
        raise ConfigError(f"checkpoint {path!r}: no such directory")
    if saved_steps(directory):
        result, _ = read_newest(directory, in_agreement(read_one) if together else read_one)
        return result
    if not _layout(directory):
        if t5x_layout.is_tensorflow(directory):
            raise t5x_layout.tensorflow_error(path)
        if (directory / PEFT_CONFIG).is_file():
            raise ConfigError(
                f"{directory}: an adapter in PEFT's layout, not a whole model; allowed: its base, "
                "with the adapter as ADAPTER, or as --adapter of `convert`"
            )
        raise ConfigError(
            f"{directory}: holds no checkpoint; allowed: a {PREFIX}_<step> directory, a MODEL_DIR"
            " with such directories, saved parameters, a Hugging Face directory (config.json and"
            f" *.safetensors), a T5X checkpoint (with the file {t5x_layout.INDEX}, or Orbax's)"
        )
    try:
        return read_one(directory)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{directory} cannot be read: {first_line(error)}") from error


def _read_params(
    source: Source, wanted: PyTree | None, dtype: str | None, config: ModelConfig | None
) -> PyTree:
    if wanted is not None:
        if ADAPTER in source.meta:
            raise ConfigError(
                f"{source.path}: holds an adapter, not a whole model; allowed: its base, "
                f"{source.meta[ADAPTER]['base']['path']}, with the adapter as ADAPTER"
            )
        wanted = trees.wanted_params(wanted, dtype)
        # Named as in a training state, so that a user sees one name for a parameter.
        trees.check_tree(source.path, {PARAMS: trees.nest(dict(source.tensors))}, {PARAMS: wanted})
    if config is not None:
        source.check_config(config)
    if wanted is None:
        return trees.nest(
            {name: _on_host(tensor, dtype) for name, tensor in source.tensors.items()}
        )
    return trees.read_onto_devices(source.tensors, wanted)


def _on_host(tensor: LazyTensor, dtype: str | None) -> np.ndarray:
    values = tensor.whole()
    return values.astype(dtype) if dtype and trees.is_floating(tensor) else values
