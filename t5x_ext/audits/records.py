"""What an audit reads and what it finds, as records."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from mixtures.records import Row


@dataclass(frozen=True)
class TaskRows:
    """One task as a run reads it: its rows per split, and what its file says of it.

    Attributes:
        name: the task.
        category: its category.
        track: "train" or "test", the release list that names it; "" for one's own data.
        sources: data sets it was made from.
        render: writes a row as its whole prompt.
        train, validation, test: rows; parts may be empty.
        leaked: the split policy put test rows into train on purpose.
        is_rewriting: whether its inputs are texts to be rewritten (a `writing.*` set).
    """

    name: str
    category: str
    track: str
    sources: tuple[str, ...]
    render: Callable[[Row], str]
    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    leaked: bool = False
    is_rewriting: bool = False

    @functools.cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every row once; a leaking policy has the same rows in several splits."""
        return tuple({row.id: row for row in self.train + self.validation + self.test}.values())


@dataclass(frozen=True)
class Limit:
    """Feature lengths to try, in tokens: TASK_FEATURE_LENGTHS."""

    inputs: int
    targets: int

    @property
    def name(self) -> str:
        return f"{self.inputs}/{self.targets}"


@dataclass(frozen=True)
class Lengths:
    """Tokens over the rows of a task."""

    mean: float
    p50: float
    p95: float
    max: int


@dataclass(frozen=True)
class Cut:
    """Rows that do not fit one limit.

    Attributes:
        limit: "inputs/targets" in tokens.
        prompts: rows whose whole prompt is too long.
        questions: rows too long even without definition and examples, so that text of the
            question itself is lost; under trim "right" every one of `prompts` loses some.
        targets: rows with a reference that is too long.
    """

    limit: str
    prompts: int
    questions: int
    targets: int


@dataclass(frozen=True)
class LabelShare:
    """The most frequent target of either split and its share (0 to 1) of both.

    A share is None if the task has no such rows.
    """

    label: str
    train: float | None
    test: float | None

    @property
    def gap(self) -> float:
        """How far the shares are apart; 0 if there is one split only."""
        return 0.0 if self.train is None or self.test is None else abs(self.train - self.test)


@dataclass(frozen=True)
class TaskAudit:
    """Every measure of one task; numbers of rows unless the name says otherwise.

    Attributes:
        duplicates, near_duplicates: test rows whose input is also in the task's train part, to the
            letter, and regardless of case and punctuation (which includes the former).
        unknown_prompts, unknown_targets: rows with a piece that the vocabulary does not have.
        unknown_characters: characters that cause it, most frequent first.
        rewritten_prompts, rewritten_targets: rows with a character that the vocabulary writes
            otherwise: it reads "½" as "1⁄2" and a no-break space as a space.
        rewritten_characters: those characters, most frequent first.
        repeated_inputs: test rows whose input another test row before them has.
        is_rewriting: see `TaskRows`.
        lost_space_inputs, lost_space_targets: rows whose question or reference holds white space
            that does not survive the vocabulary.
    """

    name: str
    category: str
    track: str
    rows: int
    train: int
    validation: int
    test: int
    leaked: bool
    prompt: Lengths
    target: Lengths
    cuts: tuple[Cut, ...]
    label: LabelShare
    duplicates: int
    near_duplicates: int
    unknown_prompts: int
    unknown_targets: int
    unknown_characters: str
    rewritten_prompts: int
    rewritten_targets: int
    rewritten_characters: str
    lost_space_inputs: int
    lost_space_targets: int
    repeated_inputs: int = 0
    is_rewriting: bool = False


@dataclass(frozen=True)
class SharedInputs:
    """Two or more tasks that ask about the same inputs, case and punctuation aside.

    An input counts once, for all the tasks that have it: what two tasks share with a third is told
    apart from what they share alone. A count per pair would grow with the square of the tasks.

    Attributes:
        tasks: their names, the audited ones first.
        inputs: distinct inputs that all of these tasks have, and no other task.
        tested_and_trained: how many of these are a test row of one and a train row of another, one
            of the two audited.
        validated_and_trained: the same of validation rows.
        tested_together: how many are test rows of several, one of them audited.
        is_rewriting: whether all of these tasks rewrite texts.
    """

    tasks: tuple[str, ...]
    inputs: int
    tested_and_trained: int
    validated_and_trained: int = 0
    tested_together: int = 0
    is_rewriting: bool = False


@dataclass(frozen=True)
class SharedSource:
    """A data set from which both train-track and test-track tasks were made."""

    source: str
    train_tasks: tuple[str, ...]
    test_tasks: tuple[str, ...]
