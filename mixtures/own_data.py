"""Your own tasks: a file without code, or rows from Python.

A JSONL file holds one object per line:

    {"instruction": "Say it in French.", "input": "good day", "output": "bonjour"}

`input` may be empty and `output` may be a list of accepted answers. Optional are `id`, `task` (the
file's name unless given), `category`, and `source`: the text that an answer rewrites, for metrics
that compare with it. The file is the train split; files next to it that are
named <stem>.validation.jsonl and <stem>.test.jsonl are those splits. A file that is itself named so
is that one split. A `.json` file is one task in the layout of the release, divided like a task of
the test track.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from mixtures import files, on_demand
from mixtures.budgets import parse_budget, select
from mixtures.context import Context, current_context
from mixtures.errors import DataError, hint, quoted
from mixtures.files import StrPath
from mixtures.jsonl import ONE_PER_LINE, check_text, read_objects, wrong_field
from mixtures.names import PREFIX, escape
from mixtures.prompts import get_prompt
from mixtures.records import Row, read_task, rows
from mixtures.specialization.names import PREFIX as SELF_PREFIX
from mixtures.splits import split_instances
from mixtures.tasks import RowTask
from mixtures.writing.names import PREFIX as WRITING_PREFIX

SPLITS = ("train", "validation", "test")
DEFAULT_PROMPT = "tk.def_pos2"

_FIELDS = "instruction, input, output, and optionally id, task, category, source"
_REQUIRED = {
    "output": "a string or a list of one or more strings",
    "instruction": "a string that is not blank",
    "input": "a string, which may be empty",
}

RowsOrFile = str | os.PathLike[str] | Iterable[Row | Mapping[str, Any]]
_ReadRows = Callable[[Context, str], Sequence[Row]]


def register(
    name: str,
    source: RowsOrFile | Mapping[str, RowsOrFile],
    prompt: str = DEFAULT_PROMPT,
    budget: str | int = "all",
) -> None:
    """Registers your own task with SeqIO under `name`.

    The task is built when it is first asked for, with the vocabulary and the other settings
    of `mixtures.configure` that hold then.

    Args:
        name: letters, digits, `_` and `.`; not starting with `superni.`, `writing.` or
            `self.`.
        source: a file (see the top of this module); rows, each a `Row` or a dictionary with the
            fields of a JSONL line; or a dictionary from split to either.
        prompt: a name of the prompt registry.
        budget: how many of each task's train rows to use.

    Raises:
        DataError: the name is taken or not allowed; a file is missing; prompt, budget, split or a
            row is wrong.
    """
    if name != escape(name) or name.startswith((PREFIX, WRITING_PREFIX, SELF_PREFIX)):
        raise DataError(
            f"name '{name}'; allowed: letters, digits, '_' and '.', not starting with '{PREFIX}', "
            f"'{WRITING_PREFIX}' or '{SELF_PREFIX}'"
        )
    get_prompt(prompt)
    budget = parse_budget(budget).name
    splits, read_rows = _open_source(name, source)

    def read_split(context: Context, split: str) -> Sequence[Row]:
        found = read_rows(context, split)
        return _within_budget(found, budget, context) if split == "train" else found

    def make(name: str) -> RowTask:
        context = current_context()
        return RowTask(name, splits, lambda split: read_split(context, split), prompt, context)

    on_demand.add_task(name, make)


def read_jsonl(path: str | os.PathLike[str]) -> list[Row]:
    """Reads a JSONL file of instruction, input, output.

    Raises:
        DataError: the file cannot be read or holds no row, or a line is wrong; names the line.
    """
    path = files.path(path, "data file")
    found: list[Row] = []
    for where, value in read_objects(path, f"{ONE_PER_LINE} with {_FIELDS}"):
        found.append(_read_row(value, where, _own_name(path), len(found)))
    return _checked(found, str(path))


def _open_source(
    name: str, source: RowsOrFile | Mapping[str, RowsOrFile]
) -> tuple[tuple[str, ...], _ReadRows]:
    """The splits of a source, and a function that reads one."""
    if isinstance(source, str | os.PathLike):
        path = _existing(source, "a .jsonl or .json file")
        if path.suffix == ".json":
            return SPLITS, lambda context, split: _read_task_split(path, context, split)
        source = _files_of_splits(path)
    if not isinstance(source, Mapping):
        source = {"train": source}
    unknown = sorted(set(source) - set(SPLITS))
    if unknown or not source:
        raise DataError(
            f"task '{name}': split '{unknown[0] if unknown else ''}'; allowed: {', '.join(SPLITS)}"
        )
    read = {split: _reader(rows_or_file, name) for split, rows_or_file in source.items()}
    return tuple(split for split in SPLITS if split in read), lambda _, split: read[split]()


def _reader(rows_or_file: RowsOrFile, name: str) -> Callable[[], Sequence[Row]]:
    """Reads a file when it is called; rows from Python are checked at once."""
    if isinstance(rows_or_file, str | os.PathLike):
        path = _existing(rows_or_file, "a .jsonl file")
        return lambda: read_jsonl(path)
    found = []
    for index, value in enumerate(rows_or_file):
        where = f"task '{name}': row {index}"
        if isinstance(value, Row):
            _check_row(value, where)
        else:
            value = _read_row(value, where, name, index)
        found.append(value)
    checked = _checked(found, f"task '{name}'")
    return lambda: checked


def _existing(file: StrPath, allowed: str) -> epath.Path:
    path = files.path(file, "data file")
    if not files.is_file(path):
        names = files.names_in(path.parent) if files.is_dir(path.parent) else []
        beside = [name for name in names if name.endswith(path.suffix)]
        raise DataError(
            f"data file '{file}' not found; allowed: {allowed}{hint(path.name, beside)}"
        )
    return path


def _within_budget(found: Sequence[Row], budget: str, context: Context) -> list[Row]:
    """The rows that a budget allows of each task, in their order."""
    by_task: dict[str, list[int]] = {}
    for index, row in enumerate(found):
        by_task.setdefault(row.task, []).append(index)
    kept = []
    for task, indices in by_task.items():
        ids = [found[index].id for index in indices]
        chosen = select(task, ids, budget, context.budget_seed, context.budget_order)
        kept += [indices[place] for place in chosen]
    return [found[index] for index in sorted(kept)]


def _read_task_split(path: epath.Path, context: Context, split: str) -> Sequence[Row]:
    record = read_task(path)
    return rows(record, getattr(split_instances(record, "test", context.split_policy), split))


def _files_of_splits(path: epath.Path) -> dict[str, epath.Path]:
    """A JSONL file and those next to it that are its other splits."""
    for split in SPLITS:
        if path.stem.endswith(f".{split}"):
            return {split: path}
    beside = {split: path.parent / f"{path.stem}.{split}.jsonl" for split in SPLITS[1:]}
    return {"train": path} | {split: file for split, file in beside.items() if files.is_file(file)}


def _own_name(path: epath.Path) -> str:
    """The stem without the name of a split: rows of all splits belong to one task."""
    for split in SPLITS:
        if path.stem.endswith(f".{split}"):
            return path.stem.removesuffix(f".{split}")
    return path.stem


def _read_row(value: Any, where: str, task: str, index: int) -> Row:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: not an object; allowed: an object with {_FIELDS}")
    present = [key for key in value if value[key] is not None]
    for field, allowed in _REQUIRED.items():
        if field not in present:
            raise _wrong(where, field, None, allowed, f"; found: {', '.join(map(str, present))}")
    output = value["output"]
    references = [output] if isinstance(output, str) else output
    if not isinstance(references, list | tuple) or not references:
        raise _wrong(where, "output", output, _REQUIRED["output"])
    for reference in references:
        _text(where, "output", reference)
    row_id = value.get("id", f"{task}-{index}")
    return Row(
        task=_text(where, "task", value.get("task", task)),
        category=_text(where, "category", value.get("category", "")),
        id=_text(where, "id", str(row_id) if isinstance(row_id, int) else row_id),
        definition=_text(where, "instruction", value["instruction"]),
        input=_text(where, "input", value["input"]),
        references=tuple(references),
        source=_text(where, "source", value.get("source", "")),
    )


def _check_row(row: Row, where: str) -> None:
    """Holds a Row from Python to what is asked of rows from files."""
    for field in ("task", "category", "id", "input", "source"):
        _text(where, field, getattr(row, field))
    if not row.references:
        raise _wrong(where, "references", row.references, "one or more strings")
    for reference in row.references:
        _text(where, "references", reference)
    for example in row.positive_examples + row.negative_examples:
        for field in ("input", "output", "explanation"):
            if not isinstance(getattr(example, field), str):
                raise _wrong(where, f"example {field}", getattr(example, field), "a string")


def _text(where: str, field: str, value: Any) -> str:
    may_be_blank = field in ("input", "category", "source")
    allowed = "a string" if may_be_blank else "a string that is not blank"
    text = check_text(where, field, value, may_be_blank, f"{allowed} (fields: {_FIELDS})")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _wrong(where, field, text, "text that UTF-8 can encode") from None
    return text


def _wrong(where: str, field: str, value: Any, allowed: str, found: str = "") -> DataError:
    return wrong_field(where, field, value, f"{allowed} (fields: {_FIELDS}{found})")


def _checked(found: list[Row], where: str) -> list[Row]:
    """The rows, after checks that concern all of them."""
    if not found:
        raise DataError(f"{where}: holds no row; allowed: one or more")
    seen = set()
    for row in found:
        if row.id in seen:
            raise DataError(f"{where}: id {quoted(row.id)} occurs twice; allowed: an id used once")
        seen.add(row.id)
    return found
