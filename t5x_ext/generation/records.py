"""The records that self-specialization reads: seeds, and rows to be evaluated on.

Each is one JSON object a line. Everything in a file is checked when it is read: one wrong line is
one error that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtures.errors import DataError
from mixtures.records import parse_json_text
from mixtures.specialization import bundled as bundled_domain
from t5x_ext import files
from t5x_ext.errors import ConfigError, nearest

_SEED_FIELDS = "instruction, input, output, and optionally id, domain, task, kind"
_EVALUATION_FIELDS = (
    "id, instruction, input, references, and optionally domain, task, kind, split, meta"
)


@dataclass(frozen=True)
class Seed:
    """A task written by hand, with its answer.

    Attributes:
        id: unique among the seeds.
        domain: as the file has it, '' without one.
        task: of the evaluation, that the seed is a demonstration of; '' for none.
        kind: such as 'ner'.
        instruction: what to do.
        input: what to do it on; may be empty.
        output: the answer.
    """

    id: str
    domain: str
    task: str
    kind: str
    instruction: str
    input: str
    output: str


@dataclass(frozen=True)
class EvaluationRow:
    """A question of a test set.

    Attributes:
        id: unique within its task.
        domain: such as 'biomedicine'.
        task: the test set.
        kind: such as 'ner'; '' where the file has none.
        instruction: the task's.
        input: the question.
        references: every accepted answer, at least one.
        labels: the answers there are, for a task with a closed set; else empty.
    """

    id: str
    domain: str
    task: str
    kind: str
    instruction: str
    input: str
    references: tuple[str, ...]
    labels: tuple[str, ...] = ()


def read_seeds(path: files.StrPath) -> list[Seed]:
    """Reads seeds.jsonl.

    Raises:
        ConfigError: the file cannot be read or holds none, a line is wrong (a seed without output
            among them), or an id is used twice.
    """
    found: list[Seed] = []
    for where, fields in _objects(path, _SEED_FIELDS):
        text = {
            "id": fields.get("id", f"seed-{len(found)}"),
            **{name: fields.get(name, "") for name in ("domain", "task", "kind")},
            **{name: fields.get(name) for name in ("instruction", "input", "output")},
        }
        optional = ("domain", "task", "kind", "input")
        for name, value in text.items():
            _check_text(where, name, value, name in optional, _SEED_FIELDS)
        found.append(Seed(**text))
    return _once_each(path, found)


def read_evaluation(path: files.StrPath, split: str = "test") -> list[EvaluationRow]:
    """Reads one file of evaluation rows.

    A set of labels is in a row's `meta.labels`, or `meta.label_set` names it: then
    `<label_set>_labels.json`, a list, is next to the file or in the directory above it.

    Args:
        path: a JSONL file.
        split: rows of another split are left out; those without `split` belong to every one.

    Raises:
        ConfigError: the file cannot be read, has no row of the split, or a line is wrong.
    """
    found, task = [], files.path(path).stem
    label_sets: dict[str, tuple[str, ...]] = {}
    splits = set()
    for where, fields in _objects(path, _EVALUATION_FIELDS):
        own_split = fields.get("split", split)
        _check_text(where, "split", own_split, False, _EVALUATION_FIELDS)
        splits.add(own_split)
        if own_split != split:
            continue
        text = {
            **{name: fields.get(name) for name in ("id", "instruction", "input")},
            "task": fields.get("task", task),
            **{name: fields.get(name, "") for name in ("domain", "kind")},
        }
        for name, value in text.items():
            _check_text(where, name, value, name in ("domain", "kind", "input"), _EVALUATION_FIELDS)
        references = fields.get("references")
        if not _is_texts(references) or not references:
            raise _wrong(where, "references", references, _EVALUATION_FIELDS)
        meta = fields.get("meta") or {}
        labels = meta.get("labels", ()) if isinstance(meta, Mapping) else ()
        if isinstance(meta, Mapping) and "label_set" in meta:
            name = str(meta["label_set"])
            if name not in label_sets:
                label_sets[name] = _read_labels(path, name)
            labels = label_sets[name]
        if not _is_texts(labels):
            raise _wrong(where, "meta.labels", labels, _EVALUATION_FIELDS)
        found.append(EvaluationRow(**text, references=tuple(references), labels=tuple(labels)))
    if not found:
        raise ConfigError(f"{path}: no row of split '{split}'{nearest(split, splits)}")
    return _once_each(path, found)


def evaluation_files(path: files.StrPath) -> list[files.StrPath]:
    """A file itself, or the .jsonl files of a directory, by name.

    Raises:
        ConfigError: there is none.
    """
    place = files.path(path, "evaluation")
    if not files.is_dir(place):
        return [place]
    found: list[files.StrPath] = [
        place / name for name in files.names_in(place) if name.endswith(".jsonl")
    ]
    if not found:
        raise ConfigError(f"{place}: has no .jsonl file; allowed: evaluation rows")
    return found


def _objects(path: files.StrPath, fields: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, object) for each line that is not blank."""
    allowed = f"one object per line with {fields}"
    lines = files.read_text(files.path(path)).split("\n")
    empty = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        empty = False
        where = f"{path}: line {number}"
        try:
            value = parse_json_text(line, where, allowed)
        except DataError as error:
            raise ConfigError(str(error)) from None
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: not an object; allowed: {allowed}")
        yield where, value
    if empty:
        raise ConfigError(f"{path}: holds no row; allowed: {allowed}")


def _once_each(path: files.StrPath, found: list[Any]) -> list[Any]:
    seen = set()
    for record in found:
        if record.id in seen:
            raise ConfigError(f"{path}: id {record.id!r} occurs twice; allowed: an id used once")
        seen.add(record.id)
    return found


def _check_text(where: str, name: str, value: Any, may_be_blank: bool, fields: str) -> None:
    if not isinstance(value, str) or not (may_be_blank or value.strip()):
        raise _wrong(where, name, value, fields)


def _wrong(where: str, field: str, value: Any, fields: str) -> ConfigError:
    problem = "missing" if value is None else f"{value!r:.60}"
    return ConfigError(f"{where}: field '{field}': {problem}; allowed: text (fields: {fields})")


def _is_texts(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(text, str) for text in value)
    )


def _read_labels(path: files.StrPath, name: str) -> tuple[str, ...]:
    directory = files.path(path).parent
    for place in (directory, directory.parent):
        file = place / f"{name}_labels.json"
        if files.is_file(file):
            labels = parse_json_text(files.read_text(file), str(file), "a JSON list of labels")
            if not _is_texts(labels):
                raise ConfigError(f"{file}: not a list of texts; allowed: a JSON list of labels")
            return tuple(labels)
    raise ConfigError(
        f"{path}: field 'meta.label_set': {name!r}; allowed: a set whose {name}_labels.json "
        "is next to the file or one directory above it"
    )


def bundled(name: str) -> str:
    """The path of a file, or directory, of the domain that is installed with the package."""
    return str(Path(bundled_domain.__file__).parent / name)
