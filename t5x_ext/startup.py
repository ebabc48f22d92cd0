"""What a command sets up before it computes: memory, processes, kept compilations, TFDS's data."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from t5x_ext import accelerators, files, multihost
from t5x_ext.bounds import int_flag, real_flag
from t5x_ext.errors import ConfigError

# How T5X's binaries log, by absl. Commands here write their few lines to standard error anyway.
_ABSL_SWITCHES = ("logtostderr", "alsologtostderr", "showprefixforinfo")
_ABSL_VALUES = ("verbosity", "v", "stderrthreshold", "log_dir", "logger_levels")
_ABSL_FLAGS = tuple(f"--{name}" for name in (*_ABSL_SWITCHES, *_ABSL_VALUES))
_DETERMINISTIC_FLAG = "--xla_gpu_deterministic_ops=true"
# Parameters of glibc's mallopt(3), from its malloc.h, and their values.
_KEEP_ALL = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1)}
_MAX_BYTES = 8 << 30  # of compiled programs; JAX drops what was used longest ago


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `take_flags` reads."""
    group = parser.add_argument_group("process")
    group.add_argument(
        "--compilation_cache_dir",
        default=_default_cache_dir(),
        metavar="DIR",
        help="where compiled programs are kept between runs; '' keeps none "
        "(default: $T5X_EXT_CACHE/xla, else ~/.cache/t5x_ext/xla)",
    )
    group.add_argument(
        "--multiprocess_gpu",
        action="store_true",
        help="as in T5X, together with the next three flags, which suffice without it",
    )
    group.add_argument("--coordinator_address", metavar="HOST:PORT", help="of process 0")
    group.add_argument(
        "--process_count", type=int_flag(1, 1 << 20), metavar="N", help="processes of this run"
    )
    group.add_argument(
        "--process_index", type=int_flag(0, 1 << 20), metavar="I", help="this process, from 0"
    )
    group.add_argument(
        "--initialization_timeout",
        type=real_flag(0, 1e6),
        default=300,
        metavar="SECONDS",
        help="how long to wait for the last process to start (default: 300)",
    )
    group.add_argument(
        "--tfds_data_dir", metavar="DIR", help="where TensorFlow Datasets keeps its data"
    )
    group.add_argument(
        "--seqio_additional_cache_dirs",
        metavar="DIR,DIR",
        help="where else SeqIO looks for tasks that are cached (USE_CACHED_TASKS)",
    )
    group.add_argument(
        f"--{_ABSL_SWITCHES[0]}",
        action="store_true",
        help=f"absl's, taken and without effect, like {', '.join(_ABSL_FLAGS[1:])}",
    )
    for name in _ABSL_SWITCHES[1:]:
        group.add_argument(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    for name in _ABSL_VALUES:
        group.add_argument(f"--{name}", help=argparse.SUPPRESS)


class ProcessFlags(NamedTuple):
    """Values of the flags of `add_flags`."""

    coordinator_address: str | None
    process_count: int | None
    process_index: int | None
    initialization_timeout: float
    compilation_cache_dir: str
    tfds_data_dir: str | None
    seqio_additional_cache_dirs: str | None


def take_flags(flags: argparse.Namespace) -> ProcessFlags:
    """Takes the flags of `add_flags` out of `flags`.

    Raises:
      ConfigError: --multiprocess_gpu without saying which processes.
    """
    values = vars(flags)
    for name in (*_ABSL_SWITCHES, *_ABSL_VALUES):
        del values[name]
    taken = ProcessFlags(**{name: values.pop(name) for name in ProcessFlags._fields})
    if values.pop("multiprocess_gpu") and None in taken[:3]:
        raise ConfigError(
            "--multiprocess_gpu: give --coordinator_address, --process_count and --process_index "
            "with it"
        )
    return taken


@contextlib.contextmanager
def process(flags: ProcessFlags, joins_cluster: bool) -> Iterator[None]:
    """Runs its body as one process of a run, with compiled programs kept.

    Args:
      flags: see `add_flags`.
      joins_cluster: whether to join the processes of a cluster's job where no flag says so.

    Raises:
      ConfigError: see `multihost.session`.
    """
    address, count, index = flags[:3]
    if not joins_cluster and (address, count, index) == (None, None, None):
        count = 1
    accelerators.skip_absent_tpu()
    keep_freed_memory()
    with multihost.session(address, count, index, flags.initialization_timeout):
        _keep_compilations(flags.compilation_cache_dir)
        if flags.tfds_data_dir:
            import seqio

            seqio.set_tfds_data_dir_override(flags.tfds_data_dir)
        if flags.seqio_additional_cache_dirs:
            import seqio

            seqio.add_global_cache_dirs(
                [each for each in flags.seqio_additional_cache_dirs.split(",") if each]
            )
        yield


def make_deterministic() -> None:
    """Makes XLA compute the same bits from the same program and inputs each time.

    On GPUs the order of scattered and atomic additions, and which of several kernels measures
    fastest, otherwise differ from run to run; fixing both costs some speed. CPUs and TPUs take no
    notice.

    Raises:
      ConfigError: JAX has started its devices, and reads flags no more.
    """
    # There is no public way to ask.
    from jax._src import xla_bridge

    flags = os.environ.get("XLA_FLAGS", "").split()
    if _DETERMINISTIC_FLAG in flags:
        return
    if xla_bridge.backends_are_initialized():
        raise ConfigError(
            "DETERMINISTIC: JAX has been used in this process already; start it with "
            f"XLA_FLAGS={_DETERMINISTIC_FLAG}"
        )
    os.environ["XLA_FLAGS"] = " ".join([*flags, _DETERMINISTIC_FLAG])


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next allocation, if the CPU computes.

    Every step on the CPU allocates all its temporary arrays. By default their pages go back to the
    system when it ends, and the next step waits while the kernel clears others: up to half its time
    (docs/benchmarks.md). Instead, all blocks come from one heap that only `memory.give_back` trims.
    That takes memory: until then the process stays as large as it ever was, and holds a step's
    temporary arrays up to twice, because small blocks settle in the gap that they leave.

    Must be called before JAX starts its threads, which would otherwise have separate heaps. Does
    nothing with other C libraries, or if the environment sets glibc's allocator (`GLIBC_TUNABLES`,
    `MALLOC_TRIM_THRESHOLD_` and the like).
    """
    if any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return
    if platform.libc_ver()[0] == "glibc" and _computes_on_cpu():
        library = ctypes.CDLL(None)
        for parameter, value in _KEEP_ALL.values():
            library.mallopt(parameter, value)


def _computes_on_cpu() -> bool:
    """Whether JAX will take the CPU, without starting it."""
    import jax

    if jax.config.jax_platforms:
        return jax.config.jax_platforms == "cpu"
    return not accelerators.has_device(accelerators.ANY)


def _default_cache_dir() -> str:
    return str(Path(os.environ.get("T5X_EXT_CACHE") or "~/.cache/t5x_ext") / "xla")


def _keep_compilations(directory: str) -> None:
    """Makes JAX keep compiled programs in a directory; '' for not.

    A directory that JAX was given otherwise (JAX_COMPILATION_CACHE_DIR) is left alone. Programs for
    the host are machine code for its very CPU, which JAX's keys do not tell apart, so each kind of
    CPU has a separate directory.
    """
    import jax

    if not directory or jax.config.jax_compilation_cache_dir:
        return
    path = files.local_path(directory, "--compilation_cache_dir") / _cpu_kind()
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)


def _cpu_kind() -> str:
    """Architecture and a hash of the CPU's model and instruction sets."""
    text = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        wanted = ("model name", "flags", "Features")
        lines = info.read_text().split("\n\n")[0].splitlines()
        text = "\n".join(line for line in lines if line.startswith(wanted))
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
