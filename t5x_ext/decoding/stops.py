"""Sequences that end an output wherever they appear in it, such as "\\n###".

Text falls into tokens in more than one way: "\\n###" may be spread over several, or begin inside
one (".\\n"). So each stop is an automaton over the characters that tokens stand for: its state is
how much of the stop the output ends with, and a table says for each state and token which comes
next. The decoding loop then looks one number up for each row and stop.

Letters used in shapes: N stops, M states, V ids.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext import bounds
from t5x_ext.decoding.token_ids import check_ids
from t5x_ext.errors import ConfigError

MAX_LENGTH = 256  # characters, or ids, of a stop

Stop = str | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Stops:
    """What ends an output besides its EOS.

    Attributes:
      sequences: texts, or ids as tuples.
      vocabulary: says what tokens stand for; not needed for ids.
      num_ids: V.
    """

    sequences: tuple[str | tuple[int, ...], ...]
    vocabulary: Any
    num_ids: int

    def __post_init__(self) -> None:
        for stop in self.sequences:
            if not 0 < len(stop) <= MAX_LENGTH:
                raise ConfigError(f"stop: {stop!r}; allowed: 1 to {MAX_LENGTH} characters or ids")
            if isinstance(stop, str) and self.vocabulary is None:
                raise ConfigError(
                    f"stop: {stop!r}, but there is no vocabulary; allowed: lists of ids"
                )

    @functools.cached_property
    def table(self) -> np.ndarray:
        """int16 [N, M, V], the state after a token; the last state is a stop that is complete."""
        num_states = max(len(stop) for stop in self.sequences) + 1
        tables = [self._table_of(stop, num_states) for stop in self.sequences]
        return np.stack(tables).astype(np.int16)

    def step(self, states: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Reads a token in every row.

        Args:
          states: int32 [..., N], 0 at first.
          tokens: int32 [...].

        Returns:
          The states after it, and bool [...], where a stop is complete.
        """
        number = jnp.arange(len(self.sequences))
        after = jnp.asarray(self.table)[number, states, tokens[..., None]].astype(jnp.int32)
        return after, jnp.any(after == self.table.shape[1] - 1, axis=-1)

    def end_of(self, tokens: np.ndarray) -> int | None:
        """How many of a row's tokens there are up to the first stop and with it; None: all."""
        number = np.arange(len(self.sequences))
        states: np.ndarray = np.zeros(len(number), np.int64)
        for count, token in enumerate(tokens.tolist(), start=1):
            states = self.table[number, states, token]
            if (states == self.table.shape[1] - 1).any():
                return count
        return None

    def cut_text(self, text: str) -> str:
        """The text before the first stop."""
        places = [text.find(stop) for stop in self.sequences if isinstance(stop, str)]
        return text[: min((place for place in places if place >= 0), default=len(text))]

    def cut_tokens(self, tokens: Sequence[int]) -> list[int]:
        """The tokens of a row that lie wholly before the stop that they end with."""
        kept = len(tokens)
        for stop in self.sequences:
            if not isinstance(stop, str):
                if tuple(tokens[-len(stop) :]) == stop:
                    kept = min(kept, len(tokens) - len(stop))
                continue
            texts = token_texts(self.vocabulary, self.num_ids)
            place = "".join(texts[token] for token in tokens).find(stop)
            if place >= 0:
                ends = np.cumsum([len(texts[token]) for token in tokens])
                kept = min(kept, int(np.sum(ends <= place)))
        return list(tokens[:kept])

    def _table_of(self, stop: str | tuple[int, ...], num_states: int) -> np.ndarray:
        symbols, steps = _automaton(stop)
        steps = np.pad(steps, ((0, num_states - len(steps)), (0, 0)))
        done = len(stop)
        steps[steps == done] = num_states - 1
        steps[[done, -1]] = num_states - 1
        start: np.ndarray = np.repeat(np.arange(num_states)[:, None], self.num_ids, axis=1)
        if not isinstance(stop, str):
            of_ids = np.zeros(self.num_ids, np.int64)
            for symbol, kind in symbols.items():
                of_ids[symbol] = kind
            return steps[start, of_ids]
        texts = token_texts(self.vocabulary, self.num_ids)
        # Character after character of all tokens at once; a token that has ended keeps its state.
        kinds: Any = np.full((self.num_ids, max(map(len, texts), default=0)), -1)
        for token, text in enumerate(texts):
            kinds[token, : len(text)] = [symbols.get(character, 0) for character in text]
        for column in kinds.T:
            reading = column >= 0
            start[:, reading] = steps[start[:, reading], column[reading]]
        return start


def check_stops(stop: Sequence[Stop] | None, vocabulary: Any, num_ids: int) -> Stops | None:
    """The stops of a call; None, like an empty list, is none.

    Raises:
      ConfigError: one is neither a text nor a list of ids, or empty.
    """
    if stop is None:
        return None
    sequences: list[str | tuple[int, ...]] = []
    for index, one in enumerate(bounds.to_list("stop", stop, "a list of texts or of lists of ids")):
        if isinstance(one, str):
            sequences.append(one)
        else:
            sequences.append(tuple(check_ids(f"stop[{index}]", one, num_ids).tolist()))
    return Stops(tuple(sequences), vocabulary, num_ids) if sequences else None


@functools.lru_cache(maxsize=4)
def token_texts(vocabulary: Any, num_ids: int) -> tuple[str, ...]:
    """What each id adds to a text that it stands inside of; '' for ids beyond the vocabulary."""
    before = vocabulary.encode("a")[:1]
    start = vocabulary.decode(before)
    known = min(num_ids, vocabulary.vocab_size)
    texts = (vocabulary.decode([*before, token]) for token in range(known))
    found = [text[len(start) :] if text.startswith(start) else "" for text in texts]
    return (*found, *[""] * (num_ids - known))


def _automaton(pattern: Sequence[Hashable]) -> tuple[dict[Any, int], np.ndarray]:
    """Knuth, Morris and Pratt's automaton of a pattern of m symbols.

    Returns:
      A number from 1 for each symbol, and int [m + 1, symbols + 1]: how much of the pattern is read
      after so much and a symbol; 0 is any other symbol.
    """
    symbols = {symbol: number for number, symbol in enumerate(dict.fromkeys(pattern), start=1)}
    steps = np.zeros((len(pattern) + 1, len(symbols) + 1), np.int64)
    fallback = 0  # how much of the pattern ends what was read, but for its first symbol
    for read, symbol in enumerate(pattern):
        steps[read] = steps[fallback]
        steps[read, symbols[symbol]] = read + 1
        if read:
            fallback = int(steps[fallback, symbols[symbol]])
    return symbols, steps
