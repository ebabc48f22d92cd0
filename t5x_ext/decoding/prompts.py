"""Texts that callers give, as token ids."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mixtures.chat_templates import template_of
from t5x_ext import bounds
from t5x_ext.data.records import Example
from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel

_EMPTY = (
    "has no token, and the tokenizer adds none (a BOS or an end of sequence), so that the model "
    "has nothing to start from; allowed: 1 token or more"
)


def check_texts(name: str, given: Any) -> list[str]:
    """The texts of an argument, as a list.

    Raises:
      ConfigError: it is a single text, is not iterable, or holds something that is not valid text.
    """
    if not _is_list(given):
        raise ConfigError(f"Model: {name} is {type(given).__name__}; allowed: a list of texts")
    texts = list(given)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigError(
                f"Model: {name}[{index}] is {type(text).__name__}; allowed: a list of texts (calls "
                "named ..._tokens take token ids)"
            )
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ConfigError(
                f"Model: {name}[{index}] has half of a surrogate pair, which is not a character: "
                f"{text[:60]!r}; allowed: text that UTF-8 can hold"
            )
    return texts


def refuse_texts(name: str, prompts: Sequence[Any], in_groups: bool) -> None:
    """Refuses texts and chats where token ids are wanted.

    Args:
      name: of the argument, for the message.
      prompts: what was given.
      in_groups: whether each may be a list of prompts.

    Raises:
      ConfigError: there is one.
    """
    for index, prompt in enumerate(prompts):
        group = prompt if in_groups and isinstance(prompt, list | tuple) else ()
        for one in (prompt, *group):
            if isinstance(one, str | bytes) or is_chat(one):
                raise ConfigError(
                    f"{name}[{index}] is a {'chat' if is_chat(one) else 'text'}; allowed: rows of "
                    "token ids (`generate` takes texts and chats)"
                )


def check_prompts(vocabulary: Any, name: str, given: Any) -> list[str]:
    """The texts of prompts, chats written by the template of their vocabulary.

    Raises:
      ConfigError: as `check_texts`.
      mixtures.errors.DataError: there is no template, or it refuses a chat.
    """
    if not _is_list(given):
        return check_texts(name, given)
    prompts = list(given)
    if is_chat(prompts):
        raise ConfigError(
            f"Model: {name} is one chat; allowed: a list of texts or chats, here with brackets "
            "around it: [[{'role': 'user', ...}]]"
        )
    return check_texts(
        name,
        [template_of(vocabulary).render(each) if is_chat(each) else each for each in prompts],
    )


def _is_list(given: Any) -> bool:
    return isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)


def is_chat(prompt: Any) -> bool:
    """Whether a prompt is a list of messages."""
    return (
        isinstance(prompt, Sequence)
        and len(prompt) > 0
        and all(isinstance(message, Mapping) for message in prompt)
    )


def prompt_tokens(
    model: BaseTransformerModel, texts: Sequence[str], max_input_tokens: int | None, path: str
) -> list[np.ndarray]:
    """int32 tokens of prompts, each cut to `max_input_tokens`, with a warning; whole with None.

    Args:
      model: has the vocabulary.
      texts: prompts.
      max_input_tokens: longest prompt, end of sequence included.
      path: of the checkpoint, for the message.

    Raises:
      ConfigError: the model has no vocabulary, or a prompt no token.
    """
    if model.input_vocabulary is None:
        raise ConfigError(
            f"{path}: has no vocabulary; give Model.load vocabulary=..., a SentencePiece "
            "file, a directory with a tokenizer, or one of mixtures.vocabularies"
        )
    if max_input_tokens is not None:
        bounds.check_int("Model: max_input_tokens", max_input_tokens, 1, bounds.MAX_TOKENS)
    tokens = [model.features.prompt_tokens(model.input_vocabulary, text) for text in texts]
    lengths = [len(ids) for ids in tokens]
    if 0 in lengths:
        raise ConfigError(f"Model: prompt {lengths.index(0)} {_EMPTY}")
    if max_input_tokens is None:
        return tokens
    too_long = sum(length > max_input_tokens for length in lengths)
    if too_long:
        warnings.warn(
            f"{too_long} of {len(tokens)} prompts have more than max_input_tokens="
            f"{max_input_tokens} tokens (up to {max(lengths)}) and are cut at the end",
            stacklevel=_level_of_caller(),
        )
    return [_cut(ids, max_input_tokens, model.config.has_encoder) for ids in tokens]


def check_examples(examples: Iterable[Example]) -> None:
    """Refuses rows whose prompts have no token: nothing would be decoded, and nobody told.

    Raises:
      ConfigError: there is one.
    """
    for example in examples:
        if not len(example.inputs):
            raise ConfigError(f"{example.task}: the prompt of row {example.id} {_EMPTY}")


def _cut(ids: np.ndarray, limit: int, has_end: bool) -> np.ndarray:
    """The first `limit` ids; the last of them is the end of sequence, where prompts have one."""
    if len(ids) <= limit or not has_end:
        return ids[:limit]
    return np.concatenate([ids[: limit - 1], ids[-1:]])


def _level_of_caller() -> int:
    """The `stacklevel` at which a warning names the line that called this package."""
    level = 1
    while sys._getframe(level).f_globals.get("__name__", "").startswith("t5x_ext."):
        level += 1
    return level
