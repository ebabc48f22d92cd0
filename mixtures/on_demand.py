"""Builds a task of ours when its name is first asked for, here or in SeqIO.

SeqIO knows only names that were registered before, and every combination of prompt, task and
budget would be a hundred thousand of them. All its look-ups (`seqio.get_mixture_or_task`,
`TaskRegistry.get` and `names`, tasks named inside a `Mixture`) end in one dictionary,
`TaskRegistry._REGISTRY`. `install` puts a dictionary in its place that builds a missing task when
it is asked whether it has it. Nothing else of SeqIO is touched, and tasks registered in the plain
way are found as before. Names that were never asked for are not listed.

`MixtureRegistry` is left alone: what is built here are tasks, and as with any task
`MixtureRegistry.get` does not know them.

SeqIO is never imported here: where nobody has imported it, nothing is registered with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, KeysView
from typing import TYPE_CHECKING, Any

from mixtures.errors import DataError

if TYPE_CHECKING:
    import seqio

    from mixtures.tasks import RowTask

Maker = Callable[[str], "RowTask"]

_makers: dict[str, Maker] = {}
_makers_by_prefix: dict[str, Maker] = {}
_built: dict[str, RowTask] = {}


class _TasksOnDemand(dict[str, Any]):
    """SeqIO's table of tasks, extended by those that can be built."""

    def __init__(self, registered: dict[str, Any], as_seqio: Callable[[RowTask], seqio.Task]):
        super().__init__(registered)
        self._as_seqio = as_seqio

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        task = find(name) if isinstance(name, str) else None
        if task is None:
            return False
        self[task.name] = self._as_seqio(task)
        return True

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        # dict's own view would not ask __contains__.
        return KeysView(self)


def install(as_seqio: Callable[[RowTask], seqio.Task]) -> None:
    """Makes SeqIO, which has been imported, ask us; harmless if it does already."""
    registry = sys.modules["seqio"].TaskRegistry
    if not isinstance(registry._REGISTRY, _TasksOnDemand):
        registry._REGISTRY = _TasksOnDemand(registry._REGISTRY, as_seqio)


def add_task(name: str, make: Maker) -> None:
    """Builds the task `name` by `make` when it is asked for.

    Raises:
        DataError: the name is taken.
    """
    if is_known(name):
        raise DataError(f"SeqIO name '{name}' is registered already; allowed: a new name")
    _makers[name] = make


def add_prefix(prefix: str, make: Maker) -> None:
    """Builds every task whose name begins with `prefix` by `make` when it is asked for."""
    _makers_by_prefix[prefix] = make


def find(name: str) -> RowTask | None:
    """The task of ours with this name under the current settings; None for another's name.

    Raises:
        DataError: the name is one of ours and wrong.
    """
    if name not in _built:
        make = _maker(name)
        if make is None or name in _registered():
            return None
        _built[name] = make(name)
    return _built[name]


def is_known(name: str) -> bool:
    """Whether SeqIO knows the name or can be made to; raises if it is a wrong `superni.*` name."""
    return name in _makers or find(name) is not None or name in _registered()


def known_names() -> list[str]:
    """Names that SeqIO can be asked for, except those of `superni.*` not built yet."""
    return sorted({*_makers, *_built, *_registered()})


def forget_built() -> None:
    """Drops the tasks built so far; the next request builds them again."""
    if "seqio" in sys.modules:
        for name in _built:
            sys.modules["seqio"].TaskRegistry._REGISTRY.pop(name, None)
    _built.clear()


def renew(mixture: seqio.Mixture) -> None:
    """Gives a mixture the tasks that its names stand for now.

    SeqIO looks names up when a mixture is made. A mixture that was registered before
    `mixtures.configure` would go on with data and vocabulary of the settings before it.
    """
    for part in mixture._sub_mixtures:
        renew(part)
    for index, task in enumerate(mixture._tasks):
        if _maker(task.name):
            mixture._tasks[index] = sys.modules["seqio"].TaskRegistry.get(task.name)
            mixture._task_map[task.name] = mixture._tasks[index]


def _registered() -> set[str]:
    """Names in SeqIO's tables; none before it has been imported."""
    if "seqio" not in sys.modules:
        return set()
    seqio = sys.modules["seqio"]
    return {*seqio.TaskRegistry._REGISTRY, *seqio.MixtureRegistry._REGISTRY}


def _maker(name: str) -> Maker | None:
    for prefix, make in _makers_by_prefix.items():
        if name.startswith(prefix):
            return make
    return _makers.get(name)
