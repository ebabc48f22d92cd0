"""Which accelerators this machine has, found without starting JAX's devices."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

# Files in /dev.
TPUS = ("accel*", "vfio/[0-9]*")
ANY = ("nvidia[0-9]*", "kfd", *TPUS)


def has_device(patterns: tuple[str, ...]) -> bool:
    """Whether /dev has a file of one of these patterns."""
    return any(any(Path("/dev").glob(pattern)) for pattern in patterns)


def skip_absent_tpu() -> None:
    """Makes JAX take the CPU at once where libtpu is installed for `plan` and there is no TPU.

    JAX would have libtpu look for one first, which takes seconds and prints lines of errors. Does
    nothing if JAX is told which platform to take or has a plugin for GPUs.
    """
    import jax

    if jax.config.jax_platforms or importlib.util.find_spec("libtpu") is None:
        return
    has_plugin = importlib.util.find_spec("jax_plugins") is not None
    if has_plugin or importlib.metadata.entry_points(group="jax_plugins") or has_device(TPUS):
        return
    jax.config.update("jax_platforms", "cpu")
