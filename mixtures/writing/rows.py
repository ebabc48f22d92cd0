"""From the parts of a name to rows.

The data lies in DATA_DIR/writing, else in $WRITING_DIR, else it is the bundled suite, whose sets
are called as the tasks are.
"""

from __future__ import annotations

import dataclasses
import functools
import os

from etils import epath

from mixtures import files
from mixtures.budgets import parse_budget, select
from mixtures.errors import DataError
from mixtures.records import Row
from mixtures.release import Release, data_dir
from mixtures.writing.bundled.rows import bundled_items
from mixtures.writing.finding import find_files, read_set, splits_in
from mixtures.writing.layouts import Item
from mixtures.writing.names import MIXED, WritingName, split_part, without_wording
from mixtures.writing.sets import GENERIC, INSTRUCTIONS, SETS, SPLITS, TASKS, TRAINED
from mixtures.writing.tokens import detokenize
from mixtures.writing.wordings import WORDINGS

# The paper's numbers, and about the same shares of the bundled suite.
PAPER_COUNTS = {GENERIC: 52002, **{task: 10000 for task in TRAINED}}
BUNDLED_COUNTS = {GENERIC: 5200, **{task: 1000 for task in TRAINED}}

# Where each task's training rows come from: the first of these lists whose sets are all there. Of
# several sets the first gives a fifth of the rows, as the paper takes 2,000 of TurkCorpus and 8,000
# of WikiLarge, as long as both have as many.
_TRAINING = {
    "grammaticality": (("wi_locness",), ("jfleg_edits:validation",)),
    "fluency": (("iterater_fluency",),),
    "clarity": (("iterater_clarity",),),
    "coherence": (("iterater_coherence",),),
    "simplification": (("turkcorpus", "wikilarge"), ("turkcorpus",), ("wikilarge",)),
    "neutralization": (("wnc",), ("wnc_sample",)),
    "paraphrasing": (("stsb",),),
    GENERIC: (("alpaca",), ("alpaca_seed", "superni"), ("superni",)),
}
_FIRST_SHARE = 5
SUPERNI = "superni"
_SUPERNI_ROWS = 100  # of each task, as pre-finetuning takes them

# Of the bundled suite, whose grammar and fluency rows are tokenised as CoNLL's and JFLEG's are.
_BUNDLED_METRICS = {"grammaticality": ("m2", "errant"), "fluency": ("gleu",), GENERIC: ("rougeL",)}


def find_directory(superni_dir: str | None) -> epath.Path | None:
    """The directory of the real sets; None for the bundled suite.

    Args:
        superni_dir: the macro DATA_DIR; its folder `writing` counts, if it has one.

    Raises:
        DataError: $WRITING_DIR is not a directory.
    """
    if superni_dir is not None:
        beside = files.path(superni_dir, "DATA_DIR") / "writing"
        if files.is_dir(beside):
            return beside
    named = os.environ.get("WRITING_DIR")
    if not named:
        return None
    path = files.path(named, "WRITING_DIR")
    if not files.is_dir(path):
        raise DataError(
            f"WRITING_DIR '{named}' is not a directory; allowed: one with writing sets "
            "(docs/writing.md), or nothing for the bundled suite"
        )
    return path


def metrics_of(task: str) -> tuple[str, ...]:
    """Names of the metrics that rows of this task are scored with, the paper's first.

    Args:
        task: the `task` of a row: a set, or a task of the bundled suite; of either "jfleg.w2".
    """
    task = without_wording(task)
    if task in SETS:
        return SETS[task].metrics
    if task in TASKS or task == GENERIC:
        return _BUNDLED_METRICS.get(task, ("sari",))
    return ()


def splits_of(name: WritingName, directory: epath.Path | None) -> tuple[str, ...]:
    """The splits that a name has; mixtures are for training.

    Raises:
        DataError: none, since the directory has no file of the set.
    """
    if name.is_mixture:
        return ("train",)
    if directory is None:
        _check_bundled(name.part)
        return SPLITS
    if name.part == SUPERNI:
        return ("train",)
    found = {
        split
        for each in SETS.values()
        if name.part in (each.name, each.task)
        for split in splits_in(directory, each)
    }
    if name.part not in SETS:  # a task, whose training rows need not be of its sets' train splits
        found.discard("train")
        found |= {"train"} if _sources(name.part, directory) else set()
    if not found and name.part in SETS:
        read_set(directory, SETS[name.part], next(iter(SETS[name.part].splits)))  # raises
    if not found:
        raise DataError(_no_source(name.part, directory))
    return tuple(split for split in SPLITS if split in found)


def counts_of(name: WritingName, directory: epath.Path | None) -> dict[str, int]:
    """Rows by part of a mixture."""
    if name.counts is not None:
        return dict(name.counts)
    assert name.part == MIXED
    return dict(PAPER_COUNTS if directory is not None else BUNDLED_COUNTS)


def rows_of(
    name: WritingName,
    split: str,
    directory: epath.Path | None,
    seed: int = 0,
    order: str = "seeded",
) -> dict[str, list[Row]]:
    """The rows of a name, by part.

    Args:
        name: what to read.
        split: one of `splits_of`.
        directory: as of `find_directory`.
        seed: which sample a budget is. Samples of one seed nest: 500 rows are among 1,000.
        order: "seeded", or "release" for the first rows.

    Raises:
        DataError: a set is not there, or its files are wrong.
    """
    if name.is_mixture:
        counts = counts_of(name, directory)
        return {
            part: _train_rows(part, f"n{count}", directory, seed, order)
            for part, count in counts.items()
        }
    if split == "train":
        found = {name.part: _train_rows(name.part, name.budget or "all", directory, seed, order)}
    elif name.part in SETS or directory is None:
        place = None if directory is None else str(directory)
        found = {name.part: list(_read(name.part, split, place))}
    else:
        every = [each for each in SETS.values() if each.task == name.part]
        found = {
            each.name: list(_read(each.name, split, str(directory)))
            for each in every
            if split in splits_in(directory, each)
        }
    return {part: _worded(rows, name.wording) for part, rows in found.items()}


def _worded(rows: list[Row], wording: int | None) -> list[Row]:
    """Rows under another instruction; their own with None."""
    if wording is None:
        return rows
    return [
        dataclasses.replace(row, definition=WORDINGS[row.category][wording - 1]) for row in rows
    ]


def _train_rows(
    part: str, budget: str, directory: epath.Path | None, seed: int, order: str
) -> list[Row]:
    """A budget of a part's training rows, from one set or several."""
    name, split = split_part(part)
    if directory is None:
        _check_bundled(name)
        return _within(list(_read(name, split, None)), name, budget, seed, order)
    if name in SETS:
        return _within(list(_read(name, split, str(directory))), name, budget, seed, order)
    sources = _sources(name, directory)
    if not sources:
        raise DataError(_no_source(name, directory))
    pools = [list(_read(*split_part(source), str(directory))) for source in sources]
    if len(pools) == 1 or budget == "all":
        found = [row for pool in pools for row in pool]
        return _within(found, name, budget, seed, order)
    count = parse_budget(budget).count(sum(map(len, pools)))
    share = -(-count // _FIRST_SHARE)
    first = min(len(pools[0]), max(share, count - len(pools[1])))
    return [
        *_within(pools[0], sources[0], f"n{first}", seed, order),
        *(_within(pools[1], sources[1], f"n{count - first}", seed, order) if count > first else ()),
    ]


def _within(found: list[Row], name: str, budget: str, seed: int, order: str) -> list[Row]:
    chosen = select(name, [row.id for row in found], budget, seed, order)
    return [found[index] for index in chosen]


def _sources(task: str, directory: epath.Path) -> tuple[str, ...]:
    """The sets (with splits) that a task is trained on; () where none is there."""
    for sources in _TRAINING[task]:
        if all(_is_there(*split_part(source), directory) for source in sources):
            return sources
    return ()


def _is_there(name: str, split: str, directory: epath.Path) -> bool:
    return name == SUPERNI or bool(find_files(directory, SETS[name], split).names)


@functools.lru_cache(maxsize=32)
def _read(name: str, split: str, directory: str | None) -> tuple[Row, ...]:
    """A split of a set, or of a task of the bundled suite, as rows."""
    if directory is None:
        return tuple(_row(name, name, item, False) for item in bundled_items(name, split))
    wanted = SETS[name]
    if split not in wanted.splits:
        raise DataError(f"set '{name}': split '{split}'; allowed: {', '.join(wanted.splits)}")
    if name == SUPERNI:
        items = _superni_items(epath.Path(directory))
    else:
        items = read_set(epath.Path(directory), wanted, split)
    return tuple(_row(name, wanted.task, item, wanted.tokenized) for item in items)


def _superni_items(directory: epath.Path) -> list[Item]:
    """Instances of the train track: of the release that `directory` lies in, else as elsewhere."""
    above = directory.parent
    release = Release(above if files.is_dir(above / "splits" / "default") else data_dir())
    items = []
    for name in release.names("train"):
        record = release.task(name)
        ids = [instance.id for instance in record.instances]
        for index in select(name, ids, min(len(ids), _SUPERNI_ROWS)):
            found = record.instances[index]
            items.append(
                Item(
                    found.input,
                    found.references,
                    id=f"{name}-{found.id}",
                    instruction=record.definition,
                )
            )
    return items


def _row(name: str, task: str, item: Item, tokenized: bool) -> Row:
    """An item as a row: natural text to read and write, and the tokens to compare with."""
    if item.tokenized is not None:
        tokenized = item.tokenized
    natural = detokenize if tokenized else str.strip
    return Row(
        task=name,
        category=task,
        id=item.id,
        definition=item.instruction or INSTRUCTIONS.get(task, ""),
        input=natural(item.source),
        references=item.references,
        source=item.source,
        edits=item.edits,
        targets=tuple(natural(text) for text in item.references),
        document=item.document,
    )


def _check_bundled(part: str) -> None:
    name = split_part(part)[0]
    if name not in (*TASKS, GENERIC):
        raise DataError(
            f"writing set '{name}' without WRITING_DIR; allowed: WRITING_DIR or DATA_DIR/writing "
            f"that holds it, or of the bundled suite: {', '.join((*TASKS, GENERIC))}"
        )


def _no_source(task: str, directory: epath.Path) -> str:
    wanted = " or ".join(" with ".join(sources) for sources in _TRAINING[task])
    return f"writing task '{task}': no training set in {directory}; allowed: {wanted}"
