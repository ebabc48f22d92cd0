"""JSON objects whose fields are checked as they are taken: a study's files may be edited by hand.

An error names the file, the field, what is there and what is allowed. Text comes with control
characters escaped, because labels end up in pages, pictures and terminals.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from etils import epath

from t5x_ext import files
from t5x_ext.errors import ConfigError, printable

_JSON_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


class Fields:
    """One JSON object of a file.

    Attributes:
        path: the file.
        values: the object as it was read.
    """

    def __init__(self, path: epath.Path, values: Any = None, prefix: str = ""):
        """Takes an object that stands at `prefix` of a file, or reads the file."""
        self.path = path
        self._prefix = prefix
        self.values = self._load() if values is None and not prefix else values
        if not isinstance(self.values, dict):
            where = f"{path}: field '{prefix[:-1]}'" if prefix else str(path)
            raise ConfigError(f"{where}: not a JSON object")

    def _load(self) -> Any:
        text = files.read_text(self.path)
        try:
            return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{self.path}: cannot be read as JSON ({error})") from None

    def error(self, name: str, allowed: str) -> ConfigError:
        """The error for the value of a field."""
        found = json.dumps(self.values[name])[:60] if name in self.values else "missing"
        field = f"{self._prefix}{name}"
        return ConfigError(f"{self.path}: field '{field}': {found}; allowed: {allowed}")

    def get(self, name: str, kind: type, *default: Any) -> Any:
        """The field's value; the default (if one is given) where the field is absent."""
        if name not in self.values and default:
            return default[0]
        # bool is an int to Python, never to a reader of JSON.
        if type(self.values.get(name)) is not kind:
            raise self.error(name, _JSON_NAMES[kind])
        return self.values[name]

    def text(self, name: str, *default: str) -> str:
        """A string, control characters escaped."""
        return printable(self.get(name, str, *default))

    def integer(self, name: str, *default: int, low: int = 0) -> int:
        """An integer of `low` to 2^63 - 1."""
        value = self.get(name, int, *default)
        if not low <= value < 1 << 63:
            raise self.error(name, f"an integer, {low} and more")
        return value

    def number(self, name: str, *default: float, high: float = math.inf) -> float:
        """A finite number of 0 to `high`."""
        if name not in self.values and default:
            return default[0]
        value = self.values.get(name)
        if type(value) not in (int, float) or not 0 <= value <= high or not _is_finite(value):
            limit = "and more" if high == math.inf else f"to {high:g}"
            raise self.error(name, f"a number, 0 {limit}")
        return value

    def texts(self, name: str, *default: Sequence[str]) -> tuple[str, ...]:
        """A list of different strings, control characters escaped."""
        values = self.get(name, list, *default)
        if not all(type(value) is str for value in values) or len(set(values)) < len(values):
            raise self.error(name, "a list of different strings")
        return tuple(map(printable, values))

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of different integers, at least one."""
        values = self.get(name, list)
        if (
            not values
            or not all(type(value) is int and abs(value) < 1 << 63 for value in values)
            or len(set(values)) < len(values)
        ):
            raise self.error(name, "a list of different integers, at least one")
        return tuple(values)

    def counts(self, name: str, *default: dict[str, int]) -> dict[str, int]:
        """An object of integers, 0 and more each."""
        values = self.inner(name, *default)
        return {printable(key): values.integer(key) for key in values.values}

    def inner(self, name: str, *default: dict) -> Fields:
        """The object in field `name`."""
        return Fields(self.path, self.get(name, dict, *default), f"{self._prefix}{name}.")

    def objects(self, name: str) -> list[Fields]:
        """The objects in the list in field `name`, at least one."""
        items = self.get(name, list)
        if not items:
            raise self.error(name, "a list of objects, at least one")
        return [Fields(self.path, v, f"{self._prefix}{name}[{i}].") for i, v in enumerate(items)]


def refuse_repeated(fields: Iterable[Fields], name: str, key: Callable[[Fields], str]) -> None:
    """Raises ConfigError where two objects of a list have the same name."""
    seen: set[str] = set()
    for each in fields:
        if key(each) in seen:
            raise each.error(name, "another name for each")
        seen.add(key(each))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} occurs twice in an object")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False
