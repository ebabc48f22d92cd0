"""The files of a domain: seeds, and rows of evaluation sets.

Each is one JSON object a line. Everything in a file is checked when it is read: one wrong line is
one error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixtures import files
from mixtures.errors import DataError, quoted
from mixtures.files import StrPath
from mixtures.jsonl import check_text, is_texts, read_objects, wrong_field
from mixtures.records import Row, parse_json_text, read_utf8

_SEED_FIELDS = "instruction, input, output, and optionally id, domain, task, kind"
_EVALUATION_FIELDS = "id, instruction, input, references, and optionally task, kind, split, meta"
_MAY_BE_BLANK = ("domain", "kind", "input")


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


def read_seeds(path: StrPath) -> list[Seed]:
    """Reads a file of seeds.

    Raises:
        DataError: the file cannot be read or holds none, a line is wrong (a seed without output
            among them), or an id is used twice.
    """
    allowed = f"one object per line with {_SEED_FIELDS}"
    found: dict[str, Seed] = {}
    for number, (where, fields) in enumerate(read_objects(path, allowed)):
        optional = {"id": f"seed-{number}", "domain": "", "task": "", "kind": ""}
        seed = Seed(
            **{
                name: _text(where, name, fields.get(name, optional.get(name)), name == "task")
                for name in ("id", "domain", "task", "kind", "instruction", "input", "output")
            }
        )
        _add(found, path, seed)
    if not found:
        raise DataError(f"{path}: holds no row; allowed: {allowed}")
    return list(found.values())


def read_evaluation(path: StrPath, split: str, task: str | None = None) -> list[Row]:
    """Reads one split of a file of evaluation rows; a row that names no split is a test row.

    A row's category is its `kind`. The labels of a closed set are in a row's `meta.labels`, or
    `meta.label_set` names them: then `<label_set>_labels.json`, a list, is next to the file or in
    the directory above it.

    Args:
        path: a JSONL file.
        split: rows of other splits are left out.
        task: of all rows; None is what each says, or else the file's name.

    Raises:
        DataError: the file cannot be read or holds no row, or a line is wrong.
    """
    file = files.path(path, "evaluation")
    allowed = f"one object per line with {_EVALUATION_FIELDS}"
    label_sets: dict[str, tuple[str, ...]] = {}
    found: dict[str, Row] = {}
    is_empty = True
    for where, fields in read_objects(file, allowed):
        is_empty = False
        if _text(where, "split", fields.get("split", "test")) != split:
            continue
        references = fields.get("references")
        if not is_texts(references) or not references:
            raise wrong_field(where, "references", references, "a list of one or more texts")
        row = Row(
            task=task or _text(where, "task", fields.get("task", file.stem)),
            category=_text(where, "kind", fields.get("kind", "")),
            id=_text(where, "id", fields.get("id")),
            definition=_text(where, "instruction", fields.get("instruction")),
            input=_text(where, "input", fields.get("input")),
            references=tuple(references),
            labels=_labels(path, where, fields.get("meta"), label_sets),
        )
        _add(found, path, row)
    if is_empty:
        raise DataError(f"{path}: holds no row; allowed: {allowed}")
    return list(found.values())


def _text(where: str, name: str, value: Any, may_be_blank: bool = False) -> str:
    return check_text(where, name, value, may_be_blank or name in _MAY_BE_BLANK)


def _add(found: dict[str, Any], path: StrPath, record: Any) -> None:
    if record.id in found:
        raise DataError(f"{path}: id {quoted(record.id)} occurs twice; allowed: an id used once")
    found[record.id] = record


def _labels(
    path: StrPath, where: str, meta: Any, label_sets: dict[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """The labels that a row's `meta` states; `label_sets` are those read so far, by name."""
    if not isinstance(meta, Mapping):
        return ()
    if "label_set" in meta:
        name = str(meta["label_set"])
        if name not in label_sets:
            label_sets[name] = _read_labels(path, name)
        return label_sets[name]
    labels = meta.get("labels", ())
    if not is_texts(labels):
        raise wrong_field(where, "meta.labels", labels, "a list of texts")
    return tuple(labels)


def _read_labels(path: StrPath, name: str) -> tuple[str, ...]:
    directory = files.path(path).parent
    for place in (directory, directory.parent):
        file = place / f"{name}_labels.json"
        if files.is_file(file):
            labels = parse_json_text(read_utf8(file), str(file), "a JSON list of labels")
            if not is_texts(labels):
                raise DataError(f"{file}: not a list of texts; allowed: a JSON list of labels")
            return tuple(labels)
    raise DataError(
        f"{path}: field 'meta.label_set': {name!r}; allowed: a set whose {name}_labels.json "
        "is next to the file or one directory above it"
    )
