"""What is asked of decoding: outputs to make, each from a prompt or from several that share it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from t5x_ext import bounds
from t5x_ext.data.records import Example
from t5x_ext.errors import ConfigError

WEIGHTS_TOLERANCE = 1e-3  # by which the sum of a request's weights may differ from 1
_WEIGHTS = "for each prompt a list of numbers from 0 that sum to 1"


@dataclasses.dataclass(frozen=True)
class LimitByKind:
    """Most tokens of an answer by the kind of its question, which is its example's category.

    The defaults are those of Kang et al. 2023's tasks.

    Attributes:
      default: most tokens of an answer, EOS included.
      long: likewise, of questions of `long_kinds`.
      long_kinds: what asks for more than a sentence or a list of names.
    """

    default: int = 128
    long: int = 256
    long_kinds: Sequence[str] = ("qa_long", "summarization")

    def __post_init__(self) -> None:
        bounds.check_int("LimitByKind.default", self.default, 1, bounds.MAX_TOKENS)
        bounds.check_int("LimitByKind.long", self.long, 1, bounds.MAX_TOKENS)
        kinds = self.long_kinds
        is_list = isinstance(kinds, list | tuple) and all(isinstance(kind, str) for kind in kinds)
        if not is_list:
            raise ConfigError(
                f"LimitByKind.long_kinds: {kinds!r:.60}; allowed: kinds in a list: ['qa_long']"
            )
        object.__setattr__(self, "long_kinds", tuple(kinds))

    def of(self, kind: str) -> int:
        """Most tokens, EOS included, of an answer to a question of this kind."""
        return self.long if kind in self.long_kinds else self.default

    def longest(self, most: int) -> int:
        """Most tokens of any answer, where decoding allows `most`."""
        return min(most, max(self.long, self.default))

    def of_example(self, example: Example, vocabulary: Any) -> int | None:
        """Most tokens of the answer to an example."""
        return self.of(example.category)


class OutputLimit(NamedTuple):
    """Most tokens of an output that rewrites a text: max(least, times * its tokens + plus).

    An edit is about as long as its source. Where a model repeats itself without end, this is where
    it is cut off.
    """

    least: int
    times: float
    plus: int

    def of(self, num_tokens: int) -> int:
        """Most tokens, EOS included, for a source of `num_tokens`."""
        return max(self.least, int(self.times * num_tokens) + self.plus)

    def longest(self, most: int) -> int:
        """Most tokens of any output, where decoding allows `most`."""
        return most

    def of_example(self, example: Example, vocabulary: Any) -> int | None:
        """Most tokens of the output for an example; None for one that rewrites no text."""
        if example.source is None:
            return None
        return self.of(len(vocabulary.encode(example.source)))


Limit = OutputLimit | LimitByKind


def make_limit(numbers: Sequence[float]) -> OutputLimit:
    """An output limit from its three numbers.

    Raises:
      ConfigError: the numbers do not make one.
    """
    if len(numbers) != 3:
        raise ConfigError(
            f"output_limit: {tuple(numbers)!r}; allowed: three numbers, such as (64, 2, 32)"
        )
    least, times, plus = numbers
    bounds.check_int("output_limit: least", least, 1, bounds.MAX_TOKENS)
    bounds.check_real("output_limit: times", times, 0, bounds.MAX_TOKENS)
    bounds.check_int("output_limit: plus", plus, 0, bounds.MAX_TOKENS)
    return OutputLimit(int(least), times, int(plus))


class Request(NamedTuple):
    """One output to make.

    Attributes:
      prompts: int32 tokens of each context; one where nothing is mixed.
      number: of the request among all; sampling depends on it.
      log_weights: natural logarithms of the contexts' weights, see `marginal`.
      adapters: index of the adapter that its prompts are read with: one, or the expert's and the
        amateur's; () where the model has none to choose from.
      limit: most tokens of the output, EOS included; None is as many as decoding allows at all.
      given: tokens at the end of each prompt that belong to an answer, which no other shares.
    """

    prompts: tuple[np.ndarray, ...]
    number: int
    log_weights: tuple[float, ...] = (0.0,)
    adapters: tuple[int, ...] = ()
    limit: int | None = None
    given: int = 0

    @classmethod
    def of(cls, example: Example, number: int, limit: int | None = None) -> Request:
        """A request to answer an example's prompt."""
        return cls((example.inputs,), number, limit=limit)


def make_requests(
    contexts: Sequence[Sequence[np.ndarray]],
    log_weights: Sequence[Sequence[float]],
    adapters: Sequence[tuple[int, ...]],
    numbers: Sequence[int] | None,
) -> list[Request]:
    """Requests of tokenised contexts; their place is their number where none is given.

    Contexts are sorted, so that the order in which they were given changes no bit of the result.

    Raises:
      ConfigError: there are not as many numbers.
    """
    if numbers is None:
        numbers = range(len(contexts))
    numbers = bounds.to_list("numbers", numbers, "a list of one for each prompt")
    if len(numbers) != len(contexts):
        raise ConfigError(
            f"numbers: {len(numbers)} for {len(contexts)} prompts; allowed: one for each"
        )
    found = []
    for group, weights, sides, number in zip(contexts, log_weights, adapters, numbers, strict=True):
        bounds.check_int("numbers", number, 0, 2**31 - 1)
        pairs = sorted(zip(weights, group, strict=True), key=lambda p: (-p[0], p[1].tolist()))
        ordered = tuple(prompt for _, prompt in pairs)
        found.append(Request(ordered, number, tuple(weight for weight, _ in pairs), sides))
    return found


def split_contexts(
    prompts: Iterable[Any], weights: Sequence[Sequence[float]] | None
) -> tuple[list[list[Any]], list[list[float]]]:
    """The contexts of each prompt, and the natural logarithms of their weights.

    Args:
      prompts: texts or rows of ids; with `weights`, a list of such prompts each.
      weights: of each list, probabilities that sum to 1. Contexts of weight 0 are left out.

    Raises:
      ConfigError: prompts or weights are no lists, or do not fit together.
    """
    prompts = bounds.to_list("prompts", prompts, "a list of prompts")
    if weights is None:
        for index, prompt in enumerate(prompts):
            if _is_group(prompt) and not isinstance(prompt[0], str):
                raise ConfigError(
                    f"prompts[{index}]: {len(prompt)} prompts without weights; allowed: one prompt,"
                    " or weights=[[...], ...] for several that share an output"
                )
        return [[prompt] for prompt in prompts], [[0.0]] * len(prompts)
    weights = bounds.to_list("weights", weights, _WEIGHTS)
    if len(weights) != len(prompts):
        raise ConfigError(
            f"weights: {len(weights)} for {len(prompts)} prompts; allowed: one for each"
        )
    contexts, log_weights = [], []
    for index, (group, of_group) in enumerate(zip(prompts, weights, strict=True)):
        values = _to_weights(f"weights[{index}]", of_group)
        if not _is_group(group) or len(group) != len(values):
            raise ConfigError(
                f"prompts[{index}]: not a list of {len(values)} prompts, as many as it has"
                " weights; allowed: that many, 1 and more"
            )
        total = sum(values)
        kept = [(p, math.log(w / total)) for p, w in zip(group, values, strict=True) if w > 0]
        contexts.append([prompt for prompt, _ in kept])
        log_weights.append([weight for _, weight in kept])
    return contexts, log_weights


def _to_weights(name: str, weights: Any) -> list[float]:
    """The weights of one prompt's contexts as numbers, which sum to 1."""
    listed = bounds.to_list(name, weights, _WEIGHTS)
    try:
        values = [math.nan if isinstance(w, str | bytes | bool) else float(w) for w in listed]
    except (TypeError, ValueError, OverflowError):
        values = []
    if not (abs(sum(values) - 1) <= WEIGHTS_TOLERANCE and min(values) >= 0):
        raise ConfigError(f"{name}: {values or listed}; allowed: {_WEIGHTS}")
    return values


def _is_group(prompt: Any) -> bool:
    """Whether it is a list of prompts, and not one prompt."""
    is_list = isinstance(prompt, Sequence) or (isinstance(prompt, np.ndarray) and prompt.ndim > 0)
    if isinstance(prompt, str) or not is_list or not len(prompt):
        return False
    return isinstance(prompt[0], str | Sequence | np.ndarray)
