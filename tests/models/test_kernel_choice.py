"""Which kernel attention takes on which platform, and that it is tried before."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from attention_operands import SHAPE

from t5x_ext.errors import ConfigError
from t5x_ext.models.blocks import (
    attend,
    by_distance,
    by_distance_kernel,
    kernel_check,
    splash,
)
from t5x_ext.models.blocks.attend import make_attend
from t5x_ext.models.blocks.pattern import Heads, Pattern
from t5x_ext.models.blocks.positions import ALiBi
from t5x_ext.partitioning import PjitPartitioner


@pytest.fixture(autouse=True)
def nothing_told_yet(monkeypatch) -> None:
    monkeypatch.setattr(attend, "_told", set())


def test_kernel_is_taken_only_where_it_fits() -> None:
    assert by_distance_kernel.suits(1024, 1024)
    assert by_distance_kernel.suits(128, 1024)
    assert not by_distance_kernel.suits(100, 128)
    assert not by_distance_kernel.suits(128, 4096)  # one block of logits exceeds the memory
    sizes = {(32, 64): 64, (64, 112): 128, (8, 24): 32, (3, 64): 128, (8, 16): 16, (8, 256): None}
    for heads, size in sizes.items():
        assert by_distance_kernel.padded_head_dim(*heads) == size


def test_each_platform_takes_the_first_kernel_that_can(monkeypatch, capsys) -> None:
    """On a mesh that is only described: nothing is tried on it."""
    alibi, segments = ALiBi(8), jnp.ones((1, 256), jnp.int32)
    rotary = Pattern(segments, segments, causal=True)
    long = rotary._replace(
        **{name: jnp.ones((1, 4096), jnp.int32) for name in ("query_segments", "key_segments")}
    )
    cases = {
        "tpu": [
            (rotary, Heads(8, 64), "the kernel by distance"),
            (rotary._replace(bias=alibi), Heads(8, 64), "the kernel by distance"),
            (rotary._replace(bias=alibi), Heads(8, 112), "the kernel by distance"),
            (rotary, Heads(8, 64, 2), "splash attention"),
            (long, Heads(8, 128), "splash attention"),
            (rotary, Heads(71, 64, 1), "splash attention"),
            (rotary, Heads(4, 16, 2), None),
            (long._replace(bias=alibi), Heads(8, 64), None),
        ],
        "gpu": [(rotary, Heads(8, 64, 2), None)],  # without cuDNN; see test_other_platforms.py
        "cpu": [(rotary, Heads(8, 64), None)],
    }
    for platform, choices in cases.items():
        monkeypatch.setattr(PjitPartitioner, "platform", platform)
        with PjitPartitioner(devices=tuple(jax.devices()[:1])).activate():
            for pattern, heads, name in choices:
                taken = attend._choose(pattern, heads, "auto", jnp.bfloat16)
                assert (taken and taken.name) == name, (platform, heads)
                assert attend._choose(pattern, heads, "xla", jnp.bfloat16) is None
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(set(lines)) == 8  # one for each shape of heads and path, none for CPUs
    assert any("splash attention for 71 heads of 64 that share 1 key head (not" in x for x in lines)
    assert (
        "attention: plain XLA for 4 heads of 16 that share 2 key heads (the kernel by distance "
        "does not take 4 heads of 16 that share 2 key heads; splash attention does not take heads "
        "of 16 (it takes multiples of 64))"
    ) in lines


def test_rows_of_a_gpu_without_cudnn_say_so(monkeypatch) -> None:
    monkeypatch.setattr(PjitPartitioner, "platform", "gpu")
    segments = jnp.ones((1, 128), jnp.int32)
    with PjitPartitioner(devices=tuple(jax.devices()[:1])).activate():
        with pytest.raises(ConfigError, match="cuDNN is not detected.*allowed: 'auto'"):
            make_attend(Pattern(segments, segments, causal=True), Heads(4, 64), path="flash")
        with pytest.raises(ConfigError, match="cuDNN's attention does not take a bias"):
            biased = Pattern(segments, segments, causal=True, bias=ALiBi(4))
            make_attend(biased, Heads(4, 64), path="flash")


@pytest.mark.parametrize(
    ("lengths", "heads", "what"),
    [
        ((100, 128), Heads(4, 64), "100 x 128 positions"),
        ((128, 4096), Heads(4, 64), "up to 2,048 keys"),
        ((128, 128), Heads(4, 256), "4 heads of 256"),
        ((128, 128), Heads(4, 64, num_kv_heads=2), "4 heads of 64 that share 2 key heads"),
        ((128, 128), Heads(4, 64, num_kv_heads=2), "rows that are not causal"),
    ],
)
def test_a_kernel_that_cannot_be_had_is_an_error(lengths, heads, what) -> None:
    segments = (jnp.ones((1, length), jnp.int32) for length in lengths)
    with pytest.raises(ConfigError, match=what) as caught:
        make_attend(Pattern(*segments), heads, path="flash")
    assert "allowed: 'auto'" in str(caught.value)


@pytest.mark.slow(but="splash")
@pytest.mark.parametrize(
    ("path", "heads", "has_bias"),
    [(by_distance, SHAPE, True), (splash, Heads(12, 64, 4, 0.125), False)],
    ids=["by_distance", "splash"],
)
def test_a_kernel_is_compared_with_a_reference_before_it_is_taken(path, heads, has_bias) -> None:
    def wrong(pattern: Pattern, heads: Heads):
        kernel = path.build(pattern, heads)
        return lambda query, key, value: kernel(query, key, value) + 0.1 * query

    def broken(pattern: Pattern, heads: Heads):
        raise RuntimeError("no such instruction")

    found = {}

    def ask(x):  # while a step is traced, as `auto` does
        for build in (path.build, wrong, broken):
            found[build] = kernel_check.compare(build, heads, has_bias, jnp.bfloat16)
        return x

    jax.jit(ask)(1.0)
    assert found[path.build].agrees, found[path.build].text
    assert not found[wrong].agrees and "of the largest value on this cpu" in found[wrong].text
    assert found[broken] == (False, "fails on this cpu: RuntimeError: no such instruction")


def test_a_kernel_that_differs_is_not_taken(monkeypatch, capsys) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(PjitPartitioner, "platform", "tpu")
    outcomes = {
        True: "splash attention for 4 heads of 64 that share 2 key heads (agrees)",
        False: "plain XLA for",
    }
    segments = jnp.ones((1, 128), jnp.int32)
    for agrees, text in outcomes.items():
        outcome = kernel_check.Outcome(agrees, "agrees" if agrees else "differs by 0.5")
        monkeypatch.setattr(kernel_check, "compare", lambda *_, outcome=outcome: outcome)
        with PjitPartitioner(devices=tuple(jax.devices()[:1])).activate():
            pattern = Pattern(segments, segments, causal=True)
            taken = attend._choose(pattern, Heads(4, 64, 2), "auto", jnp.bfloat16)
        assert (taken is not None) == agrees
        assert text in capsys.readouterr().err
