"""Adapters that a study keeps say what they were tuned over and with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from mixtures.vocabularies import bundled_vocabulary
from t5x_ext.checkpoints.adapters import open_adapter
from t5x_ext.models import DecoderOnlyModel, network
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.parameters import map_specs
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.studies import InitialModel, Recipe, self_specialization_arms, store
from t5x_ext.studies.cells import Cell
from t5x_ext.studies.generation import Generation
from t5x_ext.studies.initial_models import InitialModels
from t5x_ext.studies.tuning import Tuner

CONFIG = LlamaConfig(
    vocab_size=64, emb_dim=64, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=32, mlp_dim=64
)


@pytest.mark.parametrize(("tuned", "other"), [("nf4", None), (None, "nf4")])
def test_a_kept_adapter_warns_of_other_kernels_and_of_another_prompt(
    tuned: str | None, other: str | None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    module = network.Transformer(CONFIG, LoRA(2), quantization=tuned)
    mesh = PjitPartitioner(devices=jax.devices()[:1])
    tuner = Tuner(DecoderOnlyModel(module, bundled_vocabulary()), mesh, Recipe())
    unused: Any = None
    by_name = {"base": InitialModel("base")}  # random parameters
    initials = InitialModels(by_name, {"base": "k"}, tuner, unused, epath.Path(tmp_path))
    generation = Generation(unused, {}, initials, tuner, epath.Path(tmp_path))
    (arm,) = self_specialization_arms("harbour", ("harbour_log",), only=("ss_r2",))
    params = map_specs(lambda spec: np.ones(spec.shape, np.float32), module.trainable)
    generation.keep(Cell("c", arm, "n10", 0, (), "tuned"), params)

    adapter = open_adapter(str(store.adapter_dir(epath.Path(tmp_path), "tuned")), CONFIG)
    adapter.warn_of_kernels(tuned, "/base")
    adapter.warn_of_prompt("alpaca")
    assert capsys.readouterr().err == ""
    adapter.warn_of_kernels(other, "/base")
    adapter.warn_of_prompt("ss.none")
    kernels, prompt = capsys.readouterr().err.splitlines()
    assert ("in NF4, used over /base unquantised" in kernels) == (tuned == "nf4")
    assert prompt.endswith("tuned with prompt 'alpaca', used with 'ss.none'")
