"""Names of machines."""

from __future__ import annotations

import compilers
import pytest

from t5x_ext.errors import ConfigError
from t5x_ext.planning import compiling
from t5x_ext.planning.devices import DEVICES, parse_devices, parse_topology


@pytest.mark.parametrize(
    "name, count",
    [("v5e:4x4", 16), ("v5e:16x16", 256), ("v4:2x2x4", 16), ("v5p:2x2x4", 16), ("v6e:4x8", 32)],
)
def test_topologies_have_one_jax_device_a_chip(name, count):
    machine = parse_topology(name)
    assert (machine.count, machine.name) == (count, name)
    compilers.load_libtpu()
    assert len(compiling.describe_devices(machine)) == count


def test_gpus_are_counted():
    machine = parse_devices("8xH200")
    assert (machine.count, machine.device.name, machine.topology) == (8, "H200", None)
    assert machine.larger().name == "16xH200"


def test_the_next_larger_slice():
    sizes, machine = [], parse_topology("v5e:4x4")
    while machine:
        sizes.append(machine.count)
        machine = machine.larger()
    assert sizes == [16, 32, 64, 128, 256]


@pytest.mark.parametrize(
    "name, allowed",
    [
        ("v5e:4x5", "4x4"),
        ("v4:4x4", "2x2x4"),
        ("v5p:2x2", "2x2x4"),
        ("v9:2x2", "v5e:4x4"),
        ("v5e", "4x4"),
        ("H100:2x2", "v5e:4x4"),
    ],
)
def test_unknown_topologies_name_what_is_allowed(name, allowed):
    with pytest.raises(ConfigError, match=f"--topology: '{name}'; allowed: .*{allowed}"):
        parse_topology(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("v5litepod-16", "v5e:4x4"),
        ("v5e-4", "v5e:2x2"),
        ("v6e-256", "v6e:16x16"),
        ("v4-32", "v4:2x2x4"),
        ("v5p-128", "v5p:4x4x4"),
    ],
)
def test_accelerator_types_of_google_cloud_are_understood_in_the_message(name, meant):
    with pytest.raises(ConfigError, match=f"'{name}'; allowed: .*; did you mean '{meant}'.$"):
        parse_topology(name)


@pytest.mark.parametrize(
    "text, message",
    [
        ("H200", "allowed: a number up to 1,024, x and one of A100"),
        ("0xH200", "allowed: a number"),
        ("8xH20", "did you mean 'H200'"),
        ("8xv5e", "a TPU goes with --topology"),
    ],
)
def test_unknown_gpus_name_what_is_allowed(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_devices(text)


def test_memory_is_what_the_compiler_allows():
    """The table holds the limit that libtpu names when a program does not fit."""
    compilers.load_libtpu()
    import jax
    import jax.numpy as jnp

    for name, topology in (("v4", "v4:2x2x1"), ("v5e", "v5e:1x1"), ("v6e", "v6e:1x1")):
        device = compiling.describe_devices(parse_topology(topology))[0]
        sharding = jax.sharding.SingleDeviceSharding(device)
        huge = jax.ShapeDtypeStruct((2**35,), jnp.float32, sharding=sharding)
        with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED") as caught:
            jax.jit(lambda x: x + 1).lower(huge).compile()
        needed = compiling.parse_out_of_memory(str(caught.value))
        assert needed == 2 * 4 * 2**35
        available = DEVICES[name].memory_bytes / 2**30
        assert f"exceeds available HBM ({available:.2f}G)" in str(caught.value)


def test_memory_that_is_short_by_little_is_read_to_the_megabyte():
    """What libtpu 0.0.51 says where only the last step of compilation finds too little."""
    message = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: XLA:TPU compile permanent error. Ran out of "
        "memory in memory space hbm. Used 15.76G of 15.75G hbm. Exceeded hbm capacity by 13.70M.\n"
    )
    needed = compiling.parse_out_of_memory(message)
    assert needed == DEVICES["v5e"].memory_bytes + int(13.70 * 2**20)
    assert compiling.parse_out_of_memory("INTERNAL: something else") is None
