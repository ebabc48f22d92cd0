"""How many models of a study fit together."""

from __future__ import annotations

import jax
import pytest

from t5x_ext.errors import ConfigError
from t5x_ext.models import EncoderDecoderModel, network
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning import compiling, fitting
from t5x_ext.planning.lowering import Workload, lower_train_step
from t5x_ext.training.optimizers import AdamW
from t5x_ext.training.trainer import Program, Trainer

CONFIG = network.T5Config(
    vocab_size=256,
    emb_dim=32,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=16,
    mlp_dim=64,
)
MODEL = EncoderDecoderModel(network.Transformer(CONFIG), optimizer_def=AdamW())
WORKLOAD = Workload(4, 32, 16)


@pytest.mark.parametrize(
    "one, two, available, wanted, expected",
    [
        (70, 130, 1000, 99, 16),  # 10 once, and 60 for each
        (70, 130, 1030, 99, 17),
        (70, 130, 1029, 99, 16),
        (70, 130, 1000, 5, 5),
        (70, 130, 70, 99, 1),
        (70, 130, 69, 99, 0),
        (70, 70, 1000, 9, 9),  # rounded away
    ],
)
def test_each_further_model_takes_as_much_as_the_second(one, two, available, wanted, expected):
    def peak(number: int) -> int:
        return one + (number - 1) * (two - one)

    assert fitting.most_per_slot(peak, available, wanted) == expected


def test_a_few_programs_find_as_many_as_fit_where_each_takes_more_than_the_last():
    tried = []

    def peak(number: int) -> int:
        tried.append(number)
        return 1000 + 100 * number + 3 * number * number

    assert fitting.most_per_slot(peak, 7000, wanted=99) == 29
    assert 0.9 * 7000 <= peak(29) <= 7000 < peak(32)
    assert tried[:5] == [1, 2, 55, 23, 29] and len(tried) == 7


def test_what_is_not_needed_is_not_compiled():
    assert fitting.most_per_slot({1: 5}.__getitem__, 9, wanted=1) == 1
    assert fitting.most_per_slot({1: 5}.__getitem__, 4, wanted=8) == 0


@pytest.mark.slow
def test_memory_grows_by_the_same_for_each_model():
    mesh = PjitPartitioner(expert=2, fsdp=2, data=2)
    program = Program(MODEL, mesh, Trainer())
    one, two, four = (
        compiling.measure_peak(lower_train_step(program, WORKLOAD, 2 * each), "cpu")
        for each in (1, 2, 4)
    )
    assert four == pytest.approx(one + 3 * (two - one), rel=0.05)


@pytest.mark.slow
def test_as_many_as_fit_into_these_devices():
    def with_memory(num_bytes):
        return Program(MODEL, PjitPartitioner(expert=4, data=2, device_bytes=num_bytes), Trainer())

    program = with_memory(None)
    assert fitting.choose_experts(program, WORKLOAD, wanted=9) == 12  # whole slots
    peak = compiling.measure_peak(lower_train_step(program, WORKLOAD, 8), "cpu")
    assert fitting.choose_experts(with_memory(peak), WORKLOAD, wanted=99) == 8
    with pytest.raises(ConfigError, match="EXPERTS: 'auto': one model in each of 4 slots needs"):
        fitting.choose_experts(with_memory(1000), WORKLOAD, wanted=99)


def test_a_device_of_the_host_has_its_share_of_memory():
    available = PjitPartitioner().memory_bytes
    one = PjitPartitioner(devices=jax.local_devices()[:1])
    assert one.memory_bytes == pytest.approx(8 * available, rel=0.01)


@pytest.mark.parametrize("experts", [0, 3, -4, "many", 2.0])
def test_other_numbers_of_models_are_refused(experts):
    with pytest.raises(ConfigError, match="EXPERTS: .*; allowed: 'auto', or a multiple of .*, 2"):
        fitting.check_experts(experts, 2)
    for allowed in (2, 4, "auto"):
        fitting.check_experts(allowed, 2)
