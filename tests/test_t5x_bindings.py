"""T5X's bindings one at a time: honoured, without effect, or ended with the reason."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import gin
import pytest

from t5x_ext import eval as eval_script
from t5x_ext import gin_utils, infer, train
from t5x_ext.errors import ConfigError

COMMANDS = {
    "train": (train.train, "runs/finetune.gin"),
    "evaluate": (eval_script.evaluate, "runs/eval.gin"),
    "infer": (infer.infer, "runs/infer.gin"),
}
MACROS = {
    "train": {"MODEL_DIR": "m", "INITIAL_CHECKPOINT_PATH": "i", "TRAIN_STEPS": 1, "BATCH_SIZE": 8},
    "evaluate": {"CHECKPOINT_PATH": "c", "EVAL_OUTPUT_DIR": "e"},
    "infer": {"CHECKPOINT_PATH": "c", "INFER_OUTPUT_DIR": "i"},
}
IMPORTS = """
from __gin__ import dynamic_registration

import seqio
from t5x_ext.t5x import adafactor
from t5x_ext.t5x import decoding
from t5x_ext.t5x import models
from t5x_ext.t5x import partitioning
from t5x_ext.t5x import utils
from t5x_ext.t5x.examples.t5 import network
import __main__ as script
"""


@pytest.fixture
def parse(tmp_path: Path):
    def parse_one(binding: str, command: str = "train") -> None:
        function, run_file = COMMANDS[command]
        (tmp_path / "one.gin").write_text(f"{IMPORTS}\n{binding}\n")
        lengths = {"inputs": 8, "targets": 8}
        macros = MACROS[command] | {"MIXTURE_OR_TASK_NAME": "x", "TASK_FEATURE_LENGTHS": lengths}
        gin_utils.parse(
            ["models/t5_1_1_small.gin", run_file, str(tmp_path / "one.gin")],
            [f"{name} = {value!r}" for name, value in macros.items()],
            command=function,
        )

    yield parse_one
    gin.clear_config()


HONOURED = [
    ("partitioning.standard_logical_axis_rules.activation_partitioning_dims = 2", "train"),
    ("partitioning.standard_logical_axis_rules.parameter_partitioning_dims = 2", "train"),
    ("partitioning.standard_logical_axis_rules.additional_rules = [('embed', None)]", "train"),
    ("adafactor.Adafactor.global_norm_clip_threshold = 1.0", "train"),
    ("adafactor.Adafactor.skip_nan_updates = True", "train"),
    ("adafactor.Adafactor.max_parameter_scale = 10.0", "train"),
    ("adafactor.Adafactor.dtype_momentum = 'bfloat16'", "train"),
    (
        "adafactor.Adafactor.multiply_by_parameter_scale = @adafactor.HParamMap()\n"
        "adafactor.HParamMap.rules = [('scale', False), ('.*', True)]",
        "train",
    ),
    ("utils.SaveCheckpointConfig.checkpoint_steps = [3, 5]", "train"),
    ("script.train.relative_steps = 5", "train"),
    ("decoding.beam_search.max_decode_len = 7", "infer"),
    ("decoding.temperature_sample.max_decode_len = 7", "infer"),
    ("script.infer.file_extension = 'json'", "infer"),
]


@pytest.mark.parametrize(("binding", "command"), HONOURED)
def test_a_binding_that_is_honoured_reaches_its_function(parse, binding: str, command: str) -> None:
    parse(binding, command)
    name, _, value = binding.splitlines()[-1].partition(" = ")
    owner_and_parameter = ".".join(name.split(".")[-2:])
    assert gin.query_parameter(owner_and_parameter) == ast.literal_eval(value)


# (binding without its value, values that pass, values that end the command, part of the reason)
NEITHER = {
    "train": [
        ("script.train.concurrent_metrics", ["False", "True"], []),
        ("script.train.use_orbax", ["False", "True"], []),
        ("script.train.use_gda", ["True"], []),
        ("script.train.gc_period", ["0", "1000"], []),
        ("script.train.verify_matching_vocabs_fn", ["None", "@u.verify_matching_vocabs"], ["@f"]),
        ("script.train.train_state_initializer_cls", ["@utils.TrainStateInitializer"], ["@mine.C"]),
        ("script.train.get_dataset_fn", ["@utils.get_dataset"], ["@mine.get_dataset_twice"]),
        ("partitioning.PjitPartitioner.params_on_devices", ["True"], ["False"]),
        ("partitioning.PjitPartitioner.backend", ["None"], ["'cpu'"]),
        ("adafactor.Adafactor.learning_rate", ["None", "0.001"], []),
        ("network.T5Config.float32_attention_logits", ["True", "False"], []),
        ("network.T5Config.param_scan_axis", ["1"], ["0"]),
        ("models.EncoderDecoderModel.feature_converter_cls", ["None"], ["@mine.Converter"]),
        (
            "models.DecoderOnlyModel.feature_converter_cls",
            ["None", "@seqio.DecoderFeatureConverter", "@seqio.PrefixLMFeatureConverter"],
            ["@mine.Converter"],
        ),
        ("utils.RestoreCheckpointConfig.restore_dataset", ["False"], ["True"]),
        ("utils.RestoreCheckpointConfig.fallback_to_scratch", ["False"], ["True"]),
        ("utils.RestoreCheckpointConfig.strict", ["False", "True"], []),
        ("utils.RestoreCheckpointConfig.assignment_map", ["None", "()", "[]"], ["(('a', 'b'),)"]),
        (
            "utils.SaveCheckpointConfig.checkpointer_cls",
            ["@checkpoints.Checkpointer"],
            ["@checkpoints.SaveBestCheckpointer"],
        ),
        ("utils.SaveCheckpointConfig.keep_dataset_checkpoints", ["None", "2"], []),
        ("utils.SaveCheckpointConfig.save_dataset", ["True", "False"], []),
        ("train/utils.DatasetConfig.trim_output_features", ["True"], ["False"]),
        ("train/utils.DatasetConfig.use_custom_packing_ops", ["False"], ["True"]),
        ("seqio.Evaluator.use_memory_cache", ["True"], ["False"]),
        ("seqio.SentencePieceVocabulary.reverse_extra_ids", ["True", "None"], ["False"]),
    ],
    "evaluate": [("script.evaluate.fallback_init_rng", ["None", "0"], [])],
    "infer": [
        ("script.infer.fallback_init_rng", ["None", "0"], []),
        ("script.infer.write_fn", ["@infer.write_inferences_to_file"], ["@mine.write"]),
        ("script.infer.output_vocab_feature_name", ["'targets'"], ["'inputs'"]),
        ("script.infer.merge_chunked_results", ["True"], ["False"]),
        ("script.infer.checkpoint_ds_iter", ["True", "False"], []),
        ("script.infer.keep_aux_as_numpy", ["True", "False"], []),
        (
            "models.EncoderDecoderModel.predict_batch_with_aux.prompt_with_targets",
            ["False"],
            ["True"],
        ),
        (
            "models.EncoderDecoderModel.predict_batch_with_aux.return_all_decodes",
            ["False"],
            ["True"],
        ),
        ("decoding.temperature_sample.rescale_log_probs", ["True", "False"], []),
    ],
}
CASES = [(command, *case) for command, cases in NEITHER.items() for case in cases]


@pytest.mark.parametrize(("command", "name", "passing", "refused"), CASES)
def test_a_binding_without_a_parameter_passes_or_says_why(
    parse, command: str, name: str, passing: list[str], refused: list[str]
) -> None:
    for value in passing:
        parse(f"{name} = {value}", command)
        with pytest.raises(ValueError):
            gin.query_parameter(".".join(name.split(".")[-2:]))
    for value in refused:
        with pytest.raises(ConfigError) as caught:
            parse(f"{name} = {value}", command)
        message = str(caught.value)
        assert f"one.gin:13: {name} = " in message and "; allowed: " in message
        assert len(message.splitlines()) == 1


def test_a_macro_stands_for_its_last_value(parse) -> None:
    text = "utils.SaveCheckpointConfig.save_dataset = %SAVE\nSAVE = False\n"
    parse(text + "seqio.Evaluator.use_memory_cache = %CACHE\nCACHE = True")
    with pytest.raises(ConfigError, match="use_memory_cache = False; allowed: True: held-out"):
        parse(text + "CACHE = False\nseqio.Evaluator.use_memory_cache = %CACHE")
    parse("seqio.Evaluator.use_memory_cache = False\nseqio.Evaluator.use_memory_cache = True")


def test_seqio_in_a_gin_file_is_ours_and_loads_no_tensorflow(parse) -> None:
    before = set(sys.modules)
    parse(
        "script.train.inference_evaluator_cls = @seqio.Evaluator\nseqio.Evaluator.num_examples = 3"
    )
    assert not {"tensorflow", "seqio"} & (set(sys.modules) - before)
    from t5x_ext.seqio import Evaluator

    assert gin.get_configurable(Evaluator)().num_examples == 3


def test_a_class_of_t5x_that_is_not_here_is_refused_with_the_reason(parse) -> None:
    header = "from t5x_ext.t5x import checkpoints\n"
    with pytest.raises(ConfigError, match="SaveBestCheckpointer of T5X is not here: a run keeps"):
        parse(header + "checkpoints.SaveBestCheckpointer.metric_mode = 'max'")
    with pytest.raises(
        ConfigError, match="unknown configurable 'checkpoints.Checkpointr'; did you"
    ):
        parse(header + "checkpoints.Checkpointr.keep = 3")
