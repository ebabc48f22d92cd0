"""Tokens of a prompt and a response that a decoder-only model reads as one text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mixtures.chat_templates import ChatText


def prompt_start(vocabulary: Any, prompt: str = "") -> list[int]:
    """What stands before a prompt: the BOS, where the tokenizer puts one (some only have one)."""
    if isinstance(prompt, ChatText):
        return []
    return list(getattr(vocabulary, "prefix_ids", ()))


def response_tokens(vocabulary: Any, prompt: str, response: str) -> list[int]:
    """The tokens of a response behind its prompt, EOS not included.

    The text is tokenised whole: some tokenizers put a space before every text they are given, which
    the response has not. Where a token would reach across the border, the response is tokenised by
    itself, since the prompt alone is what the model is given to answer.

    Args:
        vocabulary: of both.
        prompt: the prompt as text.
        response: the response as text.
    """
    alone: Sequence[int] = vocabulary.encode(prompt)
    whole: Sequence[int] = vocabulary.encode(prompt + response)
    if list(whole[: len(alone)]) == list(alone):
        return list(whole[len(alone) :])
    return list(vocabulary.encode(response))
