"""How tests have programs compiled: they compile far more than they compute."""

from __future__ import annotations

import os
from unittest import mock

import pytest

# The older of XLA's two ways to write loops takes less than half the time to compile.
_CPU_ONLY = "--xla_cpu_use_fusion_emitters=false"
UNOPTIMISED = f"--xla_backend_optimization_level=0 {_CPU_ONLY}"


def load_libtpu() -> None:
    """Loads the compiler for TPUs, or skips the test where it is not installed.

    libtpu reads XLA_FLAGS before it first compiles; a flag that it does not know ends the process.
    """
    pytest.importorskip("libtpu")
    import jax

    from t5x_ext.planning import compiling, devices

    jax.devices()  # from here on JAX reads the flags no more
    flags = os.environ.get("XLA_FLAGS", "").replace(_CPU_ONLY, "")
    with mock.patch.dict(os.environ, XLA_FLAGS=flags):
        device = compiling.describe_devices(devices.parse_topology("v5e:2x2"))[0]
        place = jax.sharding.SingleDeviceSharding(device)
        number = jax.ShapeDtypeStruct((), "float32", sharding=place)
        jax.jit(jax.numpy.negative).lower(number).compile()
