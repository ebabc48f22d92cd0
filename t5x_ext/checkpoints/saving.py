"""Saving through Orbax, with a checksum for every chunk; the one module that imports Orbax.

Orbax decides when a checkpoint is complete, what it is called and which are kept, and describes
the tree of arrays. The arrays themselves are written by `_ChecksummedArrays`: Orbax's own handler
has no option for zarr's CRC-32C codec, with which TensorStore verifies every chunk it reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath

from t5x_ext import files, multihost
from t5x_ext.checkpoints import tensorstores, trees
from t5x_ext.checkpoints.directories import PREFIX, STATE, checkpoint_dir, saved_steps
from t5x_ext.checkpoints.manifests import MANIFEST

PyTree = Any
Shards = list[tuple[tuple[slice, ...], np.ndarray]]

# Orbax logs through absl: dozens of lines a save, and warnings and errors about files it can do
# without. What matters it raises. Other users of absl are not silenced.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


def _not_orbax_s(record: logging.LogRecord) -> bool:
    """Of the directories that Orbax makes at once, it raises the first failure; asyncio traces the
    rest as never retrieved.
    """
    trace = record.exc_info[2] if record.exc_info else None
    while trace and "orbax" not in trace.tb_frame.f_code.co_filename:
        trace = trace.tb_next
    return trace is None


logging.getLogger("asyncio").addFilter(_not_orbax_s)


def open_manager(
    directory: epath.Path,
    keep: Callable[[Sequence[int]], Sequence[bool]],
    checksums: bool,
    json_items: Sequence[str],
    on_written: Callable[[], None],
) -> ocp.CheckpointManager:
    """The manager of a run's checkpoints, in the background of training.

    Args:
        directory: MODEL_DIR; half-written checkpoints in it are removed.
        keep: Of saved steps, oldest first, which to keep.
        checksums: Whether chunks get one.
        json_items: Names of the items besides `STATE`.
        on_written: Called in another thread when all files of a checkpoint are written, just before
            they become visible.
    """
    # In a bucket, Orbax takes every directory without the file that ends a save for a temporary
    # one: it would delete the tokenizer and whatever else lies in MODEL_DIR.
    is_remote = files.is_remote(directory)
    if is_remote and multihost.is_primary():
        _remove_unfinished(directory)
    return ocp.CheckpointManager(
        directory,
        item_names=(STATE, *json_items),
        item_handlers=_handlers(checksums, json_items),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=_Keep(keep),
            step_name_format=ocp.path.step.standard_name_format(step_prefix=PREFIX),
            cleanup_tmp_directories=not is_remote,
            async_options=_async_options(on_written),
        ),
    )


class _Keep(ocp.checkpoint_managers.PreservationPolicy):
    """Asks a function which checkpoints to keep."""

    def __init__(self, keep: Callable[[Sequence[int]], Sequence[bool]]) -> None:
        self._keep = keep

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """See the base class."""
        del context
        return self._keep([checkpoint.step for checkpoint in checkpoints])


def _remove_unfinished(directory: epath.Path) -> None:
    """Removes checkpoints of ours that were not saved to the end: nothing lists their files."""
    for step in saved_steps(directory):
        names = files.names_in(checkpoint_dir(directory, step))
        if STATE in names and not {MANIFEST, "commit_success.txt"} & set(names):
            checkpoint_dir(directory, step).rmtree()


def items(
    state: PyTree, json_items: Mapping[str, Any], dtype: str | None = None
) -> ocp.args.Composite:
    """What to save.

    Args:
        state: Tree of `jax.Array`; of several processes, all global.
        json_items: JSON by the item's name.
        dtype: To store parameters in; None keeps them as they are.
    """
    keep = ocp.SaveArgs(chunk_byte_size=tensorstores.CHUNK_BYTES)
    cast = ocp.SaveArgs(
        chunk_byte_size=tensorstores.CHUNK_BYTES, dtype=np.dtype(dtype) if dtype else None
    )
    save_args = trees.map_params(lambda leaf: cast, state, lambda leaf: keep)
    jsons = {name: ocp.args.JsonSave(value) for name, value in json_items.items()}
    return ocp.args.Composite(**{STATE: ocp.args.PyTreeSave(state, save_args=save_args)}, **jsons)


def save_once(
    directory: epath.Path, contents: ocp.args.Composite, on_written: Callable[[], None]
) -> None:
    """Saves a separate checkpoint and waits for it; arguments as of `open_manager`."""
    jsons = [name for name in contents.keys() if name != STATE]  # noqa: SIM118
    # Asynchronous, although it is waited for: only these savers have a last step to hook into.
    options = _async_options(on_written)
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(async_options=options), **_handlers(True, jsons)
    )
    with ocp.AsyncCheckpointer(handler, async_options=options) as writer:
        writer.save(directory, args=contents)


def _async_options(on_written: Callable[[], None]) -> ocp.AsyncOptions:
    # Directories are made before the writers start: writers that wait for one that cannot be made
    # keep a failed run alive until they time out.
    return ocp.AsyncOptions(
        post_finalization_callback=on_written, create_directories_asynchronously=False
    )


def _handlers(checksums: bool, json_items: Sequence[str]) -> dict[str, ocp.CheckpointHandler]:
    arrays = _ChecksummedArrays(checksums)
    state = ocp.PyTreeCheckpointHandler(
        use_zarr3=True,
        type_handler_registry=ocp.type_handlers.create_type_handler_registry((jax.Array, arrays)),
    )
    return {STATE: state} | {name: ocp.JsonCheckpointHandler() for name in json_items}


class _ChecksummedArrays(ocp.type_handlers.ArrayHandler):
    """Orbax's handler of `jax.Array` with a writer of our own.

    Each process writes the first copy of every shard that it holds, in whole chunks. Where
    Orbax puts an array, and how it cuts it into chunks, stays Orbax's business.
    """

    def __init__(self, checksums: bool) -> None:
        super().__init__(enable_write_sharding_file=False)
        self._codecs = tensorstores.codecs(checksums)

    async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
        """Copies the arrays to the host, and returns while they are being written."""
        for value in values:
            value.copy_to_host_async()
        args = args or [ocp.SaveArgs()] * len(values)
        dtypes = [arg.dtype or value.dtype for value, arg in zip(values, args, strict=True)]
        shards = [_copy_shards(*pair) for pair in zip(values, dtypes, strict=True)]
        specs = [
            {
                "global_shape": value.shape,
                "local_shape": value.sharding.shard_shape(value.shape),
                "dtype": dtype,
                "arg": ocp.SaveArgs(chunk_byte_size=arg.chunk_byte_size),
            }
            for value, dtype, arg in zip(values, dtypes, args, strict=True)
        ]

        async def write_all() -> None:
            writes = map(self._write, infos, specs, shards)
            # All of them come to an end, also if the first one fails: TensorStore reports to an
            # event loop that has to be there still.
            for outcome in await asyncio.gather(*writes, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome

        return [ocp.future.CommitFutureAwaitingContractedSignals(write_all(), name="arrays")]

    async def _write(self, info: Any, spec: dict[str, Any], shards: Shards) -> None:
        await info.await_path_creation()
        if not shards:
            return
        store_spec = ocp.type_handlers.get_json_tspec_write(
            info, use_ocdbt=info.is_ocdbt_checkpoint, process_index=jax.process_index(), **spec
        )
        store_spec["metadata"]["codecs"] = self._codecs
        opening = tensorstore.open(store_spec, create=True, open=True, context=info.ts_context)
        store = await opening
        await asyncio.gather(
            *(
                store[index].write(values, can_reference_source_data_indefinitely=True)
                for index, values in shards
            )
        )


def _copy_shards(array: jax.Array, dtype: np.dtype) -> Shards:
    """The first copy of every part of an array that is on this process's devices."""
    shards = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    # On a CPU the host sees the device's own buffer, which the next training step overwrites.
    return [
        (shard.index, np.asarray(shard.data).astype(dtype, copy=shard.device.platform == "cpu"))
        for shard in shards
    ]
