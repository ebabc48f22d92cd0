"""What a task of the suite is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mixtures.bundled.draws import Draw


@dataclass(frozen=True)
class Item:
    """One question with its answer, and what the example sections need.

    Attributes:
        input: The text of the question.
        output: The correct answer.
        why: Why it is correct (the explanation of a positive example).
        wrong: An answer that is wrong (the output of a negative example).
    """

    input: str
    output: str
    why: str
    wrong: str


Make = Callable[[Draw], Item]


@dataclass(frozen=True)
class TaskSpec:
    """A task: its metadata and a function that draws an item.

    Attributes:
        name: The name without its number, e.g. 'story_city_extraction'.
        category: A SuperNI category.
        definition: The instruction.
        make: Draws one item.
    """

    name: str
    category: str
    definition: str
    make: Make
