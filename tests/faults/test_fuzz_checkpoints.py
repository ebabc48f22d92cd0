"""Checkpoints of every layout with damaged files: read, or refused in one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from fuzzing import fuzz, outcome
from hypothesis import given
from hypothesis import strategies as st
from small_checkpoints import LAYOUTS, changed_files, make_all, with_changes

from t5x_ext.checkpoints import load_params, open_source
from t5x_ext.errors import ConfigError
from t5x_ext.inspect_checkpoint import inspect
from t5x_ext.models import network
from t5x_ext.models.families import config_from_json


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_all(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("layout", LAYOUTS)
@fuzz
@given(data=st.data())
def test_fuzz_checkpoint_files(sound: dict[str, Path], layout: str, data: st.DataObject) -> None:
    path = str(sound[layout])
    with with_changes(sound[layout], data.draw(changed_files(sound[layout]))):
        summary = outcome(lambda: inspect(path))
        params = outcome(lambda: load_params(path))
    if isinstance(summary, str):
        assert isinstance(params, str)
        return
    json.dumps(summary)
    if isinstance(params, str):
        return
    # What is read is a whole model: no tensor is missing, none has another shape.
    config = config_from_json(summary["config"], "inspect") if summary["config"] else None
    shapes = {name: tuple(tensor["shape"]) for name, tensor in summary["tensors"].items()}
    found = {
        jax.tree_util.keystr(place, simple=True, separator="/"): np.shape(leaf)
        for place, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    assert found == shapes
    if config is not None:
        specs = jax.tree_util.tree_leaves(
            network.Transformer(config).specs, is_leaf=lambda node: hasattr(node, "axes")
        )
        assert sorted(spec.shape for spec in specs) == sorted(shapes.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sound_checkpoint_is_read(sound: dict[str, Path], layout: str) -> None:
    params = load_params(str(sound[layout]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("layout", "file", "place", "message"),
    [
        ("hf", "config.json", ("num_layers",), "config.json: T5Config.num_encoder_layers: 11"),
        (
            "t5x",
            "t5x_ext.json",
            ("model_config", "num_decoder_layers"),
            "its .*num_decoder_layers: 11",
        ),
    ],
)
def test_absurdly_many_layers_are_refused_at_once(
    sound: dict[str, Path], layout: str, file: str, place: tuple[str, ...], message: str
) -> None:
    value = json.loads((sound[layout] / file).read_text())
    *parents, last = place
    node = value
    for parent in parents:
        node = node[parent]
    node[last] = 1 << 70
    with with_changes(sound[layout], {Path(file): json.dumps(value).encode()}):
        with pytest.raises(ConfigError, match=message):
            open_source(str(sound[layout]))
