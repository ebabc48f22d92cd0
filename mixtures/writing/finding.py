"""Finds and reads the files of a writing set.

A set lies in a directory, or in a folder of the set's name there, under the names it is distributed
with:

    WRITING_DIR/jfleg/dev/dev.src, dev.ref0, ...       WRITING_DIR/jfleg/dev.src, ...
    WRITING_DIR/m2/ABCN.dev.gold.bea19.m2              WRITING_DIR/bea2019/ABCN.dev.gold.bea19.m2

`<set>.<split>.jsonl` holds any set: one object per line with input, references and the optional
instruction, dataset, id, edits (as in a predictions file) and meta (`label`, `tokenized`,
`doc_id`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

from etils import epath

from mixtures import files
from mixtures.errors import DataError, warn_once
from mixtures.writing import layouts
from mixtures.writing.layouts import Item
from mixtures.writing.sets import EDIT_METRICS, INSTRUCTIONS, SplitFiles, WritingSet


def find_files(directory: epath.Path, wanted: WritingSet, split: str) -> SplitFiles:
    """The files that hold a split, by their paths; no names where there are none."""
    named, found = wanted.splits[split]
    read_own = functools.partial(layouts.read_jsonl, dataset=wanted.family)
    own = SplitFiles(read_own, (f"{wanted.family}.{named}.jsonl",))
    for candidate in (own, *found):
        for paths in _places(directory, wanted, candidate.names):
            if all(files.is_file(path) for path in paths):
                return SplitFiles(candidate.read, tuple(map(str, paths)))
    return SplitFiles(read_own, ())


def splits_in(directory: epath.Path, wanted: WritingSet) -> tuple[str, ...]:
    """The splits of a set that a directory holds."""
    return tuple(split for split in wanted.splits if find_files(directory, wanted, split).names)


def read_set(directory: epath.Path, wanted: WritingSet, split: str) -> list[Item]:
    """Reads a split, as many rows as can be used.

    Of sets with a label those rows are left out, as EditEval does, whose rewriting is empty or one
    character. A number of rows that differs from the published one is told in a line.

    Raises:
        DataError: the directory has no file of the split, a file is malformed, or a row has another
            number of references than the set or lacks what the set is for.
    """
    read, paths = find_files(directory, wanted, split)
    if not paths:
        raise DataError(_missing(directory, wanted, split))
    found = read(*paths)
    if wanted.label:
        found = [i for i in found if i.label == wanted.label and len(i.references[0]) > 1]
    if not found:
        raise DataError(
            f"{paths[0]}: no row of label '{wanted.label}' that is rewritten; allowed: one or more"
        )
    for number, item in enumerate(found):
        _check_item(item, wanted, split, f"{paths[0]}: row {number}")
    published = wanted.rows.get(split)
    if published and published != len(found):
        warn_once(f"{paths[0]}: {len(found):,} rows; {wanted.name} {split} has {published:,}")
    named = wanted.splits[split][0]
    return [
        item if item.id else dataclasses.replace(item, id=f"{wanted.name}-{named}-{number}")
        for number, item in enumerate(found)
    ]


def _check_item(item: Item, wanted: WritingSet, split: str, where: str) -> None:
    """Refuses a row that could not be scored, or asks nothing, before a model is made for it."""
    if wanted.references and len(item.references) != wanted.references:
        raise DataError(
            f"{where}: field 'references': {len(item.references)}; allowed: "
            f"{wanted.references}, as every row of {wanted.name} has"
        )
    lacking = sorted(EDIT_METRICS.intersection(wanted.metrics))
    if split != "train" and lacking and not item.edits:
        raise DataError(
            f"{where}: field 'edits': missing; allowed: gold edits, without which {wanted.name} "
            f"cannot be scored ({', '.join(lacking)})"
        )
    if wanted.task not in INSTRUCTIONS and not item.instruction.strip():
        raise DataError(
            f"{where}: field 'instruction': missing; allowed: a text that is not blank, as every "
            f"row of {wanted.name} has"
        )


def _places(
    directory: epath.Path, wanted: WritingSet, names: Sequence[str]
) -> Iterator[list[epath.Path]]:
    """Where files of these names may be.

    A name that says nothing of its set, such as dev.src, counts only in the set's own folder.
    """
    own = directory / wanted.family
    bare = [name.rpartition("/")[2] for name in names]
    yield [directory / name for name in names]
    yield [own / name for name in names]
    yield [own / name for name in bare]
    if all(name.count(".") > 1 or "-" in name for name in bare):
        yield [directory / name for name in bare]


def _missing(directory: epath.Path, wanted: WritingSet, split: str) -> str:
    named, found = wanted.splits[split]
    names = found[0].names if found else ()
    first = f" or {names[0]}" + (f" with {len(names) - 1} more" if len(names) > 1 else "")
    return (
        f"set '{wanted.name}', split '{split}': no file in {directory}; allowed: "
        f"{wanted.family}.{named}.jsonl{first if names else ''}, there or in {wanted.family}/"
    )
