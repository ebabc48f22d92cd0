"""Which findings of an audit are reported, and in what order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from t5x_ext.audits.records import SharedInputs, SharedSource, TaskAudit
from t5x_ext.audits.styles import StyleClash

# Shares of rows (0 to 1) from which something is flagged.
CONSTANT_LABEL = 0.95
LABEL_GAP = 0.25
CUT_PROMPTS = 0.05
CUT_TARGETS = 0.01
UNKNOWN_PROMPTS = 0.10
UNKNOWN_TARGETS = 0.01
REWRITTEN_TARGETS = 0.01
LOST_SPACE_TARGETS = 0.01

_SHOWN_NAMES = 3
_LINE_LENGTH = 80  # characters of a label or a text that are shown

# Kinds of flags, the most serious first: what makes a score wrong, then what makes it worse.
KINDS = {
    "leak": "test inputs that are also training inputs of the task",
    "shared inputs": "test inputs that are training inputs of another task",
    "shared validation": "validation inputs that are training inputs of another set",
    "shared documents": "test rows from documents that training rows are from",
    "same test": "test inputs that another set tests too: their scores are not independent",
    "repeated inputs": "test rows that ask about one input with different references",
    "tokenisation": "sets that write the same thing in two ways: trained on one, tested on another",
    "no training rows": "nothing to train on",
    "truncated": "prompts that do not fit, and questions that do not fit even alone",
    "long targets": "targets that do not fit",
    "label skew": "most frequent target: share in train and in test",
    "unknown pieces": "text with characters that the vocabulary does not have",
    "rewritten characters": "targets with characters that the vocabulary writes differently",
    "lost white space": "targets whose white space the vocabulary changes",
    "same source": "train-track and test-track tasks made from one data set",
}


@dataclass(frozen=True)
class Flag:
    """One thing to look at.

    Attributes:
        kind: a key of KINDS.
        subject: the task, tasks (the first of them) or source it is about.
        text: the finding, in one line.
        weight: for ordering among flags of one kind; larger is worse.
    """

    kind: str
    subject: str
    text: str
    weight: float


def find_flags(
    tasks: Iterable[TaskAudit],
    shared_inputs: Iterable[SharedInputs] = (),
    shared_sources: Iterable[SharedSource] = (),
    clashes: Iterable[StyleClash] = (),
    shared_documents: Mapping[str, int] = MappingProxyType({}),
) -> list[Flag]:
    """Every flag, the most serious kind first and the worst case of each kind first."""
    flags = [flag for task in tasks for flag in _task_flags(task)]
    for shared in shared_inputs:
        if shared.tested_and_trained:
            text = f"{shared.tested_and_trained} inputs tested in one and trained on in another"
            subject = first_names(shared.tasks)
            flags.append(Flag("shared inputs", subject, text, shared.tested_and_trained))
        if shared.is_rewriting and shared.validated_and_trained:
            count = shared.validated_and_trained
            text = f"{count} inputs are validation rows of one and training rows of another"
            flags.append(Flag("shared validation", first_names(shared.tasks), text, count))
        if shared.is_rewriting and shared.tested_together:
            text = f"{shared.tested_together} inputs are test rows of each"
            flags.append(Flag("same test", first_names(shared.tasks), text, shared.tested_together))
    for name, count in shared_documents.items():
        flags.append(Flag("shared documents", name, f"{count} test rows", count))
    for clash in clashes:
        text = (
            f"{clash.style} apart in {percent(clash.trained_share)} of the training inputs that "
            f"have any, in {percent(clash.tested_share)} of the test inputs"
        )
        weight = abs(clash.trained_share - clash.tested_share)
        flags.append(Flag("tokenisation", f"{clash.trained}, {clash.tested}", text, weight))
    for same in shared_sources:
        names = same.train_tasks + same.test_tasks
        text = f"train: {first_names(same.train_tasks)}; test: {first_names(same.test_tasks)}"
        flags.append(Flag("same source", same.source, text, len(names)))
    order = list(KINDS)
    return sorted(flags, key=lambda flag: (order.index(flag.kind), -flag.weight))


def _task_flags(task: TaskAudit) -> Iterable[Flag]:
    """The flags of one task."""

    def flag(kind: str, text: str, weight: float) -> Flag:
        return Flag(kind, task.name, text, weight)

    if task.leaked:
        yield flag("leak", "the split policy trains on all test rows", 1.0)
    elif task.near_duplicates:
        exact = f"{task.duplicates} to the letter"
        text = f"{task.near_duplicates} of {task.test} test rows, {exact}"
        yield flag("leak", text, task.near_duplicates / task.test)
    if task.is_rewriting and task.repeated_inputs:
        distinct = task.test - task.repeated_inputs
        text = f"{task.test} test rows are {distinct} inputs: intervals must resample inputs"
        yield flag("repeated inputs", text, task.repeated_inputs / task.test)
    if task.test and not task.train and not task.is_rewriting:  # such sets are for testing alone
        yield flag("no training rows", f"all {task.rows} rows are held out", 1.0)
    yield from _cut_flags(task)
    label = task.label
    shares = {split: getattr(label, split) for split in ("train", "test")}
    shares = {split: share for split, share in shares.items() if share is not None}
    if max(shares.values(), default=0.0) >= CONSTANT_LABEL or label.gap >= LABEL_GAP:
        parts = ", ".join(f"{percent(share)} of {split}" for split, share in shares.items())
        text = f"{parts}: {_shorten(label.label)}"
        yield flag("label skew", text, max(label.gap, shares.get("train", 0.0)))
    unknown = max(
        task.unknown_targets / task.rows / UNKNOWN_TARGETS,
        task.unknown_prompts / task.rows / UNKNOWN_PROMPTS,
    )
    if unknown >= 1:
        text = (
            f"{percent(task.unknown_prompts / task.rows)} of prompts, "
            f"{percent(task.unknown_targets / task.rows)} of targets: {task.unknown_characters!r}"
        )
        yield flag("unknown pieces", _shorten(text), unknown)
    rewritten = task.rewritten_targets / task.rows
    if rewritten >= REWRITTEN_TARGETS:
        text = f"{percent(rewritten)} of rows: {task.rewritten_characters!r}"
        yield flag("rewritten characters", _shorten(text), rewritten)
    lost = task.lost_space_targets / task.rows
    if lost >= LOST_SPACE_TARGETS:
        yield flag("lost white space", f"{percent(lost)} of rows", lost)


def _cut_flags(task: TaskAudit) -> Iterable[Flag]:
    """Flags for the limits under which something is cut, all limits in one line."""
    prompts = [
        f"{cut.limit}: {percent(cut.prompts / task.rows)} of prompts"
        + (f", {percent(cut.questions / task.rows)} of questions" if cut.questions else "")
        for cut in task.cuts
        if cut.questions or cut.prompts / task.rows >= CUT_PROMPTS
    ]
    if prompts:
        # A cut question weighs more than any number of cut definitions and examples.
        worst = max(cut.questions + cut.prompts / task.rows for cut in task.cuts) / task.rows
        yield Flag("truncated", task.name, "; ".join(prompts), worst)
    cut = max(task.cuts, key=lambda cut: cut.targets)
    share = cut.targets / task.rows
    if share >= CUT_TARGETS:
        text = f"{cut.limit}: {percent(share)} of rows; the longest has {task.target.max} tokens"
        yield Flag("long targets", task.name, text, share)


def percent(share: float) -> str:
    """A share (0 to 1) in percent; small ones with a decimal, so that they do not look like 0."""
    return f"{100 * share:.{0 if share == 0 or share >= 0.1 else 1}f}%"


def first_names(names: Sequence[str]) -> str:
    """Some names as a line shows them: the first ones, and how many more there are."""
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LINE_LENGTH else f"{line[: _LINE_LENGTH - 3]}..."
