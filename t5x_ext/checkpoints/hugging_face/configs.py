"""config.json: reading it, and its fields with what is allowed in them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from etils import epath

from t5x_ext import files
from t5x_ext.errors import ConfigError

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"


def read_json(path: epath.Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ConfigError: If it is missing, malformed or no regular file.
    """
    try:
        files.refuse_endless(path)
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path.parent}: has no {path.name}") from None
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:  # also of bytes that are not UTF-8
        raise ConfigError(f"{path}: is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: is not a JSON object")
    return raw


def positive_int(raw: Mapping[str, Any], field: str, path: str, default: int | None = None) -> int:
    """A field that holds an integer > 0; `default` where it is absent or null."""
    value = default if raw.get(field) is None else raw[field]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{path}: {field} is {value!r}; allowed: an integer > 0")
    return value


def positive(raw: Mapping[str, Any], field: str, path: str, default: float | None = None) -> float:
    """A field that holds a finite number > 0; `default` where it is absent or null."""
    value = default if raw.get(field) is None else raw[field]
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 < value <= sys.float_info.max  # which integers in JSON may be beyond
    ):
        raise ConfigError(f"{path}: {field} is {value!r}; allowed: a number > 0")
    return float(value)


def require(raw: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]], path: str) -> None:
    """Refuses what our network does not compute.

    Args:
        raw: Fields.
        allowed: The values of a field that change nothing in our network; absence never does.
        path: Of the file, for messages.

    Raises:
        ConfigError: If a field has another value.
    """
    for field, values in allowed.items():
        if field in raw and not any(raw[field] == value for value in values):
            listed = ", ".join(map(repr, values))
            raise ConfigError(
                f"{path}: {field} is {raw[field]!r}, which is not supported; allowed: {listed}"
            )
