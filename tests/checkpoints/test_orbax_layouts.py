"""Canaries: what Orbax writes today is read, in each of its layouts; what we write has checksums.

A new Orbax that lays out its files otherwise, or no longer asks our writer, fails here first.
"""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore

from t5x_ext.checkpoints import Checkpointer, load, open_source, save_params

LAYOUTS = {
    "OCDBT, zarr 2": {"use_ocdbt": True, "use_zarr3": False},  # ours from before checksums
    "OCDBT, zarr 3": {"use_ocdbt": True, "use_zarr3": True},
    "files, zarr 2": {"use_ocdbt": False, "use_zarr3": False},
    "files, zarr 3": {"use_ocdbt": False, "use_zarr3": True},
}


def make_state() -> dict:
    kernel = jax.random.normal(jax.random.key(1), (8, 4))
    moments = ({"mu": {"kernel": kernel / 2}}, jnp.int32(3))
    params = {"kernel": kernel, "scale": jnp.full((3,), 1.5, jnp.bfloat16)}
    return {"step": jnp.int32(3), "params": params, "opt_state": moments}


def save_by_orbax(model_dir, **options: bool) -> None:
    """One checkpoint of a run, with Orbax's own handlers throughout."""
    handlers = {
        "state": ocp.PyTreeCheckpointHandler(**options),
        "data": ocp.JsonCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
    }
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as writer:
        writer.save(
            model_dir / "checkpoint_3",
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(make_state()),
                data=ocp.args.JsonSave({"at": 3}),
                meta=ocp.args.JsonSave({"step": 3}),
            ),
        )


def assert_same(left: object, right: object) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_of_orbax_is_read(tmp_path, layout):
    save_by_orbax(tmp_path, **LAYOUTS[layout])
    state = make_state()
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    with Checkpointer(str(tmp_path)) as checkpointer:
        restored = checkpointer.restore(wanted)
    assert_same(restored.state, state)
    assert (restored.data_state, restored.meta) == ({"at": 3}, {"step": 3})
    source = open_source(str(tmp_path))
    assert (source.kind, source.step, len(source.digest)) == ("t5x_ext", 3, 64)
    assert_same(load(str(tmp_path)).params, state["params"])


def save_by_run(path) -> None:
    with Checkpointer(str(path)) as checkpointer:
        checkpointer.save(3, make_state(), {"at": 3}, {"step": 3}, force=True)


@pytest.mark.parametrize("writer", ["a run", "save_params"])
def test_every_array_has_checksums_and_orbax_reads_it(tmp_path, writer):
    if writer == "a run":
        save_by_run(tmp_path / "run")
        item, state = tmp_path / "run" / "checkpoint_3" / "state", make_state()
    else:
        save_params(str(tmp_path / "alone"), make_state()["params"], {})
        item, state = tmp_path / "alone" / "state", {"params": make_state()["params"]}
    base = {"driver": "ocdbt", "base": f"file://{item}/"}
    store = tensorstore.KvStore.open(base).result()
    keys = [key for key in store.list().result() if key.endswith(b"zarr.json")]
    codecs = [json.loads(store.read(key).result().value)["codecs"] for key in keys]
    assert len(keys) == len(jax.tree.leaves(state))
    assert all([codec["name"] for codec in each] == ["bytes", "zstd", "crc32c"] for each in codecs)

    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    arguments = ocp.checkpoint_utils.construct_restore_args(target)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        restored = reader.restore(item, args=ocp.args.PyTreeRestore(target, restore_args=arguments))
    assert_same(restored, state)
