"""Decoding methods as gin files set them: ours, and T5X's names."""

from __future__ import annotations

import gin
import jax
import pytest

from t5x_ext import gin_utils, infer
from t5x_ext.decoding import Beam, Greedy, Method, Sampling, beam_search, temperature_sample
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.t5x_names import method_of
from t5x_ext.errors import ConfigError
from t5x_ext.models import EncoderDecoderModel, network
from t5x_ext.partitioning import PjitPartitioner

RUN = [
    "MIXTURE_OR_TASK_NAME = 'held_in'",
    "TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 8}",
    "CHECKPOINT_PATH = 'runs/model'",
    "INFER_OUTPUT_DIR = 'runs/out'",
]
FILES = {
    "greedy": ([], Greedy()),
    "sampling": (
        ["TEMPERATURE = 0.5", "TOP_K = 9"],
        Sampling(temperature=0.5, top_k=9, top_p=0.95),
    ),
    "beam": (
        ["BEAM_STYLE = 'hf'", "NUM_BEAMS = 2", "EARLY_STOPPING = True"],
        Beam(num_beams=2, style="hf", early_stopping=True),
    ),
}
UPSTREAM = """
from __gin__ import dynamic_registration
from t5x_ext import models
from t5x_ext import decoding
"""
NAMED = {
    "models.EncoderDecoderModel.predict_batch_with_aux.num_decodes = 4": Beam(num_beams=4),
    "models.EncoderDecoderModel.decode_fn = @decoding.beam_search\n"
    "decoding.beam_search.alpha = 1.0": Beam(num_beams=1, length_penalty=1.0),
    "models.EncoderDecoderModel.decode_fn = @decoding.temperature_sample\n"
    "models.EncoderDecoderModel.predict_batch_with_aux.num_decodes = 3\n"
    "decoding.temperature_sample.temperature = 0.5\n"
    "decoding.temperature_sample.topk = 20": Sampling(temperature=0.5, top_k=20, num_samples=3),
}


@pytest.fixture(autouse=True)
def _fresh_gin():
    yield
    gin.clear_config()


def method_from(files: list[str], bindings: list[str], model: str = "t5_1_1_tiny") -> Method:
    """What a command would decode with."""
    files = [f"models/{model}.gin", *files, "runs/infer.gin"]
    gin_utils.parse(files, bindings, command=infer.infer)
    return method_of(gin.query_parameter("%MODEL").scoped_configurable_fn())


@pytest.mark.parametrize("model", ["t5_1_1_tiny", "llama_tiny"])
@pytest.mark.parametrize("name", FILES)
def test_files_set_the_method(name, model) -> None:
    bindings, expected = FILES[name]
    assert method_from([f"decoding/{name}.gin"], [*RUN, *bindings], model) == expected


@pytest.mark.parametrize("lines", NAMED)
def test_t5x_names_set_the_method(lines, tmp_path) -> None:
    path = tmp_path / "decode.gin"
    path.write_text(UPSTREAM + lines + "\n")
    assert method_from([str(path)], RUN) == NAMED[lines]


def test_t5x_functions_have_t5x_defaults() -> None:
    assert beam_search() == Beam(num_beams=4, length_penalty=0.6)
    assert temperature_sample() == Greedy()  # topk = 1
    assert temperature_sample(topk=0, topp=0.9) == Sampling(top_p=0.9)
    with pytest.raises(ConfigError, match="topk=1 and topp=0.9; allowed: one of them"):
        temperature_sample(topp=0.9)


def test_a_decoder_takes_its_method_from_the_model_unless_told() -> None:
    network_cfg = network.T5Config(vocab_size=64)
    model = EncoderDecoderModel(network.Transformer(network_cfg), decode_fn=Beam(num_beams=2))
    mesh = PjitPartitioner(devices=jax.devices()[:1])
    assert Decoder(model, mesh, 8, 64, 8).method == Beam(num_beams=2)
    assert Decoder(model, mesh, 8, 64, 8, Greedy()).method == Greedy()
    with pytest.raises(ConfigError, match=r"Greedy.min_length: 8; allowed: less than 8, the limit"):
        Decoder(model, mesh, 8, 64, 8, Greedy(min_length=8))
    with pytest.raises(ConfigError, match=r"Decoder.first_stage: 0; allowed: at least 1, or None"):
        Decoder(model, mesh, 8, 64, 8, first_stage=0)
