"""The grammar of SeqIO names: `superni.<prompt>.<scope>.<budget>`.

    superni.ql.def_pos2.task1344_glue_entailment_classification.n200
    superni.ql.io.held_in.all

prompt: a name of the prompt registry. budget: n<K>, p<K> or all, of each task's training rows.
scope: one task by its full name; `held_in`, the test track; `pretune`, the train track; or a
category of the test track. SeqIO allows only letters, digits and `_.:` in a name, so any other
character of a task or category is written `_` (Textual_Entailment).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Iterable
from typing import Protocol

from mixtures.budgets import parse_budget
from mixtures.errors import DataError, hint, quoted
from mixtures.prompts import PROMPTS, get_prompt
from mixtures.records import TaskRecord

PREFIX = "superni."
HELD_IN = "held_in"
PRETUNE = "pretune"

_GRAMMAR = f"{PREFIX}<prompt>.<scope>.<budget>, such as {PREFIX}ql.def_pos2.{HELD_IN}.n100"


class TaskStore(Protocol):
    """Where task records come from: a release directory, or shards made of one."""

    @property
    def path(self) -> str | os.PathLike[str]: ...

    def names(self, track: str) -> tuple[str, ...]: ...

    def missing(self, track: str) -> tuple[str, ...]: ...

    def task(self, name: str) -> TaskRecord: ...

    def categories(self, track: str) -> dict[str, tuple[str, ...]]: ...

    def fingerprint(self, names: Iterable[str]) -> str: ...


@dataclasses.dataclass(frozen=True)
class Name:
    """The three parts of a name."""

    prompt: str
    scope: str
    budget: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.prompt}.{self.scope}.{self.budget}"


@dataclasses.dataclass(frozen=True)
class Scope:
    """The tasks that a scope stands for, all of one track."""

    track: str
    tasks: tuple[str, ...]


def task_name(prompt: str, scope: str, budget: str | int) -> str:
    """Writes a name; `scope` may be a task's or a category's own, unescaped name.

    Raises:
        DataError: unknown prompt or malformed budget.
    """
    get_prompt(prompt)
    return str(Name(prompt, escape(scope), parse_budget(budget).name))


def parse_name(name: str) -> Name:
    """Reads a name; says nothing about whether its scope exists.

    Raises:
        DataError: the name does not follow the grammar, or its prompt or budget is unknown.
    """
    head, _, budget = name.removeprefix(PREFIX).rpartition(".")
    if not name.startswith(PREFIX) or "." not in head or head in PROMPTS:
        raise DataError(f"name {quoted(name)}; allowed: {_GRAMMAR}")
    prompts = [prompt for prompt in PROMPTS if head.startswith(f"{prompt}.")]
    prompt = max(prompts, key=len) if prompts else _misspelt_prompt(head)
    get_prompt(prompt)
    parse_budget(budget)
    return Name(prompt, head.removeprefix(f"{prompt}."), budget)


def find_scope(scope: str, store: TaskStore) -> Scope:
    """The tasks of a scope, in the order of the release's list.

    Raises:
        DataError: no task, category or group has this name, or the task has no file.
    """
    if scope in (HELD_IN, PRETUNE):
        track = "test" if scope == HELD_IN else "train"
        return Scope(track, store.names(track))
    for track in ("test", "train"):
        named = _by_escaped_name(store.names(track))
        if scope in named:
            return Scope(track, (named[scope],))
        if scope in map(escape, store.missing(track)):
            raise DataError(f"task '{scope}' is in the {track} list, but has no file")
    categories = store.categories("test")
    named = _by_escaped_name(categories)
    if scope in named:
        return Scope("test", categories[named[scope]])
    known = [HELD_IN, PRETUNE, *named, *map(escape, store.names("test") + store.names("train"))]
    raise DataError(
        f"scope {quoted(scope)} is unknown; allowed: a task, {HELD_IN}, {PRETUNE}, "
        f"or a category: {', '.join(named)}{hint(scope, known, 3)}"
    )


def escape(text: str) -> str:
    """`text` with every character that SeqIO refuses in a name written `_`."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", text)


def _by_escaped_name(names: Iterable[str]) -> dict[str, str]:
    escaped: dict[str, str] = {}
    for name in names:
        other = escaped.setdefault(escape(name), name)
        if other != name:
            raise DataError(
                f"tasks '{other}' and '{name}' are both written '{escape(name)}'; "
                "allowed: names that differ in letters, digits, '_' or '.'"
            )
    return escaped


def _misspelt_prompt(head: str) -> str:
    """The first one or two parts of `head`, whichever is more like a known prompt."""
    parts = head.split(".")
    candidates = [parts[0], ".".join(parts[:2])]

    def likeness(candidate: str) -> float:
        return max(difflib.SequenceMatcher(None, candidate, name).ratio() for name in PROMPTS)

    return max(candidates, key=likeness)


def check_only_one(name: str, what: str, value: str | None, own: str | None) -> None:
    """Refuses a setting given with a name that already has one.

    Args:
        name: as it was given for MIXTURE_OR_TASK_NAME.
        what: the setting: "prompt", "budget".
        value: what was given with the name; None for nothing.
        own: what the name says; None for nothing.

    Raises:
        DataError: they differ.
    """
    if value is not None and own not in (None, value):
        raise DataError(
            f"{what} '{value}' with MIXTURE_OR_TASK_NAME '{name}', which has {own!r}; "
            f"allowed: a {what} with a name that has none"
        )
