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
_MODEL = "config.json"
_EOS = "eos_token_id"
# The config last: it makes the rest a tokenizer.
NAMES = (_SPECIAL, _ADDED, _GENERATION, TEMPLATE_FILE, CONFIG)


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """What these files say.

    Attributes:
        config: tokenizer_config.json, and what special_tokens_map.json adds to it.
        added: tokens that were added to the tokenizer: {id: (text, whether it is special)}.
        eos_ids: the ids that end a text, see `eos_ids_in`.
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
    return Neighbours(
        config,
        _added_tokens(directory, config),
        _stated_eos_ids(directory),
        read_template(directory, config),
    )


def read_files(directory: epath.Path) -> dict[str, bytes]:
    """The files themselves by name, in the order of `NAMES`: what to write to have them elsewhere.

    What config.json alone says, which is the model's, a generation_config.json says there.
    """
    present = [name for name in NAMES if files.is_file(directory / name)]
    contents = {name: files.read_bytes(directory / name) for name in present}
    generation = read_json(directory / _GENERATION)
    ids = _stated_eos_ids(directory)
    if ids and ids != eos_ids_in(generation):
        contents[_GENERATION] = (json.dumps(generation | {_EOS: [*ids]}) + "\n").encode()
    return {name: contents[name] for name in NAMES if name in contents}


def eos_ids_in(*configs: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids that end a text, by the first config that lists any; each once, in its order.

    Args:
        configs: generation_config.json and config.json as transformers writes them, in the order in
            which it asks them. `eos_token_id` is an id or a list of ids there.
    """
    for config in configs:
        listed = config.get(_EOS)
        ids = listed if isinstance(listed, list) else [listed]
        found = tuple(dict.fromkeys(i for i in ids if type(i) is int))
        if found:
            return found
    return ()


def _stated_eos_ids(directory: epath.Path) -> tuple[int, ...]:
    found = eos_ids_in(read_json(directory / _GENERATION))
    return found or eos_ids_in(read_json(directory / _MODEL))


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
