"""The settings that names of ours resolve against: data, vocabulary, splits, budgets, trimming."""

from __future__ import annotations

import dataclasses
import functools
import os

from mixtures import files, on_demand
from mixtures.budgets import ORDERS
from mixtures.errors import DataError
from mixtures.names import TaskStore
from mixtures.release import MISSING_POLICIES, PREPARED, Release, data_dir
from mixtures.splits import POLICIES
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
        trim: what long prompts lose, one of `mixtures.truncation.TRIMS`.
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
        return _open_store(self.data_dir, self.missing)


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

    Tasks built under other settings are dropped, from SeqIO's registry too, and built again when
    they are asked for again. Arguments are those of `Context`; a vocabulary may also be a path
    for `vocabularies.open_vocabulary`.

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
    on_demand.forget_built()
    _context = context
    return context


def current_context() -> Context:
    """The settings that names resolve against now."""
    return _context


def _open_store(directory: str | None, missing: str) -> TaskStore:
    """The data directory: shards if it holds them, else task files.

    Args:
        directory: as for `release.data_dir`; shards may also be in a bucket.
        missing: see `Release`.
    """
    asked = directory or os.environ.get("SUPERNI_DIR")
    if asked and files.is_dir(files.path(asked, "DATA_DIR") / PREPARED):
        from mixtures.prepared import PreparedRelease  # TensorFlow, which reads its own records

        return PreparedRelease(str(files.path(asked)), missing)
    return Release(data_dir(directory), missing)
