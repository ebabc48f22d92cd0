"""A plan needs neither weights nor a vocabulary: the sizes are in the model's gin file."""

from __future__ import annotations

import pytest

from t5x_ext import gin_utils
from t5x_ext import plan as plan_command
from t5x_ext.errors import ConfigError
from t5x_ext.train import train


def read_setup(*arguments: str):
    files = ["--gin_file=runs/plan.gin", "--topology", "v5e:4x4"]
    flags, _ = gin_utils.parse_flags(plan_command._parser(), [*arguments, *files])
    return plan_command._setup(flags)


@pytest.mark.parametrize("name", ["llama_2_13b", "smollm2_135m", "mpt_30b", "falcon_40b"])
def test_no_vocabulary_has_to_be_named(name):
    model_file = f"--gin_file=models/{name}.gin"
    setup = read_setup(model_file)
    assert setup.model.vocabulary is None and setup.model.config.vocab_size > 30_000
    # One that is named is not read either.
    named = read_setup(model_file, "--gin.VOCABULARY_PATH='nowhere/at/all'")
    assert named.model.config == setup.model.config


def test_a_run_has_to_be_told():
    files = ["models/llama_2_7b.gin", "runs/plan.gin"]
    with pytest.raises(ConfigError, match="VOCABULARY_PATH is required and not set: give"):
        gin_utils.parse(files, command=train)
