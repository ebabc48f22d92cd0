"""A plan needs neither weights nor a vocabulary: the sizes are in the model's gin file."""

from __future__ import annotations

import pytest

from t5x_ext import gin_utils
from t5x_ext import plan as plan_command
from t5x_ext.errors import ConfigError
from t5x_ext.models import network
from t5x_ext.models.parameters import count_params
from t5x_ext.train import train


def read_setup(*arguments: str, last: str = "runs/plan.gin"):
    given = [*arguments, f"--gin_file={last}", "--topology", "v5e:4x4"]
    flags, _ = gin_utils.parse_flags(plan_command._parser(), given)
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


@pytest.mark.parametrize(
    ("name", "weights", "parameters", "has_passages"),
    [
        ("paper", "MPT_PATH", 29_957_200_896, True),
        ("paper_finance", "LLAMA_PATH", 6_738_415_616, False),
    ],
)
def test_the_studies_of_self_specialization_are_read_up_to_lowering(
    name, weights, parameters, has_passages, monkeypatch
):
    monkeypatch.delenv("SPECIALIZATION_DIR", raising=False)
    bindings = {weights: "'nowhere'", "VOCABULARY_PATH": "'nowhere'", "MODEL_DIR": "'runs/study'"}
    given = [f"--gin.{macro}={value}" for macro, value in bindings.items()]
    found = read_setup(*given, last=f"studies/self_specialization_{name}.gin")
    own = count_params(network.Transformer(found.setup.model.config).specs)
    assert own == parameters
    assert found.setup.model.module.quantization == "nf4"
    # 5,000 rows, 3 epochs, batches of 32.
    assert 471 in {model.steps for model in found.size.models}
    # Answers are 256 tokens at most in tests, of the 512 that rows are tuned on.
    assert (found.setup.workload.target_length, found.setup.decoding.target_length) == (512, 256)
    texts = {text.name for text in found.size.texts}
    assert "answers of r2" in texts and ("answers of r1_docs5" in texts) == has_passages
