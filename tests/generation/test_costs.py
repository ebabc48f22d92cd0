"""What a dry run makes of counts: seconds and bytes that can be checked by hand."""

from __future__ import annotations

import dataclasses

import pytest

from t5x_ext.generation.costs import Costs, Speed
from t5x_ext.generation.forecast import Work
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.planning.devices import parse_devices

LLAMA_2_7B = LlamaConfig(
    vocab_size=32000,
    emb_dim=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    mlp_dim=11008,
    max_length=4096,
    dtype="bfloat16",
)
COSTS = Costs(LLAMA_2_7B, Speed("x", 1e14, 1e12), 8, 4, None, LoRA(8))


def test_parameters_take_the_bytes_of_their_dtype_or_of_nf4() -> None:
    assert COSTS.params_bytes == 2 * 6_738_415_616
    quantised = dataclasses.replace(COSTS, quantization="nf4")
    assert quantised.params_bytes == pytest.approx(3.34e9 + 0.52e9, rel=0.01)


def test_reading_costs_flops_and_writing_a_pass_over_the_parameters_a_token() -> None:
    reading = Work("", 16, 80, 80 * 600, 0, 0)
    flops = 80 * LLAMA_2_7B.forward_flops(1, 600, 0)
    assert COSTS.secs(reading) == pytest.approx(flops / 1e14)
    both = reading._replace(written=16 * 50, longest=512)
    caches = 40 * 600 * 2 * 32 * 32 * 128 * 2  # 8 outputs of 5 passages; keys and values
    step = (COSTS.params_bytes + caches) / 1e12
    batches, tokens = 2, 100  # the longest of a batch is twice the mean
    assert COSTS.secs(both) - COSTS.secs(reading) == pytest.approx(batches * tokens * step)
    assert COSTS.secs(both._replace(longest=60)) < COSTS.secs(both)


def test_tuning_costs_two_forward_passes_and_one_more_where_little_is_kept() -> None:
    tuning = Work("", 32, 32, 32 * 600, 0, 0, is_tuning=True)
    forward = 32 * LLAMA_2_7B.forward_flops(1, 600, 0) / 1e14
    assert COSTS.secs(tuning) == pytest.approx(2 * forward)
    config = LLAMA_2_7B.replace(remat_policy="full")
    assert dataclasses.replace(COSTS, config=config).secs(tuning) == pytest.approx(3 * forward)
    assert COSTS.memory_bytes(tuning) > COSTS.params_bytes


def test_a_named_machine_reaches_a_share_of_its_figures() -> None:
    one, eight = Speed.of(parse_devices("1xH200")), Speed.of(parse_devices("8xH200"))
    assert eight.flops_per_sec == pytest.approx(8 * one.flops_per_sec)
    assert one.flops_per_sec == pytest.approx(0.4 * 989e12)
    assert one.bytes_per_sec == pytest.approx(0.6 * 4800e9)


def test_this_machine_is_measured() -> None:
    speed = Speed.here(64, 256, 8, "float32")
    assert speed.flops_per_sec > 1e6 and speed.bytes_per_sec > 1e6
