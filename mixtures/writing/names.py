"""The grammar of SeqIO names: `writing[.<prompt>].<part>[.<budget>]`, or `.w<number>` in its place.

    writing.jfleg                                  one set; its splits are those of its files
    writing.jfleg.w2                               under the second of other instructions
    writing.simplification.n1000                   one task: 1,000 rows of its training sets
    writing.train.1000                             1,000 rows of each trained task
    writing.mixed                                  generic and writing rows, in the paper's numbers
    writing.mixed.generic_5000.fluency_500         the same with numbers you choose
    writing.alpaca.mixed.generic_500.jfleg:validation_700

In a mixture each part is a task or a set, of which the train split is taken unless another is
named, with an absolute number of rows. The prompt is `alpaca_lora` unless the name has another.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mixtures.budgets import parse_budget
from mixtures.errors import DataError, hint, quoted
from mixtures.names import check_only_one
from mixtures.prompts import PROMPTS, get_prompt
from mixtures.writing.sets import GENERIC, SETS, SPLITS, TASKS, TRAINED
from mixtures.writing.wordings import WORDINGS

PREFIX = "writing."
DEFAULT_PROMPT = "alpaca_lora"
TRAIN = "train"
MIXED = "mixed"

_GRAMMAR = (
    f"{PREFIX}<set or task>, with .<budget> or .w<number> (a wording) at its end, "
    f"{PREFIX}{TRAIN}.<count> or {PREFIX}{MIXED}.<part>_<count>..."
)


@dataclass(frozen=True)
class WritingName:
    """What a name says.

    Attributes:
        part: a set, a task, "train" or "mixed".
        prompt: None if the name has none.
        budget: of a set or task; None: all rows.
        counts: rows by part of a mixture; None for `writing.mixed` without numbers.
        wording: which of `WORDINGS` instructs, from 1; None: the only one that is trained on.
    """

    part: str
    prompt: str | None = None
    budget: str | None = None
    counts: tuple[tuple[str, int], ...] | None = None
    wording: int | None = None

    def __str__(self) -> str:
        parts = [self.prompt, self.part]
        if self.part == TRAIN and self.counts:
            parts.append(str(self.counts[0][1]))
        elif self.counts:
            parts += [f"{part}_{count}" for part, count in self.counts]
        wording = f"w{self.wording}" if self.wording else None
        return PREFIX + ".".join(filter(None, [*parts, self.budget, wording]))

    @property
    def is_mixture(self) -> bool:
        """Whether it has rows of several parts."""
        return self.part in (TRAIN, MIXED)


def mixture_name(counts: Mapping[str, int], prompt: str | None = None) -> str:
    """The name of a mixture by absolute numbers of rows.

    Args:
        counts: rows by task, set, or `<set>:<split>`, in the order of the table that is shown.
        prompt: a name of the prompt registry; None: `alpaca_lora`.

    Raises:
        DataError: no such part or prompt, or a count below 1.
    """
    for part, count in counts.items():
        _check_part(part)
        if type(count) is not int or count < 1:
            raise DataError(f"mixture: {part}: {count!r}; allowed: a number of rows, 1 or more")
    if prompt is not None:
        get_prompt(prompt)
    if not counts:
        raise DataError("mixture: no part; allowed: one or more parts with their numbers of rows")
    return str(WritingName(MIXED, prompt, counts=tuple(counts.items())))


def parse_name(name: str) -> WritingName:
    """Reads a name; says nothing about whether the data of its parts is there.

    Raises:
        DataError: the name does not follow the grammar.
    """
    prompt, rest = _take_prompt(name.removeprefix(PREFIX))
    part, *more = rest.split(".")
    if part == TRAIN:
        if len(more) != 1:
            raise DataError(f"name {quoted(name)}; allowed: {PREFIX}{TRAIN}.<count>")
        count = _count(more[0], name)
        return WritingName(TRAIN, prompt, counts=tuple((task, count) for task in TRAINED))
    if part == MIXED:
        return WritingName(MIXED, prompt, counts=_counts(more, name) if more else None)
    _check_part(part)
    if len(more) > 1:
        raise DataError(f"name {quoted(name)}; allowed: {_GRAMMAR}")
    if more and re.fullmatch(r"w[0-9]+", more[0]):
        return WritingName(part, prompt, wording=_wording(part, more[0], name))
    budget = parse_budget(more[0]).name if more else None
    return WritingName(part, prompt, budget)


def with_settings(name: str, prompt: str | None, budget: str | None) -> str:
    """The name with a prompt and a budget that it does not have yet.

    Raises:
        DataError: it has another already, or is a mixture and a budget is given.
    """
    parsed = parse_name(name)
    check_only_one(name, "prompt", prompt, parsed.prompt)
    check_only_one(name, "budget", budget, parsed.budget)
    if budget is not None and parsed.is_mixture:
        raise DataError(
            f"budget '{budget}' with MIXTURE_OR_TASK_NAME '{name}', which already says numbers; "
            "allowed: a budget with a set or task only"
        )
    if prompt is not None:
        get_prompt(prompt)
    parsed = dataclasses.replace(
        parsed, prompt=prompt or parsed.prompt, budget=budget or parsed.budget
    )
    return str(parsed)


def split_part(part: str) -> tuple[str, str]:
    """'jfleg:validation' -> ('jfleg', 'validation'); the split is train where none is named."""
    name, _, split = part.partition(":")
    return name, split or "train"


def _take_prompt(rest: str) -> tuple[str | None, str]:
    """The prompt that a name begins with, if it does, and the rest."""
    for prompt in sorted(PROMPTS, key=len, reverse=True):
        left = rest.removeprefix(f"{prompt}.")
        # A set may be called as a prompt is: alpaca.
        if left != rest and split_part(left.split(".")[0])[0] in _part_names():
            return prompt, left
    return None, rest


def _counts(parts: list[str], name: str) -> tuple[tuple[str, int], ...]:
    counts = {}
    for text in parts:
        part, _, count = text.rpartition("_")
        _check_part(part)
        if part in counts:
            raise DataError(f"name {quoted(name)}: part '{part}' occurs twice; allowed: once")
        counts[part] = _count(count, name)
    return tuple(counts.items())


def without_wording(name: str) -> str:
    """'jfleg.w2' -> 'jfleg'; other names as they are."""
    return re.sub(r"\.w[0-9]+$", "", name)


def _wording(part: str, text: str, name: str) -> int:
    task = SETS[part].task if part in SETS else part
    count, number = len(WORDINGS.get(task, ())), int(text[1:])
    if not 1 <= number <= count:
        allowed = f"w1 to w{count}" if count else f"no other wording of {part}"
        raise DataError(f"name {quoted(name)}: {quoted(text)}; allowed: {allowed}")
    return number


def _count(text: str, name: str) -> int:
    budget = parse_budget(text) if text.removeprefix("n").isdecimal() else None
    if budget is None:
        raise DataError(f"name {quoted(name)}: {quoted(text)}; allowed: a number of rows")
    return budget.amount


def _check_part(part: str) -> None:
    name, split = split_part(part)
    if split not in SPLITS:
        raise DataError(f"part {quoted(part)}: split '{split}'; allowed: {', '.join(SPLITS)}")
    known = [*TASKS, GENERIC, *SETS]
    if name not in known:
        raise DataError(
            f"writing set or task {quoted(name)} is unknown; allowed: {', '.join(known)}"
            f"{hint(name, [*known, TRAIN, MIXED])}"
        )


def _part_names() -> set[str]:
    return {*TASKS, GENERIC, *SETS, TRAIN, MIXED}
