"""One run on several hosts: starting together, agreeing, and ending together.

    with multihost.session(coordinator_address, process_count, process_index):
        ...  # one of several processes; JAX sees the devices of all

Within a session all processes run the same program. Where only one may act, `is_primary` says
which; what one alone knows, `gather` tells all. Outside of a session, and in a session of one
process, all of this does nothing.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import os
import platform
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from t5x_ext.errors import ConfigError
from t5x_ext.multihost.peers import Peers
from t5x_ext.multihost.roll_call import call_roll, port_of
from t5x_ext.terminal import exit_status, show

__all__ = ["check_same", "gather", "is_primary", "package_versions", "say", "session"]

_PACKAGES = ("jax", "jaxlib", "numpy", "optax", "orbax-checkpoint", "t5x_ext")

_peers: Peers | None = None


@contextlib.contextmanager
def session(
    coordinator_address: str | None = None,
    process_count: int | None = None,
    process_index: int | None = None,
    timeout_secs: float = 300,
    silence_secs: float = 100,
) -> Iterator[None]:
    """Joins the processes of a run; to be entered before anything touches a device.

    What is None comes from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, else from
    the cluster (SLURM, Open MPI, Kubernetes, TPU pods); where there is none of these, the session
    is of one process.

    When one process fails or dies, all end: with status 1, and a line that names it and its error.
    A body that raises therefore ends the process here, with its error reported; only in a session
    of one process does the error pass through.

    Args:
      coordinator_address: host:port of process 0; the port must be free there.
      process_count: number of processes; 1 means that there are no others.
      process_index: this process's number, from 0.
      timeout_secs: how long to wait for the last process to start.
      silence_secs: how long a process may be silent until it counts as dead. One that is killed
        is noticed at once; this is for machines that vanish.

    Raises:
      ConfigError: a process is missing or disagrees, or an argument does not fit.
    """
    global _peers
    address, count, index = _place(coordinator_address, process_count, process_index, timeout_secs)
    if count == 1:
        yield
        return
    import jax

    peers = call_roll(address, index, count, timeout_secs, silence_secs)
    _peers = peers
    try:
        # Under SLURM, JAX gives each process one GPU; one that has a node to itself takes all.
        has_node = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1"
        jax.distributed.initialize(
            address,
            count,
            index,
            cluster_detection_method="deactivate" if has_node else None,
            initialization_timeout=int(timeout_secs),
        )
        check_same(package_versions())
        yield
        peers.gather(None)  # JAX does not wait long for the last to finish
        jax.distributed.shutdown()
        peers.close()
        _peers = None
    except BaseException as error:
        # The death of a peer shows in many ways here. Its watcher knows better, and ends this
        # process with the reason; what is left after a second is our own fault.
        time.sleep(1)
        peers.fail(*_report(error))


def is_primary() -> bool:
    """Whether this process writes what all have computed: files, and lines for people."""
    import jax

    # Asking for the index alone would start the accelerator, also where nothing is to be computed.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def say(*lines: str) -> None:
    """Prints a result on standard output, once for all processes of a run."""
    if is_primary():
        show(*lines)


def gather(value: Any) -> list[Any]:
    """The value (JSON) of every process, by number; all processes have to call it.

    Raises:
      RuntimeError: the processes have joined by jax.distributed alone, not by `session`.
    """
    import jax

    if _peers is not None:
        return _peers.gather(value)
    if jax.distributed.is_initialized():
        raise RuntimeError("several processes: join them by multihost.session() instead")
    return [value]


def check_same(facts: Mapping[str, str]) -> None:
    """Refuses to go on where processes differ; all have to call it.

    Args:
      facts: name -> text that must be the same on every host.

    Raises:
      ConfigError: names the process, the fact and the first line that differs.
    """
    everyone = gather(dict(facts))
    for number, theirs in enumerate(everyone):
        for name, ours in everyone[0].items():
            if theirs[name] != ours:
                assert _peers is not None  # one process alone does not differ
                lines = itertools.zip_longest(theirs[name].splitlines(), ours.splitlines())
                here, there = next((a, b) for a, b in lines if a != b)
                raise ConfigError(
                    f"{_peers.name(number)}: {name} has {here or 'nothing'!r} where "
                    f"{_peers.name(0)} has {there or 'nothing'!r}; allowed: the same on every host"
                )


def package_versions() -> dict[str, str]:
    """The versions of what the result depends on, for `check_same`."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    return {"versions": "\n".join([f"python {platform.python_version()}", *versions])}


def _place(
    address: str | None, count: int | None, index: int | None, timeout_secs: float
) -> tuple[str, int, int]:
    """This process's place in its run: coordinator, number of processes, own number."""
    address = address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = _number("JAX_NUM_PROCESSES") if count is None else count
    index = _number("JAX_PROCESS_ID") if index is None else index
    if count == 1:
        return "", 1, 0
    if None in (address, count, index):
        # JAX offers no public way to ask where it is without starting.
        from jax._src.clusters import ClusterEnv

        address, count, index, _ = ClusterEnv.auto_detect_unset_distributed_params(
            address, count, index, None, None, int(timeout_secs)
        )
    fields = {"coordinator_address": address, "process_count": count, "process_index": index}
    given = [name for name, value in fields.items() if value is not None]
    if not given or count == 1:
        return "", 1, 0
    if address is None or count is None or index is None:
        missing = ", ".join(name for name in fields if name not in given)
        raise ConfigError(f"{', '.join(given)}: given without {missing}; set all three, or none")
    if not 0 <= index < count:
        raise ConfigError(f"process_index: {index}; allowed: 0 to {count - 1} (process_count - 1)")
    port_of("coordinator_address", address)
    return address, count, index


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is not None and not text.isdecimal():
        raise ConfigError(f"{variable}={text!r}; allowed: a number from 0")
    return None if text is None else int(text)


def _report(error: BaseException) -> tuple[str, int]:
    """Shows an error as commands do; returns what to tell the others, and the exit status."""
    line = str(error).partition("\n")[0]

    def fail() -> None:
        raise error

    try:
        return line or type(error).__name__, exit_status(fail)
    except BaseException:
        traceback.print_exception(error)
        return f"{type(error).__name__}: {line}", 1
