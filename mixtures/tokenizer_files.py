"""Files next to a tokenizer: which ids begin and end a text, and how a chat is written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from mixtures import files
from mixtures.chat_templates import TEMPLATE_FILE, ChatTemplate, read_template, token_text
from mixtures.errors import DataError

CONFIG = "tokenizer_config.json"
_SPECIAL = "special_tokens_map.json"
_ADDED = "added_tokens.json"
_GENERATION = "generation_config.json"
# The config last: it makes the rest a tokenizer.
NAMES = (_SPECIAL, _ADDED, _GENERATION, TEMPLATE_FILE, CONFIG)


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """What these files say.

    Attributes:
        config: tokenizer_config.json, and what special_tokens_map.json adds to it.
        added: tokens that were added to the tokenizer: {id: (text, whether it is special)}.
        eos_ids: the ids that end a text, by generation_config.json.
        template: how a chat is written; None if no file says.
    """

    config: Mapping[str, Any]
    added: Mapping[int, tuple[str, bool]]
    eos_ids: tuple[int, ...]
    template: ChatTemplate | None

    def token(self, name: str) -> str | None:
        """The text of a special token, such as 'bos_token'."""
        return token_text(self.config.get(name))


def read_neighbours(directory: epath.Path) -> Neighbours:
    """Reads the files that are there.

    Raises:
        DataError: one is not a JSON object, or does not say what it must.
    """
    config = read_json(directory / _SPECIAL) | read_json(directory / CONFIG)
    listed = read_json(directory / _GENERATION).get("eos_token_id")
    more = listed if isinstance(listed, list) else [listed]
    return Neighbours(
        config,
        _added_tokens(directory, config),
        tuple(dict.fromkeys(i for i in more if type(i) is int)),
        read_template(directory, config),
    )


def read_files(directory: epath.Path) -> dict[str, bytes]:
    """The files themselves by name: what to write to have them elsewhere."""
    present = [name for name in NAMES if files.is_file(directory / name)]
    return {name: files.read_bytes(directory / name) for name in present}


def read_json(path: epath.Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no file."""
    if not files.is_file(path):
        return {}
    try:
        return dict(json.loads(files.read_bytes(path)))
    except (ValueError, TypeError, RecursionError):
        raise DataError(f"vocabulary: {path} is not a JSON object") from None


def _added_tokens(directory: epath.Path, config: dict[str, Any]) -> dict[int, tuple[str, bool]]:
    """As tokenizer_config.json lists them, or added_tokens.json, as older versions do."""
    listed = config.get("added_tokens_decoder")
    try:
        if listed is not None:
            return {
                int(index): (str(token["content"]), bool(token.get("special", False)))
                for index, token in listed.items()
            }
        older = read_json(directory / _ADDED)
        return {int(index): (text, text in _texts(config)) for text, index in older.items()}
    except (ValueError, TypeError, LookupError, AttributeError):
        raise DataError(
            f"vocabulary: {directory}: the added tokens are not a table of ids and texts"
        ) from None


def _texts(config: dict[str, Any]) -> set[str]:
    """The texts of all tokens that a config names."""
    tokens = [*config.values(), *config.get("additional_special_tokens", ())]
    return {text for token in tokens if (text := token_text(token)) is not None}
