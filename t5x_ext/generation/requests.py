"""What generation asks of a model: completions of prompts.

The stages know no model but this. A completion must be a pure function of its request: neither the
batch nor the order of requests may change it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from t5x_ext.generation.parsing import cut_at_stop


class CompletionRequest(NamedTuple):
    """One completion that is wanted.

    Attributes:
        contexts: prompts that share the completion, one for each passage; else a single one.
        log_weights: of the contexts; see `retrieval.log_weights`.
        seed: of the run's draws.
        number: of the request; draws are a pure function of (seed, number).
        max_new_tokens: the most tokens of the completion, end of sequence included.
        stops: texts before which a completion ends.
    """

    contexts: tuple[str, ...]
    log_weights: tuple[float, ...]
    seed: int
    number: int
    max_new_tokens: int
    stops: tuple[str, ...]


class Completion(NamedTuple):
    """What the model wrote.

    Attributes:
        text: without the end of sequence.
        finish: 'eos', or 'length' where `max_new_tokens` ended it.
        log_prob: natural logarithm of its probability, where the model tells it.
    """

    text: str
    finish: str
    log_prob: float | None = None


@dataclasses.dataclass(frozen=True)
class TextModel:
    """A model and how it decodes.

    Attributes:
        complete: answers requests with (place in the sequence, completion) pairs, in any order.
        count_tokens: of a prompt, whatever the model adds to it included.
        max_tokens: of a prompt and its completion together.
        model: identifies the weights, as a hash.
        method: says how tokens are chosen, such as 'greedy'.
    """

    complete: Callable[[Sequence[CompletionRequest]], Iterable[tuple[int, Completion]]]
    count_tokens: Callable[[str], int]
    max_tokens: int
    model: str
    method: str


def completions(
    text_model: TextModel, requests: Sequence[CompletionRequest]
) -> Iterator[Completion]:
    """Completions in the order of their requests, as soon as all before them are there.

    Each ends before its first stop text; its `finish` is then 'stop'.
    """
    early: dict[int, Completion] = {}
    following = 0
    for place, completion in text_model.complete(requests):
        early[place] = completion
        while following in early:
            yield _ended(early.pop(following), requests[following].stops)
            following += 1
    if following < len(requests):
        raise ValueError(f"{len(requests)} requests, but no completion of request {following}")


def _ended(completion: Completion, stops: tuple[str, ...]) -> Completion:
    text, stopped = cut_at_stop(completion.text, stops)
    return completion._replace(text=text, finish="stop") if stopped else completion


def single(prompt: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Contexts and log weights of a prompt alone."""
    return (prompt,), (math.log(1.0),)
