"""Tasks of `self.*` names."""

from __future__ import annotations

import dataclasses
import hashlib

from etils import epath

from mixtures.context import current_context
from mixtures.prompts import get_prompt
from mixtures.records import Row
from mixtures.specialization.names import PREFIX, PRETRAINING, SEEDS, SelfName, parse_name
from mixtures.specialization.rows import find_directory, metrics_of, rows_of, splits_of
from mixtures.task_metrics import DEFAULT_METRICS, name_metrics
from mixtures.task_metrics import metrics_of as named_metrics
from mixtures.tasks import RowTask


def make_self_task(name: str) -> RowTask:
    """The task that a `self.*` name stands for under the current settings.

    Raises:
        DataError: the name does not follow the grammar, or its data is not there.
    """
    context = current_context()
    parsed = parse_name(name)
    directory = find_directory(context.data_dir)
    prompt = get_prompt(parsed.prompt_in_use).name

    def read_rows(split: str) -> list[Row]:
        return rows_of(parsed, split, directory, context.budget_seed, context.budget_order)

    _name_metrics(parsed, directory)
    if context.trim == "keep_question":  # the demonstration before the question stays the longest
        context = dataclasses.replace(context, trim="keep_last_example")
    return RowTask(name, splits_of(parsed, directory), read_rows, prompt, context)


def fingerprint(name: str, split: str) -> str:
    """SHA-256 over a name's rows, their demonstrations included."""
    context = current_context()
    digest = hashlib.sha256()
    parsed, directory = parse_name(name), find_directory(context.data_dir)
    for row in rows_of(parsed, split, directory, context.budget_seed, context.budget_order):
        shown = [text for one in row.positive_examples for text in (one.input, one.output)]
        fields = (row.task, row.id, row.definition, row.input, *row.references, *shown)
        digest.update("\x1f".join(fields).encode() + b"\x1e")
    return digest.hexdigest()


def _name_metrics(name: SelfName, directory: epath.Path | None) -> None:
    """States what the sets are scored with, unless their user has."""
    for part in set(name.parts) - {SEEDS, PRETRAINING}:
        rows_named = f"{PREFIX}{name.domain}.{part}"
        if named_metrics(rows_named) == DEFAULT_METRICS:
            name_metrics(f"{rows_named}*", metrics_of(name.domain, part, directory))
