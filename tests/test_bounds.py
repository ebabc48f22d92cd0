"""Numbers out of bounds are refused in one line wherever users give them."""

from __future__ import annotations

import argparse
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5x_ext import audit, bounds, infer, plan, report, schedules, study, train
from t5x_ext.configs import DatasetConfig, SaveCheckpointConfig, SuperNIConfig
from t5x_ext.decoding import Beam, Greedy, Sampling
from t5x_ext.errors import ConfigError
from t5x_ext.gin_utils import parse
from t5x_ext.planning.devices import parse_devices, parse_topology
from t5x_ext.studies.recipes import InitialModel, Recipe
from t5x_ext.studies.store import parse_shard
from t5x_ext.training.optimizers import AdamW
from t5x_ext.training.trainer import Trainer

LENGTHS = {"inputs": 8, "targets": 8}
ANY_REAL = st.floats() | st.integers() | st.none() | st.booleans() | st.text()


@given(ANY_REAL, st.integers(-5, 5), st.integers(0, 5))
def test_integers_pass_exactly_within_their_bounds(value, low: int, size: int) -> None:
    good = type(value) is int and low <= value <= low + size
    for given_value in [value] + ([np.int64(value)] if good else []):
        try:
            bounds.check_int("field", given_value, low, low + size)
            assert good
        except ConfigError as error:
            assert not good and str(error).startswith(f"field: {value!r}"[:100])


@given(ANY_REAL, st.floats(-5, 5), st.floats(0, 5))
def test_numbers_pass_exactly_within_their_bounds(value, low: float, size: float) -> None:
    good = type(value) in (int, float) and low <= value <= low + size
    try:
        bounds.check_real("field", value, low, low + size)
        assert good
    except ConfigError:
        assert not good


@given(
    st.text() | st.sampled_from(["1_0", "²", "٣", " 7", "nan", "-inf", "1e999", "0x1", "9" * 99])
)
def test_flags_take_what_a_user_would_call_a_number(text: str) -> None:
    for flag, kind in ((bounds.int_flag(0, 100), int), (bounds.real_flag(0, 100), float)):
        try:
            value = flag(text)
            assert type(value) is kind and 0 <= value <= 100 and text.isascii()
        except argparse.ArgumentTypeError as error:
            assert "allowed: 0 to 100" in str(error)


HUGE = 1 << 64
REFUSED = {
    "seed of a data set": lambda n: DatasetConfig("x", None, "test", 1, seed=n),
    "batch size": lambda n: DatasetConfig("x", None, "test", n),
    "lengths": lambda n: DatasetConfig("x", {"inputs": n, "targets": 8}, "test", 1),
    "budget seed": lambda n: SuperNIConfig(budget_seed=n),
    "save period": lambda n: SaveCheckpointConfig(period=n),
    "checkpoints kept": lambda n: SaveCheckpointConfig(keep=n),
    "seed of sampling": lambda n: Sampling(seed=n),
    "samples": lambda n: Sampling(num_samples=n),
    "top_k": lambda n: Sampling(top_k=n),
    "top_p": lambda n: Sampling(top_p=n),
    "temperature": lambda n: Sampling(temperature=n),
    "beams": lambda n: Beam(num_beams=n),
    "length penalty": lambda n: Beam(length_penalty=n * 1e3),
    "minimal length": lambda n: Greedy(min_length=n),
    "forced prefix": lambda n: Greedy(forced_prefix=(n,)),
    "recipe's batch": lambda n: Recipe(batch_size=n),
    "recipe's rate": lambda n: Recipe(learning_rate=n if n < HUGE else math.inf),
    "recipe's steps": lambda n: Recipe(steps=n),
    "recipe's warm-up": lambda n: Recipe(warmup_steps=n),
    "seed of an initial model": lambda n: InitialModel("a", seed=n),
    "microbatches": lambda n: Trainer(num_microbatches=n),
    "decay of a moment": lambda n: AdamW(beta2=n),
    "weight decay": lambda n: AdamW(weight_decay=n if n < HUGE else math.inf),
    "norm of gradients": lambda n: AdamW(max_grad_norm=n if n < HUGE else math.inf),
    "learning rate": lambda n: schedules.create_learning_rate_scheduler(
        "constant", n if n < HUGE else math.inf
    ),
}


@pytest.mark.parametrize("setting", REFUSED)
@pytest.mark.parametrize("value", [-1, math.nan, HUGE], ids=["negative", "nan", "huge"])
def test_every_setting_has_bounds(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match="; allowed: "):
        REFUSED[setting](value)


@pytest.mark.parametrize("temperature", [math.inf, 1e-320, 0.0, "hot"])
def test_temperatures_that_leave_float32_are_refused(temperature) -> None:
    with pytest.raises(ConfigError, match="Sampling.temperature: .*; allowed: 1e-06 to 1e"):
        Sampling(temperature=temperature)


@pytest.mark.parametrize("lengths", [5, "inputs", ["inputs", "targets"], {}, {"inputs": 8}])
def test_lengths_are_a_mapping_of_inputs_and_targets(lengths) -> None:
    message = re.escape(f"TASK_FEATURE_LENGTHS: {lengths!r}; allowed: 'inputs' and 'targets', 2 ")
    with pytest.raises(ConfigError, match=message):
        DatasetConfig("x", lengths, "test", 1)


@pytest.mark.parametrize("pack", [1, 0, "yes", None])
def test_pack_is_a_truth_or_batch(pack) -> None:
    """1 equals True and is not it, so that rows would have stayed unpacked."""
    with pytest.raises(ConfigError, match='; allowed: True, False, "batch"'):
        DatasetConfig("x", LENGTHS, "test", 1, pack=pack)


@pytest.mark.parametrize("seeds", ["()", "(0, 1, 0)"])
def test_a_study_has_each_seed_once(seeds: str, tmp_path, capsys) -> None:
    flags = [f"--gin.SEEDS={seeds}", f"--gin.MODEL_DIR='{tmp_path}'"]
    assert study.main(["--gin_file=studies/quickstart.gin", *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("; allowed: one or more, each once") and "SEEDS: (" in line


@pytest.mark.parametrize("text", ["1e999", "[1, {'a': -1e999}]", str(1 << 63), f"({1 << 200},)"])
def test_gin_takes_no_number_beyond_64_bits(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--gin\.f\.x: f\.x: .*; allowed: "):
        parse([], [f"f.x = {text}"])


def test_a_number_too_long_to_be_shown_is_refused_all_the_same() -> None:
    with pytest.raises(ConfigError, match="Sampling.seed: an integer of 16610 bits; allowed: 0 "):
        Sampling(seed=10**5000)


RUN = [
    "MODEL_DIR='/nowhere'",
    "TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8}",
    "MIXTURE_OR_TASK_NAME='held_in'",
]


@pytest.mark.parametrize(
    "wrong",
    [
        "TRAIN_STEPS=-5",
        "LEARNING_RATE=-1.0",
        "RANDOM_SEED=-1",
        "BATCH_SIZE=100000000",
        "EVAL_PERIOD=-1",
        f"RANDOM_SEED={1 << 64}",
    ],
)
def test_train_refuses_before_it_reads_data(wrong: str, capsys) -> None:
    settings = RUN + ([] if wrong.startswith("TRAIN_STEPS") else ["TRAIN_STEPS=1"])
    flags = [f"--gin.{setting}" for setting in [*settings, wrong]]
    files = ["--gin_file=models/t5_1_1_tiny.gin", "--gin_file=runs/train.gin"]
    assert train.main([*files, *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "; allowed: " in line


@pytest.mark.parametrize(
    "flags",
    [
        (plan, ["--price_per_chip_hour=nan"]),
        (plan, ["--price_per_chip_hour=-3"]),
        (plan, ["--start_secs=inf"]),
        (plan, ["--proposals=-1"]),
        (infer, ["--shard_id=²"]),
        (train, ["--initialization_timeout=nan"]),
        (train, ["--process_count=0"]),
        (report, ["here", "--target=nan"]),
    ],
)
def test_flags_are_refused_with_what_is_allowed(flags, capsys) -> None:
    command, arguments = flags
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    assert end.value.code == 2
    assert "allowed: " in capsys.readouterr().err


@pytest.mark.parametrize("devices", ["99999999xH200", "1025xH100", "0xH200", "٣xH200", "-1xH200"])
def test_a_plan_is_for_a_node_that_could_be(devices: str) -> None:
    with pytest.raises(ConfigError, match="--devices: .* up to 1,024"):
        parse_devices(devices)
    assert parse_devices("1024xH200").count == 1024


@pytest.mark.parametrize("topology", ["v4:9999x9999x9999", "v5p:0x1x1", "v4:²x1x1", "v5e:1x1x1"])
def test_a_plan_is_for_a_slice_that_could_be(topology: str) -> None:
    with pytest.raises(ConfigError, match="--topology: "):
        parse_topology(topology)
    assert parse_topology("v5p:16x20x28").count == 8960


@pytest.mark.parametrize("shard", ["²/³", "1/²", "0/1", "2/1", "1/0", "1/" + "9" * 30, "/", "1"])
def test_shards_are_plain_numbers(shard: str) -> None:
    with pytest.raises(ConfigError, match=r"--shard=.*: allowed: I/N"):
        parse_shard(shard)


@pytest.mark.parametrize("limits", ["²", "1", "-5", "512/1", "nan", "9" * 40])
def test_limits_of_an_audit_are_plain_numbers(limits: str, capsys) -> None:
    assert audit.main(["--mixture=held_in", f"--limits={limits}"]) == 1
    assert "; allowed: " in capsys.readouterr().err
