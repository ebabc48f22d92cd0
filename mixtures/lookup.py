"""From what a user writes for MIXTURE_OR_TASK_NAME to a SeqIO name."""

from __future__ import annotations

import difflib
import hashlib
import os
from typing import Any

from etils import epath

from mixtures import files, on_demand
from mixtures.budgets import parse_budget
from mixtures.context import current_context
from mixtures.errors import DataError, quoted
from mixtures.names import PREFIX, escape, find_scope, parse_name, task_name
from mixtures.own_data import DEFAULT_PROMPT, register
from mixtures.specialization import names as self_names
from mixtures.writing import names as writing_names

_TABLES = (".csv", ".tsv", ".txt", ".parquet", ".gz", ".zip")


def resolve(name_or_path: str, prompt: str | None = None, budget: str | int | None = None) -> str:
    """The SeqIO name for a name, a scope or a file.

    Args:
        name_or_path: a `superni.*` name or one registered with SeqIO, which is returned as it is;
            a `writing.*` or `self.*` name (see `mixtures.writing.names` and
            `mixtures.specialization.names`), to which prompt and budget are added;
            a scope such as `held_in`, a task or a category; or the path of a `.jsonl` or `.json`
            file, which is registered (see `mixtures.own_data`).
        prompt: for a scope or a file, how to write its rows; None: `tk.def_pos2`.
        budget: for a scope or a file, how many train rows of each task to use; None: all.

    Raises:
        DataError: no such name, scope or file, a malformed budget, or `prompt` or `budget` is
            given for a name that already says what it is.
    """
    if budget is not None:
        budget = parse_budget(budget).name
    if name_or_path.endswith((".jsonl", ".json")):
        return _register_file(name_or_path, prompt or DEFAULT_PROMPT, budget or "all")
    if name_or_path.startswith(PREFIX):
        parsed = parse_name(name_or_path)
        _refuse("prompt", prompt, parsed.prompt, name_or_path)
        _refuse("budget", budget, parsed.budget, name_or_path)
        return name_or_path
    if name_or_path.startswith(writing_names.PREFIX):
        return writing_names.with_settings(name_or_path, prompt, budget)
    if name_or_path.startswith(self_names.PREFIX):
        return self_names.with_settings(name_or_path, prompt, budget)
    if on_demand.is_known(name_or_path):
        _refuse("prompt", prompt, None, name_or_path)
        _refuse("budget", budget, None, name_or_path)
        return name_or_path
    try:
        find_scope(escape(name_or_path), current_context().store)
    except DataError as error:
        _refuse_file(name_or_path)
        near = difflib.get_close_matches(name_or_path, on_demand.known_names(), n=3)
        hint = f"; similar names registered with SeqIO: {', '.join(near)}" if near else ""
        raise DataError(f"MIXTURE_OR_TASK_NAME: {error}{hint}") from None
    return task_name(prompt or DEFAULT_PROMPT, name_or_path, budget or "all")


def find(name: str) -> Any:
    """What a name of `resolve` stands for.

    Returns:
        A `mixtures.tasks.RowTask` for names of ours, else the `seqio.Task` or `seqio.Mixture`.

    Raises:
        DataError: the name is one of ours and wrong.
    """
    task = on_demand.find(name)
    if task is not None:
        return task
    import seqio

    return seqio.get_mixture_or_task(name)


def prompt_of(name_or_path: str, prompt: str | None = None) -> str | None:
    """The name of the prompt that rows are written with.

    Args:
        name_or_path: as of `resolve`, which takes it.
        prompt: likewise.

    Returns:
        None for tasks that were registered with SeqIO: they write their rows themselves. With
        demonstrations or without, a prompt has one name.
    """
    if name_or_path.startswith(PREFIX):
        return parse_name(name_or_path).prompt
    if name_or_path.startswith(writing_names.PREFIX):
        named = writing_names.parse_name(name_or_path).prompt
        return named or prompt or writing_names.DEFAULT_PROMPT
    if name_or_path.startswith(self_names.PREFIX):
        named = self_names.parse_name(name_or_path).prompt
        return named or prompt or self_names.DEFAULT_PROMPT
    is_file = name_or_path.endswith((".jsonl", ".json"))
    is_registered = not is_file and on_demand.is_known(name_or_path)
    return None if is_registered else prompt or DEFAULT_PROMPT


def _register_file(name: str, prompt: str, budget: str) -> str:
    path = files.path(name, "MIXTURE_OR_TASK_NAME")
    if not files.is_remote(path):
        path = epath.Path(os.path.realpath(path))
    key = hashlib.sha256(os.fsencode(f"{path} {prompt} {budget}")).hexdigest()[:8]
    registered = f"own.{escape(path.stem)}.{key}"
    if not on_demand.is_known(registered):
        register(registered, path, prompt, budget)
    return registered


def _refuse_file(name: str) -> None:
    """Refuses what is no scope and looks like a file, or is a file's name without its end."""
    try:
        path = files.path(name, "MIXTURE_OR_TASK_NAME")
        beside = [path.name + end for end in (".jsonl", ".json")]
        near = [end for end in beside if files.is_file(path.parent / end)]
        is_file = "/" in name or path.suffix in _TABLES or files.is_file(path)
    except DataError:
        return
    if is_file or near:
        meant = f"; did you mean '{path.parent / near[0]}'?" if near else ""
        raise DataError(
            f"MIXTURE_OR_TASK_NAME: file {quoted(name)}; allowed: a .jsonl file, one object with "
            f"instruction, input and output per line, or a .json file of one task{meant}"
        )


def _refuse(what: str, value: object, own: str | None, name: str) -> None:
    """Refuses a value that would be ignored because the name states its own."""
    if value is not None and value != own:
        raise DataError(
            f"{what} '{value}' with MIXTURE_OR_TASK_NAME '{name}', which "
            f"{f'has {own!r}' if own else f'takes no {what}'}; "
            f"allowed: a {what} with a scope or a file only"
        )
