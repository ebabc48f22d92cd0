"""The rows that an audit looks at: those a run would read under the same names and settings."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import mixtures
from mixtures import lookup
from mixtures.errors import warn_once
from mixtures.names import PREFIX, find_scope, parse_name
from mixtures.prompts import get_prompt
from mixtures.records import Row, rows
from mixtures.splits import TRACKS, split_instances
from mixtures.tasks import task_rows
from mixtures.writing.finding import splits_in
from mixtures.writing.names import DEFAULT_PROMPT
from mixtures.writing.names import PREFIX as WRITING_PREFIX
from mixtures.writing.names import parse_name as parse_writing_name
from mixtures.writing.rows import find_directory
from mixtures.writing.sets import SETS, TASKS
from mixtures.writing.tasks import read_parts
from t5x_ext.audits.flags import first_names
from t5x_ext.audits.records import TaskRows
from t5x_ext.data.opening import UNCUT, load_examples

_SPLITS = ("train", "validation", "test")
_MANY_ROWS = 100_000  # sets that are compared only where they are named


def load_rows(name: str) -> list[TaskRows]:
    """The tasks behind a name that `mixtures.resolve` has returned.

    Raises:
        DataError: the name, or a file it needs, is wrong.
    """
    if name.startswith(WRITING_PREFIX):
        return _writing_rows(name)
    if not name.startswith(PREFIX):
        return _rows_of_seqio(name)
    parsed = parse_name(name)
    scope = find_scope(parsed.scope, mixtures.current_context().store)
    return [_superni_rows(task, scope.track, parsed.prompt, parsed.budget) for task in scope.tasks]


def load_others(names: Collection[str]) -> list[TaskRows]:
    """All tasks of the data directory but those named, with all their training rows.

    Those without any are told in one line; a task that is audited gets a flag instead.
    """
    store = mixtures.current_context().store
    others = [
        _superni_rows(task, track, "ql.io", "all")
        for track in TRACKS
        for task in store.names(track)
        if task not in names
    ]
    untrained = [task.name for task in others if not task.train]
    if untrained:
        warn_once(
            f"no training rows in {len(untrained)} of the {len(others)} tasks that are not "
            f"audited: {first_names(untrained)}"
        )
    return others


def load_other_sets(names: Collection[str]) -> list[TaskRows]:
    """The writing sets that are found, except those named and those with millions of rows."""
    directory = find_directory(mixtures.current_context().data_dir)
    if directory is None:
        return [
            each
            for task in TASKS
            if task not in names
            for each in _writing_rows(f"{WRITING_PREFIX}{task}")
        ]
    return [
        each
        for known in SETS.values()
        if known.name not in names and max(known.rows.values(), default=0) < _MANY_ROWS
        if splits_in(directory, known)
        for each in _writing_rows(f"{WRITING_PREFIX}{known.name}")
    ]


def _writing_rows(name: str) -> list[TaskRows]:
    """The sets behind a `writing.*` name, with the rows that the name takes of each."""
    by_set: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for split in lookup.find(name).splits:
        for part in read_parts(name, split).values():
            for row in part:
                by_set[row.task][split].append(row)
    prompt = get_prompt(parse_writing_name(name).prompt or DEFAULT_PROMPT)
    prompt = prompt.for_vocabulary(mixtures.current_context().vocabulary)
    return [
        TaskRows(
            name=task,
            category=next(iter(splits.values()))[0].category,
            track="",
            sources=(),
            render=prompt.render,
            train=tuple(splits["train"]),
            validation=tuple(splits["validation"]),
            test=tuple(splits["test"]),
            is_rewriting=any(row.source for rows in splits.values() for row in rows),
        )
        for task, splits in by_set.items()
    ]


def _superni_rows(task: str, track: str, prompt: str, budget: str) -> TaskRows:
    context = mixtures.current_context()
    record = context.store.task(task)
    splits = split_instances(record, track, context.split_policy)
    return TaskRows(
        name=task,
        category=record.category,
        track=track,
        sources=record.sources,
        render=get_prompt(prompt).for_vocabulary(context.vocabulary).render,
        # The budget would log a line for every task without any.
        train=tuple(task_rows(context, task, track, "train", budget)) if splits.train else (),
        validation=tuple(rows(record, splits.validation)),
        test=tuple(rows(record, splits.test)),
        leaked=splits.leaked,
    )


def _rows_of_seqio(name: str) -> list[TaskRows]:
    """Rows of any SeqIO task or mixture; its whole prompt counts as the input."""
    by_task: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for split in sorted(set(_SPLITS) & set(lookup.find(name).splits)):
        for example in load_examples(name, split, UNCUT):
            row = Row(
                task=example.task,
                category=example.category,
                id=example.id,
                definition="",
                input=example.inputs_pretokenized,
                references=example.references,
                positive_examples=(),
                negative_examples=(),
            )
            by_task[example.task][split].append(row)
    tasks = []
    for task, splits in by_task.items():
        rows: dict[str, Any] = {split: tuple(splits[split]) for split in _SPLITS}
        category = next(iter(splits.values()))[0].category
        render = operator.attrgetter("input")
        tasks.append(TaskRows(task, category, "", (), render=render, **rows))
    return tasks
