"""The gin files that ship with the package."""

from __future__ import annotations

import re
from pathlib import Path

import gin
import pytest

import gin_configs
from t5x_ext import eval as eval_command
from t5x_ext import gin_utils, infer, specialize, study, train
from t5x_ext.errors import ConfigError

MODELS = sorted(path.stem for path in Path(gin_configs.__file__).parent.glob("models/*.gin"))
NAMED = ["MIXTURE_OR_TASK_NAME = 'held_in'", "TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 8}"]
TRAINING = [*NAMED, "MODEL_DIR = 'runs/model'", "TRAIN_STEPS = 3"]
DECODING = [*NAMED, "CHECKPOINT_PATH = 'runs/model'"]
STUDIES = {
    "quickstart": [],
    "superni_tiny": ["DATA_DIR = '/data'"],
    "paper": [
        "DATA_DIR = '/data'",
        "TK_INSTRUCT_PATH = '/tk'",
        "LM_ADAPT_PATH = '/lm'",
        "FSDP = 8",
    ],
    "writing_tiny": [],
    "writing_smollm2": ["DATA_DIR = '/data'", "SMOLLM2_PATH = 'downloads/model'"],
    "self_specialization_tiny": [],
    "self_specialization_smollm2": ["DATA_DIR = '/data'", "SMOLLM2_PATH = 'downloads/model'"],
    "self_specialization_paper": [
        "DATA_DIR = '/data'",
        "MPT_PATH = 'downloads/model'",
        "VOCABULARY_PATH = 'downloads/model'",
    ],
    "self_specialization_paper_finance": [
        "DATA_DIR = '/data'",
        "LLAMA_PATH = 'downloads/model'",
        "VOCABULARY_PATH = 'downloads/model'",
    ],
    "writing_paper": ["DATA_DIR = '/data'", "LLAMA_PATH = 'downloads/model'", "FSDP = 16"],
}
RUNS = {
    "train": (train.train, TRAINING),
    "pretrain": (train.train, TRAINING),
    "finetune": (train.train, [*TRAINING, "INITIAL_CHECKPOINT_PATH = 'runs/initial'"]),
    "eval": (eval_command.evaluate, [*DECODING, "EVAL_OUTPUT_DIR = 'runs/out'"]),
    "infer": (infer.infer, [*DECODING, "INFER_OUTPUT_DIR = 'runs/out'"]),
}


@pytest.fixture(autouse=True)
def _fresh_gin():
    yield
    gin.clear_config()


@pytest.mark.parametrize("folder", ["runs", "gin_configs/runs"])
@pytest.mark.parametrize("run", RUNS)
def test_run_files_are_found_from_any_directory(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"gin_configs/runs/\w+\.gin:\d+: .* required") as caught:
        gin_utils.parse([f"{folder}/{run}.gin"])
    assert RUNS[run][1][2].split()[0] in str(caught.value)


SHORTEST = 100  # steps of a run that is evaluated at its end alone


@pytest.mark.parametrize("settings", [[], ["LORA_RANK = 8"]], ids=["full", "lora"])
@pytest.mark.parametrize("model", ["t5_1_1_tiny", "t5_1_1_xl", "llama_tiny", "smollm2_135m"])
@pytest.mark.parametrize("run", ["train", "pretrain", "finetune"])
def test_evaluation_costs_at_most_a_tenth_of_the_steps_before_it(run, model, settings):
    """By FLOPs, of which a step with adapters has the fewest to each of its evaluation's."""
    macros = [*RUNS[run][1], *settings, "INITIAL_CHECKPOINT_PATH = 'runs/initial'"]
    macros += ["VOCABULARY_PATH = 'vocabulary'"] if model == "smollm2_135m" else []
    gin_utils.parse([f"models/{model}.gin", f"runs/{run}.gin"], macros)
    steps = gin.query_parameter("%EVAL_PERIOD") or SHORTEST
    batch = gin.query_parameter("%BATCH_SIZE"), 512, 64
    network = gin.query_parameter("%MODEL").scoped_configurable_fn().module
    evaluation = gin.query_parameter("%EVAL_STEPS") * network.config.forward_flops(*batch)
    assert evaluation <= 0.1 * steps * network.train_flops(*batch)
    # Decoding, which takes far longer, is for those who ask for it.
    if run == "finetune":
        assert gin.query_parameter("%INFER_EVAL") is None


def _with_included(model: str) -> str:
    """The text of a model file, and of the model file that it includes."""
    folder = Path(gin_configs.__file__).parent
    text = (folder / "models" / f"{model}.gin").read_text()
    if "_tiny" in model:  # brings its own vocabulary
        return text
    for included in re.findall(r'include "gin_configs/models/(\w+).gin"', text):
        text += _with_included(included)
    return text


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("model", MODELS)
def test_each_model_and_run_pass_the_checks_and_rerun_as_written(model, run, tmp_path):
    command, bindings = RUNS[run]
    if "VOCABULARY_PATH = %gin.REQUIRED" in _with_included(model):
        bindings = [*bindings, "VOCABULARY_PATH = 'downloads/model'"]
    gin_utils.parse([f"runs/{run}.gin", f"models/{model}.gin"], bindings, command=command)
    text = gin_utils.operative_config()
    (tmp_path / "config.gin").write_text(text)
    gin_utils.parse([str(tmp_path / "config.gin")], command=command)
    assert gin_utils.operative_config() == text


def test_specialize_passes_the_checks():
    needed = ["CHECKPOINT_PATH = 'model'", "SPECIALIZE_DIR = 'runs/mine'"]
    gin_utils.parse(["runs/specialize.gin"], needed, command=specialize.specialize)
    with pytest.raises(ConfigError, match="SPECIALIZE_DIR"):
        gin_utils.parse(["runs/specialize.gin"], needed[:1], command=specialize.specialize)


@pytest.mark.parametrize("name", STUDIES)
def test_each_study_passes_the_checks(name):
    bindings = [*STUDIES[name], "MODEL_DIR = 'runs/study'"]
    gin_utils.parse([f"studies/{name}.gin"], bindings, command=study.study)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("mesh", [["meshes/data_parallel.gin"], ["meshes/fsdp.gin"]])
def test_optimizers_and_meshes_go_with_a_run(optimizer, mesh):
    files = ["models/t5_1_1_small.gin", "runs/train.gin", f"optimizers/{optimizer}.gin", *mesh]
    sizes = ["FSDP = 8"] if "fsdp" in mesh[0] else []
    gin_utils.parse(files, [*TRAINING, *sizes], command=train.train)


@pytest.mark.parametrize("model", ["t5_1_1_small", "llama_tiny"])
@pytest.mark.parametrize("method", ["greedy", "beam", "sampling"])
def test_decoding_methods_go_with_a_run(method, model):
    """Those that docs/from_t5x.md names."""
    files = [f"models/{model}.gin", f"decoding/{method}.gin", "runs/infer.gin"]
    _, bindings = RUNS["infer"]
    gin_utils.parse(files, bindings, command=infer.infer)
    assert gin.query_parameter("models.DecoderOnlyModel.decode_fn").selector.endswith(
        method.capitalize()
    )
