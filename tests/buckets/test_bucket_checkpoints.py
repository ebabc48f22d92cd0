"""Checkpoints in a bucket: faults of the server are retried or refused, and are not damage."""

from __future__ import annotations

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from proxy import Proxy

from t5x_ext import files
from t5x_ext.checkpoints import Checkpointer
from t5x_ext.training.state import TrainState

STATE = TrainState(jnp.int32(3), {"w": jnp.arange(4096.0).reshape(64, 64)}, {})


def restore(model_dir: str) -> TrainState:
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), STATE)
    with Checkpointer(model_dir) as checkpointer:
        restored = checkpointer.restore(wanted)
    assert restored is not None
    return restored.state


@pytest.fixture
def model_dir(bucket: str) -> str:
    with Checkpointer(f"{bucket}/run") as checkpointer:
        for step in (2, 3):
            checkpointer.save(step, STATE, {"at": step}, {"seed": 1}, force=True)
    return f"{bucket}/run"


def test_a_checkpoint_lies_in_the_bucket_and_comes_back(model_dir: str) -> None:
    assert files.names_in(model_dir) == ["checkpoint_2", "checkpoint_3"]
    files.write_text(f"{model_dir}/tokenizer/of_mine", "kept")
    files.write_text(f"{model_dir}/checkpoint_4/state/x", "of a save that was cut short")
    jax.tree.map(np.testing.assert_array_equal, restore(model_dir), STATE)
    assert files.names_in(model_dir) == ["checkpoint_2", "checkpoint_3", "tokenizer"]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["manifest", "state"])
def test_a_failing_server_is_asked_again(part: str, model_dir: str, proxy: Proxy) -> None:
    count = itertools.count()
    proxy.fault = lambda method, path: 503 if part in path and next(count) < 2 else None
    jax.tree.map(np.testing.assert_array_equal, restore(model_dir), STATE)
    assert next(count) > 2


@pytest.mark.slow
@pytest.mark.parametrize("part", ["", "manifest", r"state.*[/F]d[/%]", "meta"])
def test_a_refusal_is_no_damage(part: str, model_dir: str, proxy: Proxy) -> None:
    before = files.names_in(model_dir)
    proxy.fault = lambda method, path: 403 if re.search(part, path) else None
    with pytest.raises((ValueError, OSError)) as refused:
        restore(model_dir)
    said = str(refused.value)
    assert re.search("403|Forbidden|PERMISSION_DENIED", said) and "damage" not in said.lower()
    proxy.fault = lambda method, path: None
    assert files.names_in(model_dir) == before
    jax.tree.map(np.testing.assert_array_equal, restore(model_dir), STATE)
