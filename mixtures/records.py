"""Task files of the natural-instructions release, read into frozen, checked records.

A task file is one JSON object whose values are lists. Every text is kept as it stands in the file,
carriage returns and NUL characters included.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from mixtures import files
from mixtures.errors import DataError, quoted
from mixtures.files import StrPath

T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """A worked example that belongs to a task's instruction.

    The explanation may be empty, as many are in the release. None means that truncation took it
    away; prompts then leave its line out.
    """

    input: str
    output: str
    explanation: str | None = ""


@dataclass(frozen=True)
class Instance:
    """One question of a task and every accepted answer (at least one)."""

    id: str
    input: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class TaskRecord:
    """One task file; `name` is the file's stem and `category` is `categories[0]`."""

    name: str
    category: str
    categories: tuple[str, ...]
    sources: tuple[str, ...]
    domains: tuple[str, ...]
    definition: str
    positive_examples: tuple[Example, ...]
    negative_examples: tuple[Example, ...]
    instances: tuple[Instance, ...]
    input_language: tuple[str, ...]
    output_language: tuple[str, ...]
    licenses: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """What a prompt sees of one instance: the instance and its task's instruction.

    `source`, `edits`, `targets` and `document` are for tasks whose input is to be rewritten, and
    empty elsewhere.

    Attributes:
        source: the input as its data set has it, tokens separated by spaces if they are in the
            references.
        edits: gold edits as JSON, {annotator: [[start, end, [correction, ...], type], ...]}.
        targets: what a model is trained to write where that differs from the references: natural
            text where those are tokens.
        document: which one the input is from, where its data set says so.
        labels: the answers there are, for a question with a closed set of them; else empty.
    """

    task: str
    category: str
    id: str
    definition: str
    input: str
    references: tuple[str, ...]
    positive_examples: tuple[Example, ...] = ()
    negative_examples: tuple[Example, ...] = ()
    source: str = ""
    edits: str = ""
    targets: tuple[str, ...] = ()
    document: str = ""
    labels: tuple[str, ...] = ()


def rows(record: TaskRecord, instances: Iterable[Instance]) -> list[Row]:
    """Joins instances of `record` with its instruction, in the order given."""
    return [
        Row(
            task=record.name,
            category=record.category,
            id=instance.id,
            definition=record.definition,
            input=instance.input,
            references=instance.references,
            positive_examples=record.positive_examples,
            negative_examples=record.negative_examples,
        )
        for instance in instances
    ]


def read_task(path: StrPath) -> TaskRecord:
    """Reads and checks one task file.

    Args:
        path: a JSON file with the release's keys. `Categories`, `Definition`, `Positive Examples`,
            `Negative Examples` and `Instances` are needed (the example lists may be empty); the
            other keys may be absent. Where `Definition` lists several texts the first is used, as
            Tk-Instruct does.

    Raises:
        DataError: the file cannot be read or is not a UTF-8 JSON object; a field is missing, empty,
            repeated or of a wrong type; or two instances share an id.
    """
    file = files.path(path, "task file")
    fields = _Fields(file, _read_json_object(file))
    categories = fields.texts("Categories", at_least=1)
    return TaskRecord(
        name=file.stem,
        category=categories[0],
        categories=categories,
        sources=fields.texts("Source", optional=True),
        domains=fields.texts("Domains", optional=True),
        definition=fields.texts("Definition", at_least=1)[0],
        positive_examples=fields.items("Positive Examples", _read_example),
        negative_examples=fields.items("Negative Examples", _read_negative_example),
        instances=_read_instances(fields),
        input_language=fields.texts("Input_language", optional=True),
        output_language=fields.texts("Output_language", optional=True),
        licenses=fields.texts("Instance License", optional=True),
    )


def read_split_list(path: StrPath) -> list[str]:
    """Reads a list of task names, one on a line; blank lines are skipped.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or names a task twice.
    """
    path = files.path(path, "split list")
    names: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(read_utf8(path).splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        if name in seen:
            raise DataError(
                f"{path}: line {number}: {quoted(name)} is also on line {seen[name]}; "
                "allowed: each task once"
            )
        seen[name] = number
        names.append(name)
    return names


def read_utf8(path: StrPath) -> str:
    """The text of a file as it stands there, line ends included; a byte order mark is dropped.

    Raises:
        DataError: the file cannot be read or is not UTF-8.
    """
    try:
        # Bytes, because text mode would turn carriage returns into line feeds.
        return files.read_bytes(path).decode("utf-8-sig")
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise _not_utf8(str(path), error) from None


def numbered_lines(path: StrPath) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers from 1, without their ends, as they are asked for.

    Raises:
        DataError: the file cannot be read or a line is not UTF-8.
    """
    number = 0
    try:
        for number, line in enumerate(files.read_lines(path), start=1):
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n")
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise _not_utf8(f"{path}: line {number}", error) from None


def _unreadable(path: StrPath, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror}); allowed: a readable file")


def _not_utf8(where: str, error: UnicodeDecodeError) -> DataError:
    return DataError(f"{where}: not UTF-8 at byte {error.start}; allowed: UTF-8 text")


def parse_json(text: str, where: str, allowed: str) -> Any:
    """Parses JSON in which no object has a key twice.

    Python takes the last of them and loses the others without a word.

    Args:
        text: the JSON.
        where: file, or file and line, for the message.
        allowed: what should be there, for the message.

    Raises:
        DataError: it is not JSON, or a key is repeated.
    """

    def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            (key, count), *_ = Counter(key for key, _ in pairs).most_common(1)
            raise DataError(
                f"{where}: key {quoted(key)} occurs {count} times in one object; "
                "allowed: each key once"
            )
        return found

    try:
        return json.loads(text, object_pairs_hook=make_object)
    except DataError:
        raise
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} " if "\n" in text else ""  # else `where` has it
        why = f"{error.msg}: {line}column {error.colno}"
    except (ValueError, RecursionError) as error:
        why = str(error)
    raise DataError(f"{where}: not JSON ({why}); allowed: {allowed}")


def parse_json_text(text: str, where: str, allowed: str) -> Any:
    """As `parse_json`, for JSON all of whose texts are tokenised or written to a file.

    Raises:
        DataError: see `parse_json`; or a text has half of a surrogate pair, which JSON can escape.
    """
    value = parse_json(text, where, allowed)
    if "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])
            raise DataError(
                f"{where}: {half} is half of a surrogate pair; allowed: text that UTF-8 can encode"
            ) from None
    return value


class _Fields:
    """One JSON object of a task file; its readers name file and field when they fail."""

    def __init__(self, path: StrPath, values: dict[str, Any], where: str = ""):
        self._path = path
        self._values = values
        self._where = where

    def error(self, key: str, problem: str, allowed: str) -> DataError:
        """The error to raise about the field `key`."""
        field = f"{self._where}.{key}" if self._where else key
        return DataError(f"{self._path}: field '{field}': {problem}; allowed: {allowed}")

    def text(self, key: str, blank: bool = False) -> str:
        """A string, not blank unless `blank`."""
        allowed = "a string" if blank else "a string that is not blank"
        if key not in self._values:
            raise self.error(key, "missing", allowed)
        return self._check_text(key, self._values[key], allowed, blank)

    def texts(self, key: str, at_least: int = 0, optional: bool = False) -> tuple[str, ...]:
        """A list of strings that are not blank; an absent one is empty if `optional`."""
        if optional and key not in self._values:
            return ()
        allowed = f"a list of {at_least} or more strings that are not blank"
        return tuple(
            self._check_text(f"{key}[{index}]", value, "a string that is not blank", blank=False)
            for index, value in enumerate(self._list(key, at_least, allowed))
        )

    def items(self, key: str, read: Callable[[_Fields], T], at_least: int = 0) -> tuple[T, ...]:
        """A list of objects, each read by `read`."""
        items = []
        for index, value in enumerate(self._list(key, at_least, "a list of objects")):
            name = f"{key}[{index}]"
            if not isinstance(value, dict):
                raise self.error(name, f"is {_json_type(value)}", "an object")
            items.append(read(_Fields(self._path, value, name)))
        return tuple(items)

    def _list(self, key: str, at_least: int, allowed: str) -> list[Any]:
        if key not in self._values:
            raise self.error(key, "missing", allowed)
        value = self._values[key]
        if not isinstance(value, list):
            raise self.error(key, f"is {_json_type(value)}", allowed)
        if len(value) < at_least:
            raise self.error(key, "empty list", allowed)
        return value

    def _check_text(self, field: str, value: Any, allowed: str, blank: bool) -> str:
        if not isinstance(value, str):
            raise self.error(field, f"is {_json_type(value)}", allowed)
        if not blank and not value.strip():
            raise self.error(field, "blank", allowed)
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            # JSON can escape half of a surrogate pair; no tokenizer or TFRecord can hold it.
            problem = f"half of a surrogate pair at character {error.start}"
            raise self.error(field, problem, "text that UTF-8 can encode") from None
        return value


def _read_instances(fields: _Fields) -> tuple[Instance, ...]:
    instances = fields.items("Instances", _read_instance, at_least=1)
    first_index: dict[str, int] = {}
    for index, instance in enumerate(instances):
        earlier = first_index.setdefault(instance.id, index)
        if earlier != index:
            problem = f"{quoted(instance.id)} is also the id of Instances[{earlier}]"
            raise fields.error(f"Instances[{index}].id", problem, "an id used once")
    return instances


def _read_instance(fields: _Fields) -> Instance:
    return Instance(
        id=fields.text("id"),
        input=fields.text("input"),
        references=fields.texts("output", at_least=1),
    )


def _read_example(fields: _Fields) -> Example:
    return Example(
        input=fields.text("input"),
        output=fields.text("output"),
        explanation=fields.text("explanation", blank=True),
    )


def _read_negative_example(fields: _Fields) -> Example:
    # The release holds negative examples whose wrong answer is to say nothing.
    return Example(
        input=fields.text("input"),
        output=fields.text("output", blank=True),
        explanation=fields.text("explanation", blank=True),
    )


def _read_json_object(path: StrPath) -> dict[str, Any]:
    value = parse_json(read_utf8(path), str(path), "one JSON object")
    if not isinstance(value, dict):
        raise DataError(f"{path}: the file is {_json_type(value)}; allowed: one JSON object")
    return value


def _json_type(value: Any) -> str:
    """The JSON word for a decoded value, with its article."""
    words = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    return words.get(type(value), "a number")
