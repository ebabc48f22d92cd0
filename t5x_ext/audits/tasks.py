"""Audits the tasks of mixtures: each by itself, and against all other tasks."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from t5x_ext import errors
from t5x_ext.configs import SuperNIConfig
from t5x_ext.terminal import note

T = TypeVar("T")

DEFAULT_LIMITS = ((512, 128), (1024, 128))  # tokens of inputs and targets
_TASKS_A_LINE = 50


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to audit.

    Attributes:
        mixtures: names as MIXTURE_OR_TASK_NAME takes them.
        limits: (inputs, targets) in tokens, EOS included.
        superni: how `superni.*` names become data.
        vocabulary: of `mixtures.vocabularies`, the path of a model, or None for the bundled one.
        prompt: for a mixture that is a scope or a file.
        budget: likewise.
        module: a Python module to import first, for names it registers.
    """

    mixtures: tuple[str, ...]
    limits: tuple[tuple[int, int], ...] = DEFAULT_LIMITS
    superni: SuperNIConfig = SuperNIConfig()
    vocabulary: Any = None
    prompt: str | None = None
    budget: str | int | None = None
    module: str | None = None


def audit(settings: Settings) -> dict[str, Any]:
    """Measures every task of the mixtures and compares them with all other tasks that it finds.

    Returns:
        What --json prints: `mixtures`, `data_dir`, `vocabulary`, `flags` (the most serious first),
        `tasks` (those with the most serious flags first), `shared_inputs`, `shared_sources`. The
        fields of the last four are those of the data classes in t5x_ext.audits.records and
        t5x_ext.audits.flags.

    Raises:
        ConfigError: there is nothing to examine.
        mixtures.errors.DataError: a name or file is wrong.
    """
    import mixtures
    from t5x_ext.audits.flags import find_flags
    from t5x_ext.audits.measures import Auditor, shared_documents, shared_inputs, shared_sources
    from t5x_ext.audits.records import Limit
    from t5x_ext.audits.rows import load_other_sets, load_others, load_rows
    from t5x_ext.audits.styles import style_clashes
    from t5x_ext.data import datasets

    datasets.import_tasks(settings.module)
    datasets.set_context(settings.superni, settings.vocabulary)
    context = mixtures.current_context()
    resolved = [
        mixtures.resolve(name, prompt=settings.prompt, budget=settings.budget)
        for name in settings.mixtures
    ]
    tasks = [task for name in resolved for task in load_rows(name)]
    if not tasks:
        raise errors.ConfigError(
            f"{', '.join(resolved)}: no rows to audit; allowed: a task with a train, validation or "
            "test split that is not empty"
        )
    names = {task.name for task in tasks}
    everything = list({task.name: task for task in tasks}.values())
    if any(task.track for task in tasks):
        everything += load_others(names)
    if any(task.is_rewriting for task in tasks):
        everything += load_other_sets(names)
    auditor = Auditor(context.vocabulary, [Limit(*lengths) for lengths in settings.limits])
    measured = [auditor.measure(task) for task in _progress(tasks)]
    inputs = shared_inputs(everything, names)
    sources = shared_sources(everything, names)
    clashes = style_clashes(everything, names)
    documents = shared_documents(everything, names)
    found = find_flags(measured, inputs, sources, clashes, documents)
    rank = {flag.subject: index for index, flag in reversed(list(enumerate(found)))}
    measured.sort(key=lambda task: (rank.get(task.name, len(found)), -task.prompt.p95))
    return {
        "mixtures": resolved,
        "data_dir": _data_dir(settings.mixtures, resolved, context),
        "vocabulary": {"size": context.vocabulary.vocab_size, "loses": auditor.lost_spaces},
        "flags": [dataclasses.asdict(flag) for flag in found],
        "tasks": [dataclasses.asdict(task) for task in measured],
        "shared_inputs": [dataclasses.asdict(shared) for shared in inputs],
        "shared_sources": [dataclasses.asdict(shared) for shared in sources],
    }


def _data_dir(given: Sequence[str], names: Sequence[str], context: Any) -> str:
    """Where the data lies, for the report: a file of one's own, or a directory of task files."""
    from mixtures.names import PREFIX
    from mixtures.writing.names import PREFIX as WRITING_PREFIX
    from mixtures.writing.rows import find_directory

    places = {}
    for asked, name in zip(given, names, strict=True):
        if asked.endswith((".jsonl", ".json")):
            places[asked] = True
        elif name.startswith(WRITING_PREFIX):
            places[str(find_directory(context.data_dir) or "the bundled writing suite")] = True
        elif name.startswith(PREFIX):
            places[str(context.store.path)] = True
    return ", ".join(places) or "what its task reads"


def _progress(items: Sequence[T]) -> Iterator[T]:
    """A bar on a terminal, a line now and then elsewhere; both on standard error."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc="audit", unit="task")
        return
    for number, item in enumerate(items, start=1):
        yield item
        if number % _TASKS_A_LINE == 0 or number == len(items):
            note(f"audit: {number}/{len(items)} tasks")
