"""From a row to its prompt and target, in tokens."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from mixtures.joining import prompt_start, response_tokens
from mixtures.prompts import choose_reference, get_prompt
from mixtures.records import Row
from mixtures.truncation import fit


class Rendered(NamedTuple):
    """A row as a model sees it.

    Attributes:
        inputs: token ids of the prompt, cut to the room there is, EOS included where there is one.
        targets: token ids of the target, likewise.
        prompt: the prompt as text, shortened to fit.
        target: the target as text.
        truncated: whether the prompt did not fit whole.
        tokens_before: tokens of the whole prompt, EOS not counted.
        target_truncated: whether the target did not fit whole.
    """

    inputs: list[int]
    targets: list[int]
    prompt: str
    target: str
    truncated: bool
    tokens_before: int
    target_truncated: bool


class Renderer:
    """Writes rows with one prompt, and tokenizes them."""

    def __init__(
        self,
        inputs: Encoder,
        targets: Encoder,
        *,
        prompt: str,
        trim: str = "keep_question",
        seed: int = 0,
        joined: bool = False,
    ):
        """Looks the prompt up.

        Args:
            inputs: encodes prompts.
            targets: encodes targets.
            prompt: name of a registered prompt.
            trim: what long prompts lose, one of `mixtures.truncation.TRIMS`.
            seed: draws the reference that becomes the target (that of epoch 0), and the format
                where a prompt has several.
            joined: whether a decoder-only model reads both as one text; see `mixtures.joining`.

        Raises:
            DataError: no such prompt, or it needs what the vocabulary does not have.
        """
        self._prompt = get_prompt(prompt).for_vocabulary(inputs.vocabulary)
        if joined and not self._prompt.is_chat:
            inputs = inputs.starting_with(prompt_start(inputs.vocabulary))
        self._inputs, self._targets = inputs, targets
        self._trim, self._seed, self._joined = trim, seed, joined

    def __call__(self, row: Row) -> Rendered:
        """Renders one row."""
        self._inputs.forget()
        fitted = fit(
            row,
            lambda shown: self._prompt.render(shown, self._seed),
            self._inputs.room,
            self._inputs.count,
            self._trim,
        )
        target = choose_reference(row, self._seed, epoch=0)
        response = self._targets.tokens(target, fitted.text if self._joined else None)
        return Rendered(
            self._inputs.frame(self._inputs.tokens(fitted.text)),
            self._targets.frame(response),
            fitted.text,
            target,
            fitted.truncated,
            fitted.tokens_before,
            len(response) > self._targets.room,
        )


class Encoder:
    """Encodes one feature: what it starts with, its tokens, cut to the room there is, and EOS."""

    def __init__(
        self,
        vocabulary: Any,
        add_eos: bool = True,
        max_length: int | None = None,
        start: Sequence[int] = (),
    ):
        """Makes an encoder.

        Args:
            vocabulary: one of `mixtures.vocabularies` or of SeqIO's.
            add_eos: whether texts end in EOS, also where they had to be cut.
            max_length: tokens in all; None for no limit.
            start: token ids before every text.
        """
        self.vocabulary = vocabulary
        self._add_eos, self._max_length = add_eos, max_length
        self._start = list(start)
        self._end = [vocabulary.eos_id] if add_eos else []
        self._seen: dict[str, list[int]] = {}
        # Tokens besides start and EOS.
        frame = len(self._start) + len(self._end)
        self.room = sys.maxsize if max_length is None else max_length - frame

    def starting_with(self, start: Sequence[int]) -> Encoder:
        """The same with other ids before every text."""
        return Encoder(self.vocabulary, self._add_eos, self._max_length, start)

    def forget(self) -> None:
        """Drops the texts of the last row."""
        self._seen.clear()

    def count(self, text: str) -> int:
        """Tokens of `text` without EOS; kept, because the same text is mostly encoded next."""
        if text not in self._seen:
            self._seen[text] = list(self.vocabulary.encode(text))
        return len(self._seen[text])

    def tokens(self, text: str, behind: str | None = None) -> list[int]:
        """Tokens of the whole of `text`; of a response, where `behind` is its prompt."""
        if behind is not None:
            return response_tokens(self.vocabulary, behind, text)
        if text in self._seen:
            return self._seen[text]
        return list(self.vocabulary.encode(text))

    def frame(self, tokens: list[int]) -> list[int]:
        """The tokens of a text as the feature has them: cut to the room there is."""
        return self._start + tokens[: self.room] + self._end
