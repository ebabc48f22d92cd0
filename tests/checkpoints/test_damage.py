"""Damage is found wherever it is, and nothing else is taken for damage."""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_ext.checkpoints import Checkpointer, load, open_source, own_layout
from t5x_ext.checkpoints.damage import Damage, reading
from t5x_ext.errors import ConfigError

UNREADABLE = "/proc/self/mem"  # fails with EIO: its first page is never mapped


def make_state(step: int) -> dict:
    mesh = Mesh(np.array(jax.devices()[:2]), ("fsdp",))
    # Chunks above 1 KiB are in separate files, whose bytes OCDBT itself does not verify.
    kernel, mu = jax.random.normal(jax.random.key(step), (2, 32, 32))
    return {
        "params": {
            "kernel": jax.device_put(kernel, NamedSharding(mesh, PartitionSpec("fsdp"))),
            "scale": jnp.full((3,), step, jnp.bfloat16),
        },
        "opt_state": ({"mu": mu}, jnp.int32(step)),
        "step": jnp.int32(step),
    }


def abstract() -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make_state(0))


def save_two(model_dir: Path, **options) -> Path:
    """Saves steps 1 and 2; returns the directory of the second."""
    with Checkpointer(str(model_dir), **options) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, make_state(step), {"at": step}, {"step": step}, force=True)
    return model_dir / "checkpoint_2"


def bits(state: object) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_no_flipped_bit_goes_unnoticed(tmp_path, caplog):
    """Every byte of every file, one bit of each: it changes nothing, or is found."""
    newest = save_two(tmp_path / "run")
    sound = bits(make_state(2))
    found = 0
    with Checkpointer(str(tmp_path / "run")) as checkpointer:
        for file in files_of(newest):
            content = file.read_bytes()
            for place in range(0, len(content), max(1, len(content) // 60)):
                flipped = bytearray(content)
                flipped[place] ^= 1 << place % 8
                file.write_bytes(flipped)
                try:
                    restored = checkpointer.restore(abstract(), step=2)
                except ConfigError as error:
                    assert "cannot be read" in str(error), (file, place)
                    found += 1
                    continue
                assert bits(restored.state) == sound, (file, place)
                assert (restored.data_state, restored.meta) == ({"at": 2}, {"step": 2})
            file.write_bytes(content)
        restored = checkpointer.restore(abstract())
        assert bits(restored.state) == sound
    assert found > 300
    assert not caplog.records


def flip_values(checkpoint: Path) -> None:
    """Flips a bit in the middle of the stored bytes of a parameter, in every file they are in."""
    base = {"driver": "ocdbt", "base": f"file://{checkpoint / 'state'}/"}
    store = tensorstore.KvStore.open(base).result()
    key = next(key for key in store.list().result() if key.startswith(b"params.kernel/c/"))
    chunk = store.read(key).result().value
    for file in files_of(checkpoint / "state"):
        content = bytearray(file.read_bytes())
        at = content.find(chunk)
        if at >= 0:
            content[at + len(chunk) // 2] ^= 1
            file.write_bytes(content)


def test_a_flipped_value_is_found_by_whoever_reads_it(tmp_path):
    newest = save_two(tmp_path / "run")
    own_layout.write_params(open_source(str(newest)), str(tmp_path / "alone"))
    for checkpoint in (newest, tmp_path / "alone"):
        flip_values(checkpoint)
        source = open_source(str(checkpoint))  # reads no value
        with pytest.raises(Damage, match="Digest mismatch"):
            source.tensors["kernel"].whole()
        with pytest.raises(ConfigError, match="DATA_LOSS"):
            load(str(checkpoint))
        with pytest.raises(Damage, match="Digest mismatch"):
            own_layout.write_params(source, str(tmp_path / "copy"))
        assert not (tmp_path / "copy").exists()
    # Of a MODEL_DIR, the older one is read, and named.
    assert load(str(tmp_path / "run")).source.step == 1


def test_parameters_alone_do_not_depend_on_the_optimizer(tmp_path):
    """Only what is read is verified: a run may go on with a new optimizer."""
    newest = save_two(tmp_path / "run")
    values = max(files_of(newest / "state"), key=lambda file: file.stat().st_size)
    content = values.read_bytes()
    outcomes = set()
    for place in range(0, len(content), 64):
        values.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            params = load(str(newest)).params
        except ConfigError:
            outcomes.add("found")
        else:
            assert bits(params) == bits(make_state(2)["params"])
            outcomes.add("elsewhere")
    assert outcomes == {"found", "elsewhere"}


def test_without_checksums_a_flip_may_go_unnoticed(tmp_path):
    """What the switch switches: it is the checksums that find it."""
    newest = save_two(tmp_path / "run", checksums=False)
    flip_values(newest)
    with Checkpointer(str(tmp_path / "run")) as checkpointer:
        restored = checkpointer.restore(abstract(), step=2)
    assert bits(restored.state) != bits(make_state(2))


def test_an_unreadable_file_is_no_damage_and_nothing_is_renamed(tmp_path):
    newest = save_two(tmp_path / "run")
    (newest / "manifest.json").unlink()  # which would tell by the file's size
    meta = newest / "meta" / "metadata"
    meta.unlink()
    meta.symlink_to(UNREADABLE)
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with Checkpointer(str(tmp_path / "run")) as checkpointer:
        for step in (None, 2):
            with pytest.raises(ConfigError, match=r"checkpoint_2: cannot be read now \(Input"):
                checkpointer.restore(abstract(), step)
    for path in ("run", "run/checkpoint_2"):
        with pytest.raises(ConfigError, match=r"checkpoint_2: cannot be read now \(Input"):
            load(str(tmp_path / path))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_a_run_does_not_wait_for_a_pipe_in_its_checkpoint(tmp_path):
    newest = save_two(tmp_path)
    (newest / "data" / "metadata").unlink()
    os.mkfifo(newest / "data" / "metadata")
    with Checkpointer(str(tmp_path)) as checkpointer:
        with pytest.raises(ConfigError, match="data/metadata: neither a file nor a directory"):
            checkpointer.restore(abstract())


def test_a_host_without_memory_says_nothing_of_the_checkpoint(tmp_path, monkeypatch):
    save_two(tmp_path / "run")

    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(jax, "make_array_from_callback", exhausted)
    with Checkpointer(str(tmp_path / "run")) as checkpointer:
        with pytest.raises(MemoryError):
            checkpointer.restore(abstract())
    assert not (tmp_path / "run" / "checkpoint_2.damaged").exists()


def test_a_checkpoint_that_goes_while_it_is_read_is_no_damage(tmp_path):
    newest = save_two(tmp_path / "run")

    with pytest.raises(ConfigError, match="checkpoint_2: was deleted while it was being read"):
        with reading(epath.Path(newest)):
            shutil.rmtree(newest)
            own_layout.read_json(epath.Path(newest), "meta")


@contextlib.contextmanager
def answering(status: int) -> Iterator[int]:
    """A storage server on loopback that answers every request with one status; gives its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.send_error(status)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


# TensorStore asks its server 32 times, over minutes; the number is part of the context.
READ_FROM_BUCKET = """
import tensorstore
from etils import epath
from t5x_ext.checkpoints import tensorstores
from t5x_ext.checkpoints.damage import tensorstore_error

path = epath.Path("gs://bucket/run/params.kernel")
store = tensorstores.kvstore(path.parent, path.name)
context = tensorstore.Context({"gcs_request_retries": {"max_retries": 2}})
try:
    tensorstore.open({"driver": "zarr3", "kvstore": store}, context=context).result()
except ValueError as error:
    told = tensorstore_error(path, error)
    print(type(told).__name__, told)
"""


@pytest.mark.parametrize("status", [403, 404, 503])
def test_only_a_missing_object_is_damage_of_a_bucket(status):
    """503 and 403 say nothing of the checkpoint, 404 does."""
    with answering(status) as port:
        done = subprocess.run(
            [sys.executable, "-c", READ_FROM_BUCKET],
            env=os.environ
            | {
                "TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{port}",
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
            },
            capture_output=True,
            text=True,
        )
    kind, _, message = done.stdout.strip().partition(" ")
    assert "\n" not in message
    if status == 404:
        assert kind == "Damage", done.stderr
    else:
        assert kind == "ConfigError", done.stderr
        assert message.startswith("gs://bucket/run/params.kernel: cannot be read now (")
        assert message.endswith("nothing says that it is damaged")
