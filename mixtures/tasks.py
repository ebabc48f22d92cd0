"""SeqIO tasks over task files: what a `superni.*` name stands for, and the settings it depends on.

A scope of many tasks (`held_in`, `pretune`, a category) is one SeqIO task over all their rows, not
a mixture of one SeqIO task each: mixing in proportion to size is the same as shuffling the rows
together, and SeqIO would take minutes to open hundreds of datasets.
"""

from __future__ import annotations

import dataclasses
import functools
import os

import seqio

from mixtures import on_demand, task_metrics
from mixtures.budgets import ORDERS, select
from mixtures.errors import DataError
from mixtures.names import TaskStore, find_scope, parse_name
from mixtures.prepared import open_store
from mixtures.preprocessors import render_prompt
from mixtures.records import Row, rows
from mixtures.release import MISSING_POLICIES
from mixtures.sources import RowSource
from mixtures.splits import POLICIES, split_instances
from mixtures.truncation import TRIMS
from mixtures.vocabularies import Vocabulary, bundled_vocabulary, open_vocabulary


@dataclasses.dataclass(frozen=True)
class Context:
    """Everything besides its name that determines what a task gives.

    Attributes:
        data_dir: a release directory, or one that `tfds build` wrote; None: $SUPERNI_DIR, else
            the bundled suite.
        vocabulary: of inputs and targets.
        split_policy: "disjoint" or "paper"; see `mixtures.splits`.
        budget_order: "seeded" or "release"; see `mixtures.budgets`.
        budget_seed: which sample a seeded budget is.
        trim: "keep_question" or "right"; see `mixtures.truncation`.
        missing: "report" or "refuse" tasks that a split list names and that have no file.
        joined: whether prompt and response are one text, as a decoder-only model reads them: the
            prompt then starts as the tokenizer starts texts (a BOS) and has no EOS. See
            `mixtures.joining`.
    """

    data_dir: str | None = None
    vocabulary: Vocabulary = dataclasses.field(default_factory=bundled_vocabulary)
    split_policy: str = "disjoint"
    budget_order: str = "seeded"
    budget_seed: int = 0
    trim: str = "keep_question"
    missing: str = "report"
    joined: bool = False

    def __post_init__(self) -> None:
        for field, allowed in (
            ("split_policy", POLICIES),
            ("budget_order", ORDERS),
            ("trim", TRIMS),
            ("missing", MISSING_POLICIES),
        ):
            value = getattr(self, field)
            if value not in allowed:
                raise DataError(f"{field} '{value}'; allowed: {', '.join(allowed)}")

    @functools.cached_property
    def store(self) -> TaskStore:
        """The task files, or the shards made of them."""
        return open_store(self.data_dir, self.missing)


_context = Context()


def configure(
    data_dir: str | os.PathLike[str] | None = None,
    vocabulary: Vocabulary | str | os.PathLike[str] | None = None,
    split_policy: str = "disjoint",
    budget_order: str = "seeded",
    budget_seed: int = 0,
    trim: str = "keep_question",
    missing: str = "report",
    joined: bool = False,
) -> Context:
    """Sets what names resolve against from now on, for the whole process.

    Tasks built under other settings are dropped from SeqIO's registry and built again when they are
    asked for again. Arguments are those of `Context`; a vocabulary may also be a path for
    `vocabularies.open_vocabulary`.

    Returns:
        The new context.

    Raises:
        DataError: a setting is not one of those allowed.
    """
    global _context
    if vocabulary is None:
        vocabulary = bundled_vocabulary()
    elif isinstance(vocabulary, str | os.PathLike):
        vocabulary = open_vocabulary(os.fspath(vocabulary))
    context = Context(
        data_dir=None if data_dir is None else os.fspath(data_dir),
        vocabulary=vocabulary,
        split_policy=split_policy,
        budget_order=budget_order,
        budget_seed=budget_seed,
        trim=trim,
        missing=missing,
        joined=joined,
    )
    on_demand.install()
    on_demand.forget_built()
    _context = context
    return context


def current_context() -> Context:
    """The settings that names resolve against now."""
    return _context


def make_task(name: str, source: seqio.DataSource, prompt: str, context: Context) -> seqio.Task:
    """A SeqIO task that renders the rows of `source`; it is not registered.

    The step before which SeqIO's cache keeps data comes first, so a cache holds rows, and serves
    any sequence length.
    """
    vocabulary = context.vocabulary.as_seqio()
    return seqio.Task(
        name,
        source,
        output_features={
            "inputs": seqio.Feature(vocabulary, add_eos=not context.joined),
            "targets": seqio.Feature(vocabulary, add_eos=True),
        },
        preprocessors=[
            seqio.CacheDatasetPlaceholder(),
            functools.partial(
                render_prompt, prompt=prompt, trim=context.trim, joined=context.joined
            ),
        ],
        postprocess_fn=task_metrics.references_or_text,
        metric_fns=[task_metrics.rouge_l, task_metrics.exact_match],
    )


def make_superni_task(name: str) -> seqio.Task:
    """The task that a `superni.*` name stands for under the current settings.

    Raises:
        DataError: prompt, scope or budget is unknown; the message has the nearest names.
    """
    context = _context
    parsed = parse_name(name)
    scope = find_scope(parsed.scope, context.store)

    def read_rows(split: str) -> list[Row]:
        return [
            row
            for task in scope.tasks
            for row in task_rows(context, task, scope.track, split, parsed.budget)
        ]

    splits = ("train", "validation", "test") if scope.track == "test" else ("train", "validation")
    return make_task(name, RowSource(read_rows, splits), parsed.prompt, context)


def task_rows(context: Context, task: str, track: str, split: str, budget: str | int) -> list[Row]:
    """One task's rows of a split; the budget applies to train only."""
    record = context.store.task(task)
    instances = getattr(split_instances(record, track, context.split_policy), split)
    if split == "train":
        ids = [instance.id for instance in instances]
        chosen = select(task, ids, budget, context.budget_seed, context.budget_order)
        instances = [instances[index] for index in chosen]
    return rows(record, instances)
