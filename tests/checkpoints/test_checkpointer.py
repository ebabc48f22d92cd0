"""A run's checkpoints: exact, complete or absent, restorable on other devices."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_ext.checkpoints import Checkpointer, PreemptionGuard
from t5x_ext.errors import ConfigError


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: optax.OptState


TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
DATA = {"epoch": 2, "step_in_epoch": 17}
META = {"seed": 5, "config": "MODEL_DIR = 'x'\n"}


def make_state(step=0, width=32):
    params = {
        "embed": jax.random.normal(jax.random.key(step), (64, width)),
        "mlp": {"kernel": jnp.full((width, 4), step, jnp.bfloat16)},
    }
    return State(jnp.int32(step), params, TX.init(params))


def abstract(state, sharding=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def on_mesh(state, devices, spec):
    """Places matrices by `spec` over `devices`, and the rest on all of them."""
    mesh = Mesh(np.array(devices), ("data",))

    def place(leaf):
        leaf_spec = PartitionSpec(*spec) if leaf.ndim == 2 else PartitionSpec()
        return NamedSharding(mesh, leaf_spec)

    return jax.tree.map(place, state)


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def save_all(model_dir, steps, **kwargs):
    with Checkpointer(str(model_dir), **kwargs) as checkpointer:
        for step in steps:
            checkpointer.save(step, make_state(step), {"at": step}, META, force=True)


def test_state_data_and_meta_come_back_together(tmp_path):
    state = make_state(7)
    with Checkpointer(str(tmp_path)) as checkpointer:
        assert checkpointer.restore(abstract(state)) is None
        assert checkpointer.latest_step() is None
        assert checkpointer.save(7, state, DATA, META, force=True)
    with Checkpointer(str(tmp_path)) as checkpointer:
        assert checkpointer.latest_step() == 7
        restored = checkpointer.restore(abstract(state))
    assert isinstance(restored.state, State)
    assert_same(restored.state, state)
    assert (restored.data_state, restored.meta) == (DATA, META)


def test_names_period_and_keep(tmp_path):
    with Checkpointer(str(tmp_path), keep=2, save_period=10) as checkpointer:
        written = [
            step for step in range(1, 36) if checkpointer.save(step, make_state(step), DATA, META)
        ]
        assert written == [10, 20, 30]
        assert checkpointer.save(35, make_state(35), DATA, META, force=True)
        assert not checkpointer.save(35, make_state(35), DATA, META, force=True)
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert names == ["checkpoint_30", "checkpoint_35"]


def test_a_given_step_or_an_error_that_lists_the_steps(tmp_path):
    save_all(tmp_path, [1, 2])
    with Checkpointer(str(tmp_path)) as checkpointer:
        assert checkpointer.restore(abstract(make_state()), step=1).data_state == {"at": 1}
        with pytest.raises(ConfigError, match=r"checkpoint_3: no such.*saved steps: 2, 1"):
            checkpointer.restore(abstract(make_state()), step=3)


def test_donating_the_state_right_after_an_async_save_is_safe(tmp_path):
    state = {"params": {"w": jnp.arange(1 << 18, dtype=jnp.float32)}}
    before = np.asarray(state["params"]["w"]).copy()
    double = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2, tree), donate_argnums=0)
    with Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.save(1, state, DATA, META, force=True)
        state = double(double(state))
        restored = checkpointer.restore(abstract(state)).state
    np.testing.assert_array_equal(restored["params"]["w"], before)


@pytest.mark.parametrize("devices", [1, 4])
def test_restored_onto_other_devices(tmp_path, devices):
    state = make_state(3)
    state = jax.device_put(state, on_mesh(state, jax.devices(), ("data", None)))
    with Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.save(3, state, DATA, META, force=True)
        # Another number of devices and another axis.
        places = on_mesh(state, jax.devices()[:devices], (None, "data"))
        wanted = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, places
        )
        restored = checkpointer.restore(wanted).state
    assert_same(restored, state)
    for leaf, place in zip(jax.tree.leaves(restored), jax.tree.leaves(places), strict=True):
        assert leaf.sharding == place
    if devices == 4:
        assert restored.params["embed"].addressable_shards[0].data.shape == (64, 8)


def test_written_on_eight_devices_read_by_a_process_that_has_one(tmp_path):
    state = {"params": {"w": jnp.arange(64.0).reshape(8, 8)}}
    state = jax.device_put(state, on_mesh(state, jax.devices(), ("data", None)))
    with Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.save(3, state, DATA, META, force=True)
    code = (
        "import jax, sys; from t5x_ext.checkpoints import Checkpointer;"
        "w = jax.ShapeDtypeStruct((8, 8), 'float32');"
        "r = Checkpointer(sys.argv[1]).restore({'params': {'w': w}});"
        "print(jax.device_count(), float(r.state['params']['w'].sum()), r.data_state['epoch'])"
    )
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True
    )
    assert done.stdout.split() == ["1", "2016.0", "2"], done.stderr
    assert done.stderr == ""  # no notes from Orbax either


def _damages(path: Path):
    """Every way to break one file or folder of a checkpoint: gone, emptied, cut in half."""
    for victim in sorted(path.rglob("*")):
        yield victim, "gone"
        if victim.is_file() and victim.stat().st_size:
            yield victim, "emptied"
            yield victim, "halved"


def _damage(victim: Path, how: str) -> None:
    if how == "gone":
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    else:
        data = victim.read_bytes()
        victim.write_bytes(data[: len(data) // 2] if how == "halved" else b"")


def test_a_damaged_newest_checkpoint_is_never_restored_wrongly(tmp_path, caplog):
    """Breaks each file in turn: either 20 is still read exactly, or 10 is, with one warning."""
    sound = tmp_path / "sound"
    save_all(sound, [10, 20])
    outcomes = {}
    for number, (original, how) in enumerate(list(_damages(sound / "checkpoint_20"))):
        model_dir = tmp_path / str(number)
        shutil.copytree(sound, model_dir)
        _damage(model_dir / original.relative_to(sound), how)
        caplog.clear()
        with Checkpointer(str(model_dir)) as checkpointer:
            restored = checkpointer.restore(abstract(make_state()))
        step = int(restored.state.step)
        assert_same(restored.state, make_state(step))
        assert (restored.data_state, restored.meta) == ({"at": step}, META)
        warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert len(warnings) == (0 if step == 20 else 1)
        outcomes[str(original.relative_to(sound)), how] = step
    # The files that hold nothing of the run may go; any other damage is noticed.
    harmless = {name for (name, _), step in outcomes.items() if step == 20}
    assert harmless == {
        f"checkpoint_20/{name}"
        for name in ("_CHECKPOINT_METADATA", "commit_success.txt", "manifest.json")
    }


def test_a_damaged_step_is_set_aside_and_saved_again(tmp_path, caplog):
    save_all(tmp_path, [10, 20])
    shutil.rmtree(tmp_path / "checkpoint_20" / "state")
    with Checkpointer(str(tmp_path)) as checkpointer:
        restored = checkpointer.restore(abstract(make_state()))
        assert int(restored.state.step) == 10
        assert "checkpoint_20 cannot be read" in caplog.text
        assert "using checkpoint_10" in caplog.text
        assert checkpointer.save(20, make_state(20), {"at": 20}, META, force=True)
        assert checkpointer.latest_step() == 20
        assert int(checkpointer.restore(abstract(make_state())).state.step) == 20
    assert (tmp_path / "checkpoint_20.damaged").is_dir()


def test_all_damaged_is_an_error_and_touches_nothing(tmp_path):
    save_all(tmp_path, [10, 20])
    for step in (10, 20):
        shutil.rmtree(tmp_path / f"checkpoint_{step}" / "state")
    with Checkpointer(str(tmp_path)) as checkpointer:
        with pytest.raises(ConfigError, match="none of 2 checkpoints can be read"):
            checkpointer.restore(abstract(make_state()))
    assert (tmp_path / "checkpoint_20").is_dir()


def test_a_half_written_checkpoint_is_not_seen_and_cleared_away(tmp_path):
    save_all(tmp_path, [10])
    shutil.copytree(tmp_path / "checkpoint_10", tmp_path / "checkpoint_20.orbax-checkpoint-tmp")
    with Checkpointer(str(tmp_path)) as checkpointer:
        assert checkpointer.latest_step() == 10
        assert int(checkpointer.restore(abstract(make_state())).state.step) == 10
        checkpointer.save(20, make_state(20), DATA, META, force=True)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"checkpoint_10", "checkpoint_20"}


KILLED = """
import sys, jax.numpy as jnp
from t5x_ext.checkpoints import Checkpointer
checkpointer = Checkpointer(sys.argv[1], keep=1)
for step in range(1, 10_000):
    state = {"step": jnp.int32(step), "params": {"w": jnp.full((1 << 20,), step, jnp.float32)}}
    checkpointer.save(step, state, {"at": step}, {}, force=True)
    print(step, flush=True)
"""


def test_killed_at_any_time_a_whole_checkpoint_remains(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if int(line) == 4:
            with pytest.raises(ConfigError, match=rf"in use .*\(process {process.pid} on"):
                Checkpointer(str(tmp_path))
            break
    time.sleep(0.05)
    process.kill()
    process.wait()
    wanted = {
        "step": jax.ShapeDtypeStruct((), jnp.int32),
        "params": {"w": jax.ShapeDtypeStruct((1 << 20,), jnp.float32)},
    }
    # The lock died with its holder.
    with Checkpointer(str(tmp_path), keep=1) as checkpointer:
        state, data, _ = checkpointer.restore(wanted)
        step = int(state["step"])
        assert step >= 3
        np.testing.assert_array_equal(state["params"]["w"], step)
        assert data == {"at": step}
        assert checkpointer.save(step + 1, state, data, {}, force=True)


def test_one_writer_per_directory_in_one_process_too(tmp_path):
    with Checkpointer(str(tmp_path)):
        with pytest.raises(ConfigError, match=f"{tmp_path} is in use .*process {os.getpid()} on"):
            Checkpointer(str(tmp_path))
    Checkpointer(str(tmp_path)).close()


def test_wrong_trees_are_named_in_one_line(tmp_path):
    save_all(tmp_path, [1])
    state = make_state()
    with Checkpointer(str(tmp_path)) as checkpointer:
        with pytest.raises(ConfigError) as caught:
            checkpointer.restore(abstract(make_state(width=16)))
        message = str(caught.value)
        assert "of another shape: params/embed (saved (64, 32), wanted (64, 16))" in message
        assert "\n" not in message

        params = {**state.params, "head": jnp.zeros(3)}
        with pytest.raises(ConfigError, match="1 missing in the checkpoint: params/head"):
            checkpointer.restore(abstract(state.replace(params=params)))

        params = {"embed": state.params["embed"]}
        with pytest.raises(ConfigError, match="1 not in the model: params/mlp/kernel"):
            checkpointer.restore(abstract(state.replace(params=params)))

        opt_state = optax.sgd(0.1, momentum=0.9).init(state.params)
        with pytest.raises(ConfigError, match="only the optimizer's state differs: give this"):
            checkpointer.restore(abstract(state.replace(opt_state=opt_state)))
    # A wrong tree is the user's mistake: nothing was set aside.
    assert (tmp_path / "checkpoint_1").is_dir()


def test_dtypes_of_parameters_on_save_and_restore(tmp_path):
    state = make_state(2)
    with Checkpointer(str(tmp_path), save_dtype="bfloat16") as checkpointer:
        checkpointer.save(2, state, DATA, META, force=True)
        restored = checkpointer.restore(abstract(state)).state
    rounded = state.params["embed"].astype(jnp.bfloat16)
    assert not np.array_equal(rounded, state.params["embed"])
    assert restored.params["embed"].dtype == jnp.float32
    np.testing.assert_array_equal(restored.params["embed"], rounded.astype(jnp.float32))
    assert_same(restored.opt_state, state.opt_state)

    with Checkpointer(str(tmp_path), restore_dtype="bfloat16") as checkpointer:
        restored = checkpointer.restore(abstract(state)).state
    assert restored.params["embed"].dtype == jnp.bfloat16
    assert_same(restored.opt_state, state.opt_state)


UNWRITABLE_ITEMS = """
import errno, os, sys
import jax.numpy as jnp
from t5x_ext.checkpoints import Checkpointer

made = os.makedirs


def makedirs(path, *args, **kwargs):
    if "checkpoint_1" in os.path.dirname(path):  # the directory of each item of the step
        raise OSError(errno.EROFS, "Read-only file system", path)
    made(path, *args, **kwargs)


os.makedirs = makedirs
with Checkpointer(sys.argv[1]) as checkpointer:
    checkpointer.save(1, {"params": {"a": jnp.ones(3)}}, {}, {}, force=True)
"""


def test_directories_that_cannot_be_made_end_the_process_with_one_error(tmp_path):
    command = [sys.executable, "-c", UNWRITABLE_ITEMS, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "step 1 cannot be saved (Read-only file system)" in ended.stderr


def test_failures_that_orbax_leaves_to_asyncio_are_not_traced(tmp_path, caplog):
    (tmp_path / "file").touch()
    path = ocp.path.atomicity.AtomicRenameTemporaryPath.from_final(epath.Path(tmp_path / "file/s"))

    async def fail_unseen(attempt):
        await asyncio.wait([asyncio.ensure_future(attempt)])

    async def another_s():
        raise OSError("another_s")

    for attempt in (path.create(), another_s()):
        asyncio.run(fail_unseen(attempt))
        gc.collect()
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert "another_s" in str(record.exc_info)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"keep": 0}, "keep = 0: allowed are None and numbers from 1"),
        ({"save_period": -5}, "save_period = -5: allowed"),
        ({"save_dtype": "float16"}, "SaveCheckpointConfig.dtype = 'float16': allowed are float32"),
        ({"restore_dtype": "int8"}, "RestoreCheckpointConfig.dtype = 'int8'"),
    ],
)
def test_bad_arguments(tmp_path, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        Checkpointer(str(tmp_path), **kwargs)


def test_sigterm_becomes_a_flag_and_the_old_handler_returns():
    before = signal.getsignal(signal.SIGTERM)
    with PreemptionGuard() as guard:
        assert not guard.should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert guard.should_stop()
        assert guard.should_stop()
    assert signal.getsignal(signal.SIGTERM) is before


def test_import_waits_with_orbax_and_never_needs_tensorflow():
    code = (
        "import sys, t5x_ext.checkpoints;"
        "print([m for m in ('tensorflow', 'orbax.checkpoint') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
