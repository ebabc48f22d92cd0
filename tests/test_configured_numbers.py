"""Every number that a gin file can set is checked where it is set, and not hours later."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gin_configs
import t5x_ext.t5x
from t5x_ext import seqio, train
from t5x_ext.errors import ConfigError
from t5x_ext.generation.tuning import TuningSettings
from t5x_ext.models.network import T5Config
from t5x_ext.training.optimizers import Adafactor, AdamW, HParamMap

# What has no default.
_DECODER = {"vocab_size": 8, "emb_dim": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2}
_DECODER |= {"head_dim": 4, "mlp_dim": 8}
_DATASET = {"mixture_or_task_name": "x", "task_feature_lengths": None, "split": "test"}
_GENERATED = ("name", "domain", "writer", "asking", "answering")
NEEDED: dict[str, dict[str, Any]] = {
    "DatasetConfig": {**_DATASET, "batch_size": 1},
    "DecoderOnlyModel": {"module": None},
    "EncoderDecoderModel": {"module": None},
    "FalconConfig": _DECODER,
    "GeneratedData": dict.fromkeys(_GENERATED, "x"),
    "InitialModel": {"name": "x"},
    "InstructionSettings": {"domain": "nautical"},
    "LlamaConfig": _DECODER,
    "MptConfig": _DECODER,
    "ResponseSettings": {"domain": "nautical"},
    "T5Config": {"vocab_size": 8},
    "Transformer": {"config": T5Config(vocab_size=8)},
}
NOT_IN_GIN = {
    "DecoderOnlyConfig": "abstract",
    "TextModel": "made by code, from settings that are checked",
    "Workload": "made by code, from settings that are checked",
}
_REST = "means the devices that the other axes leave"
ALLOWED = {
    ("DatasetConfig", "budget", -1): "refused by mixtures.budgets, as names of budgets are",
    ("DatasetConfig", "budget", 1 << 64): "refused by mixtures.budgets, as names of budgets are",
    ("PjitPartitioner", "data", -1): _REST,
    ("PjitPartitioner", "expert", -1): _REST,
}


def _classes() -> set[type]:
    """The dataclasses in all modules that shipped gin files, and T5X's, import."""
    modules = {m.name for m in pkgutil.walk_packages(t5x_ext.t5x.__path__, "t5x_ext.t5x.")}
    for path in Path(gin_configs.__file__).parent.rglob("*.gin"):
        imports = re.findall(r"^from (t5x_ext\S*) import (\w+)", path.read_text(), re.MULTILINE)
        modules |= {".".join(names) for names in imports}
    return {
        value
        for name in modules
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, type)
        and dataclasses.is_dataclass(value)
        and value.__module__.startswith("t5x_ext.")
        and not value.__name__.startswith("_")
    }


def _numbers() -> Iterator[tuple[type, str, float]]:
    """A class, a field that takes a number, and one that it should not take."""
    for cls in sorted(_classes(), key=lambda cls: (cls.__name__, cls.__module__)):
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            hint = hints[field.name]
            is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
            kinds = typing.get_args(hint) if is_union else (hint,)
            if field.init and float in kinds:
                yield from ((cls, field.name, value) for value in (-1, math.nan, math.inf))
            elif field.init and int in kinds:
                yield from ((cls, field.name, value) for value in (-1, 1 << 64))


ALL = list(_numbers())
CASES = [
    (cls, field, value)
    for cls, field, value in ALL
    if cls.__name__ not in NOT_IN_GIN and (cls.__name__, field, value) not in ALLOWED
]


@pytest.mark.parametrize(
    ("cls", "field", "value"), CASES, ids=[f"{c.__name__}.{f}={v:g}" for c, f, v in CASES]
)
def test_every_number_of_a_gin_file_is_refused_out_of_bounds(cls: type, field: str, value) -> None:
    with pytest.raises(ConfigError, match="; allowed: "):
        cls(**{**NEEDED.get(cls.__name__, {}), field: value})


def test_no_exemption_is_without_a_field() -> None:
    names = {cls.__name__ for cls, _, _ in ALL}
    assert not {*NEEDED, *NOT_IN_GIN} - names
    assert not set(ALLOWED) - {(cls.__name__, field, value) for cls, field, value in ALL}
    assert {"Adafactor", "T5Config", "Evaluator", "TuningSettings", "LoRA"} <= names


@pytest.mark.parametrize(
    ("make", "where"),
    [
        # Every update would be divided by infinity, or be scaled to nothing.
        (lambda: Adafactor(clipping_threshold=0.0), "Adafactor.clipping_threshold: 0.0"),
        (lambda: Adafactor(max_parameter_scale=0.0), "Adafactor.max_parameter_scale: 0.0"),
        (lambda: AdamW(max_grad_norm=1e-50), "AdamW.max_grad_norm: 1e-50"),
        (lambda: Adafactor(beta1=1.5), "Adafactor.beta1: 1.5"),
        (lambda: AdamW(beta2=1 - 2**-50), "AdamW.beta2: 0.99"),  # 1, as a float32
        (
            lambda: Adafactor(clipping_threshold=HParamMap([("a", None), (".*", 0.0)])),
            "Adafactor.clipping_threshold: 0.0",
        ),
        (lambda: T5Config(8, relative_attention_buckets=0), "T5Config.relative_attention_buckets"),
        (
            lambda: T5Config(8, relative_attention_max_distance=16),  # nothing left
            "T5Config.relative_attention_max_distance: 16",
        ),
        (lambda: seqio.Evaluator(num_examples=-3), "Evaluator.num_examples: -3"),
        (lambda: seqio.JSONLogger("x", write_n_results=-1), "JSONLogger.write_n_results: -1"),
        (lambda: TuningSettings(lengths={"inputs": 1, "targets": 8}), "TuningSettings.lengths: "),
    ],
)
def test_what_would_come_to_nothing_is_refused(make, where: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(where)}.*; allowed: "):
        make()


def test_every_value_that_t5x_documents_is_taken() -> None:
    for settings in (
        {"decay_rate": 0.8, "weight_decay_rate": None, "clipping_threshold": None, "beta1": None},
        {"decay_rate": 0.0, "weight_decay_rate": 0.0, "clipping_threshold": 1, "beta1": 0.0},
        {"global_norm_clip_threshold": 0.0, "min_dim_size_to_factor": 0, "epsilon1": 0.0},
    ):
        Adafactor(**settings)


RUN = [
    *("--gin_file=models/t5_1_1_tiny.gin", "--gin_file=optimizers/adafactor.gin"),
    "--gin_file=runs/train.gin",
    "--gin.TRAIN_STEPS=1",
    "--gin.MODEL_DIR='/nowhere'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8}",
    "--gin.MIXTURE_OR_TASK_NAME='held_in'",
]


@pytest.mark.parametrize(
    "wrong",
    [
        "network.T5Config.num_heads=0",
        "network.T5Config.emb_dim=-8",
        "network.T5Config.num_encoder_layers=-2",
        "network.T5Config.relative_attention_buckets=0",
        "adafactor.Adafactor.clipping_threshold=0.0",
    ],
)
def test_train_ends_with_a_line(wrong: str, capsys) -> None:
    assert train.main([*RUN, f"--gin.{wrong}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {wrong.split('.', 1)[1].split('=')[0]}: ")
