"""Chat templates: how a model that was tuned on conversations has them written.

A template is a Jinja program in tokenizer_config.json, chat_template.jinja or a GGUF file. It comes
with the weights, so it runs in Jinja's sandbox. It sees what Transformers shows it, but for
`strftime_now`: prompts do not change from day to day (templates that put the date into them test
for it, and have a fixed date besides).
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from mixtures import files
from mixtures.errors import DataError

TEMPLATE_FILE = "chat_template.jinja"

_FIELD = "chat_template"
_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")

Message = Mapping[str, Any]


class ChatText(str):
    """Text that a chat template wrote.

    It has its own beginning, a BOS where the model is used to one, so that tokenizers put none
    before it.
    """


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A template.

    Attributes:
        source: the Jinja program.
        tokens: special tokens by the names that it knows them by, such as bos_token.
        where: the file it is from, for messages.
    """

    source: str
    tokens: tuple[tuple[str, str], ...]
    where: str = dataclasses.field(compare=False, repr=False)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> ChatText:
        """Writes a conversation.

        Args:
            messages: each with `role` ('system', 'user' or 'assistant') and `content`, a text.
            add_generation_prompt: end where the answer begins.

        Raises:
            DataError: a message has no role or content, or the template refuses the conversation
                or cannot be run.
        """
        for index, message in enumerate(messages):
            for field in ("role", "content"):
                if not isinstance(message.get(field), str):
                    raise DataError(
                        f"chat: message {index}: {field} {message.get(field)!r:.60}; allowed: a "
                        "string"
                    )
        given = {
            "messages": [dict(message) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return ChatText(_compile(self.source).render(given | dict(self.tokens)))
        except Exception as error:  # what runs is not ours, and may fail in any way
            line = getattr(error, "lineno", None)
            place = f"line {line}: " if line else ""
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{self.where}: chat template: {place}{reason}") from None


def read_template(directory: epath.Path, config: Mapping[str, Any]) -> ChatTemplate | None:
    """The template of a directory; None if there is none.

    Args:
        directory: with a tokenizer.
        config: its tokenizer_config.json, and what special_tokens_map.json adds.

    Raises:
        DataError: the field of tokenizer_config.json is not a template.
    """
    file = directory / TEMPLATE_FILE
    source: Any
    if files.is_file(file):
        source, where = files.read_bytes(file).decode("utf-8", "replace"), str(file)
    else:
        where = str(directory / "tokenizer_config.json")
        source = config.get(_FIELD)
        is_list = isinstance(source, list) and all(isinstance(each, dict) for each in source)
        if is_list:  # of several, by name
            named = {each.get("name"): each.get("template") for each in source}
            source = named.get("default")
        if source is None:
            return None
        if not isinstance(source, str):
            raise DataError(f"{where}: {_FIELD}: {source!r:.60}; allowed: a Jinja template")
    tokens = ((name, token_text(config.get(name))) for name in _TOKENS)
    known = tuple((name, text) for name, text in tokens if text is not None)
    return ChatTemplate(source, known, where)


def token_text(token: Any) -> str | None:
    """A special token's text; configs hold it as it is, or in an object with its properties."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def template_of(vocabulary: Any) -> ChatTemplate:
    """The template that came with a vocabulary.

    Raises:
        DataError: none did.
    """
    found: ChatTemplate | None = getattr(vocabulary, _FIELD, None)
    if found is None:
        path = getattr(vocabulary, "path", None)
        whose = f"{path}: this vocabulary" if path else "the vocabulary"
        raise DataError(
            f"chat: {whose} has no chat template; allowed: one with {TEMPLATE_FILE} next to it, or "
            f"{_FIELD} in its tokenizer_config.json"
        )
    return found


@functools.lru_cache(maxsize=8)
def _compile(source: str) -> Any:
    import jinja2
    import jinja2.ext
    from jinja2 import nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """{% generation %} marks what an assistant said; the text is as without."""

        tags = {"generation"}

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def raise_exception(message: object) -> None:
        raise jinja2.TemplateError(str(message))

    def to_json(value: Any, **settings: Any) -> str:
        # Jinja's own writes HTML's characters as escapes.
        return json.dumps(value, **({"ensure_ascii": False} | settings))

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(source)
