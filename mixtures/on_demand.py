"""Lets SeqIO build a task when its name is first asked for.

SeqIO knows only names that were registered before, and every combination of prompt, task and
budget would be a hundred thousand of them. All its look-ups (`seqio.get_mixture_or_task`,
`TaskRegistry.get` and `names`, tasks named inside a `Mixture`) end in one dictionary,
`TaskRegistry._REGISTRY`. `install` puts a dictionary in its place that builds a missing task when
it is asked whether it has it. Nothing else of SeqIO is touched, and tasks registered in the plain
way are found as before. Names that were never asked for are not listed.

`MixtureRegistry` is left alone: what is built here are tasks, and as with any task
`MixtureRegistry.get` does not know them.
"""

from __future__ import annotations

from collections.abc import Callable, KeysView
from typing import TYPE_CHECKING, Any

from mixtures.errors import DataError

# SeqIO is imported inside the functions: this module is also used where SeqIO is not needed.
if TYPE_CHECKING:
    import seqio

Maker = Callable[[str], "seqio.Task"]

_makers: dict[str, Maker] = {}
_makers_by_prefix: dict[str, Maker] = {}
_built: set[str] = set()


class _TasksOnDemand(dict[str, Any]):
    """SeqIO's table of tasks, extended by those that can be built."""

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        if not isinstance(name, str):
            return False
        make = _maker(name)
        if make is None:
            return False
        self[name] = make(name)
        _built.add(name)
        return True

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        # dict's own view would not ask __contains__.
        return KeysView(self)


def install() -> None:
    """Makes SeqIO ask us; harmless if it does already."""
    import seqio

    if not isinstance(seqio.TaskRegistry._REGISTRY, _TasksOnDemand):
        seqio.TaskRegistry._REGISTRY = _TasksOnDemand(seqio.TaskRegistry._REGISTRY)


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


def is_known(name: str) -> bool:
    """Whether SeqIO knows the name or can be made to; raises if it is a wrong `superni.*` name."""
    import seqio

    if name in _makers:
        return True
    return name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names()


def known_names() -> list[str]:
    """Names that SeqIO can be asked for, except those of `superni.*` not built yet."""
    import seqio

    return sorted({*_makers, *seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})


def forget_built() -> None:
    """Drops the tasks built so far; the next request builds them again."""
    import seqio

    for name in _built:
        seqio.TaskRegistry._REGISTRY.pop(name, None)
    _built.clear()


def renew(mixture: seqio.Mixture) -> None:
    """Gives a mixture the tasks that its names stand for now.

    SeqIO looks names up when a mixture is made. A mixture that was registered before
    `mixtures.configure` would go on with data and vocabulary of the settings before it.
    """
    import seqio

    for part in mixture._sub_mixtures:
        renew(part)
    for index, task in enumerate(mixture._tasks):
        if _maker(task.name):
            mixture._tasks[index] = seqio.TaskRegistry.get(task.name)
            mixture._task_map[task.name] = mixture._tasks[index]


def _maker(name: str) -> Maker | None:
    for prefix, make in _makers_by_prefix.items():
        if name.startswith(prefix):
            return make
    return _makers.get(name)
