"""Teaches SeqIO our names as soon as SeqIO is imported, without importing it ourselves.

`import mixtures` must make `seqio.get_mixture_or_task("superni....")` work. SeqIO imports
TensorFlow (eight seconds of a processor, and a gigabyte), which nothing needs that reads names of
ours. So the import of SeqIO, whoever asks for it and whenever,
is followed by `mixtures.on_demand.install`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from mixtures import on_demand
from mixtures.names import PREFIX
from mixtures.specialization.names import PREFIX as SELF_PREFIX
from mixtures.writing.names import PREFIX as WRITING_PREFIX

# "I0000 00:00:1795174972.506864  7359 port.cc:153] ..." and the sentence that precedes them. Errors
# are shown, but for those of every machine without CUDA, or with JAX's.
_NATIVE_LOG = re.compile(
    rb"[IW]\d{4} \d\d:\d\d|WARNING: All log messages before absl|To enable the following"
    rb"|E\d{4} \d\d:\d\d.*(Unable to register cu|failed call to cuInit)"
)


def watch() -> None:
    """Registers our names with SeqIO: now if it is imported already, else when it will be."""
    on_demand.add_prefix(PREFIX, _make_superni_task)
    on_demand.add_prefix(WRITING_PREFIX, _make_writing_task)
    on_demand.add_prefix(SELF_PREFIX, _make_self_task)
    if "seqio" in sys.modules:
        _register()
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def _register() -> None:
    devices = importlib.import_module("mixtures.devices")
    devices.hide_accelerators()
    on_demand.install(_as_seqio)


def _as_seqio(task: Any) -> Any:
    # Imported when it is called: `_register` runs while some module is being imported, which may be
    # one that mixtures.seqio_tasks needs.
    from mixtures.seqio_tasks import as_seqio

    return as_seqio(task)


def _make_superni_task(name: str) -> Any:
    from mixtures.tasks import make_superni_task

    return make_superni_task(name)


def _make_writing_task(name: str) -> Any:
    from mixtures.writing.tasks import make_writing_task

    return make_writing_task(name)


def _make_self_task(name: str) -> Any:
    from mixtures.specialization.tasks import make_self_task

    return make_self_task(name)


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds SeqIO as the other finders do, and adds to what its loader executes.

    It stays for good: finding a module is not yet importing it.
    """

    def __init__(self) -> None:
        self._searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "seqio" or self._searching:
            return None
        self._searching = True  # the search below must not find us again
        try:
            spec = importlib.util.find_spec("seqio")
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = _then_register(loader.exec_module)
        return spec


def _then_register(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def execute_and_register(module: ModuleType) -> None:
        with _without_native_logs():
            execute(module)
            _register()

    return execute_and_register


@contextlib.contextmanager
def _without_native_logs() -> Iterator[None]:
    """Drops what TensorFlow's C++ code logs while it is loaded; everything else is shown after.

    Those lines (a missing CUDA driver, oneDNN's rounding) are no news to our users, and no
    environment variable keeps them away before TensorFlow's logging is set up.
    """
    if sys.stderr is None:  # a process without standard error
        yield
        return
    sys.stderr.flush()
    original = os.dup(2)
    try:
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(original, 2)
                held.seek(0)
                for line in held:
                    if not _NATIVE_LOG.match(line):
                        os.write(2, line)
    finally:
        os.close(original)
