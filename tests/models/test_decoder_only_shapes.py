"""Every decoder-only model file has the shape of the published weights it names."""

from __future__ import annotations

import re
from pathlib import Path

import gin
import pytest

import gin_configs
from t5x_ext import gin_utils
from t5x_ext.models import network, parameters

MODELS = Path(gin_configs.__file__).parent / "models"

# Counted by others, from the files or with PEFT on full-size configs.
COUNTS = {
    "llama_7b": 6_738_415_616,
    "llama_13b": 13_015_864_320,
    "llama_2_7b": 6_738_415_616,
    "llama_2_13b": 13_015_864_320,
    "llama_3_8b": 8_030_261_248,
    "smollm2_135m": 134_515_008,
    "mpt_7b": 6_649_286_656,
    "mpt_30b": 29_957_200_896,
    "falcon_7b": 6_921_720_704,
    "falcon_40b": 41_303_293_952,
}
MINIATURES = ("llama_tiny", "mpt_tiny", "falcon_tiny")


@pytest.fixture(autouse=True)
def _fresh_gin():
    yield
    gin.clear_config()


def configured(model: str):
    """The config that a model file binds."""
    gin_utils.parse([f"models/{model}.gin"], ["VOCABULARY_PATH = 'unused'"])
    return gin.get_configurable(network.Transformer)().config


@pytest.mark.parametrize("model", COUNTS)
def test_parameters_are_those_of_the_published_model(model: str) -> None:
    assert parameters.count_params(network.Transformer(configured(model)).specs) == COUNTS[model]


@pytest.mark.parametrize("model", COUNTS)
def test_first_lines_state_the_count_and_the_weights(model: str) -> None:
    title, weights, *_ = (MODELS / f"{model}.gin").read_text().splitlines()
    assert f": {COUNTS[model]:,} parameters" in title
    assert re.fullmatch(r"# Weights: INITIAL_CHECKPOINT_PATH .*= a copy of \S+/\S+\.", weights)


@pytest.mark.parametrize("model", MINIATURES)
def test_miniatures_fit_the_bundled_vocabulary(model: str) -> None:
    config = configured(model)
    assert config.vocab_size == 768
    assert parameters.count_params(network.Transformer(config).specs) < 250_000
