"""From the parts of a `self.*` name to rows.

A domain lies in a directory as

    seeds/<domain>.jsonl             id, task, instruction, input, output
    corpus/<domain>.jsonl            id, title, text
    eval/<domain>/<set>.jsonl        id, instruction, input, references, split, kind, ...

which is DATA_DIR where that has a folder `eval`, else $SPECIALIZATION_DIR; without either there is
the bundled domain alone. Sets whose licence keeps them apart may be in `eval/<domain>_<licence>`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

from etils import epath

from mixtures import files
from mixtures.budgets import select
from mixtures.errors import DataError, hint
from mixtures.records import Example, Row
from mixtures.specialization import bundled, records
from mixtures.specialization.bundled import pretraining, sets
from mixtures.specialization.names import PRETRAINING, SEEDS, SelfName

SPLITS = ("train", "validation", "test")
BUNDLED_DOMAIN = "harbour"

# The paper's measure first; then, what is right and what is shape. See docs/metrics.md.
_LABELS = ("f1", "label_accuracy", "label_validity")
_SETS = ("f1", "f1_box", "pairs_f1")
METRICS: Mapping[str, tuple[str, ...]] = {
    "ner": _SETS,
    "relation_extraction": _SETS,
    "classification_multi": _SETS,
    "qa_list": _SETS,
    "classification": _LABELS,
    "qa_yesno": _LABELS,
    "relation": _LABELS,
    # No F1: "A" is an article to it, so that a right answer would score 0.
    "multiple_choice": ("label_accuracy", "label_validity"),
}
_OTHER_METRICS = ("f1", "squad_em")
# What stands beside a metric where scores are shown.
COMPANIONS: Mapping[str, tuple[str, ...]] = {
    "f1": ("rougeL",),
    "pairs_f1": ("pairs_precision", "pairs_recall"),
}


def find_directory(data_dir: str | os.PathLike[str] | None) -> epath.Path | None:
    """Where domains lie; None if there is but the bundled one.

    Args:
        data_dir: DATA_DIR, if it is set.

    Raises:
        DataError: $SPECIALIZATION_DIR has no folder `eval`.
    """
    if data_dir is not None:
        path = files.path(data_dir, "DATA_DIR")
        if files.is_dir(path / "eval"):
            return path
    named = os.environ.get("SPECIALIZATION_DIR")
    if not named:
        return None
    path = files.path(named, "SPECIALIZATION_DIR")
    if not files.is_dir(path / "eval"):
        raise DataError(
            f"SPECIALIZATION_DIR '{named}' has no folder eval; allowed: a directory with seeds, "
            "corpus and eval (docs/self_specialization.md), or nothing for the bundled domain"
        )
    return path


def domain_file(kind: str, domain: str, directory: epath.Path | None) -> epath.Path:
    """The path of a domain's seeds or corpus.

    Args:
        kind: "seeds" or "corpus".
        domain: its name.
        directory: as of `find_directory`.

    Raises:
        DataError: there is no such file.
    """
    if directory is None:
        _check_bundled(domain)
        return epath.Path(bundled.__file__).parent / f"{kind}.jsonl"
    path = directory / kind / f"{domain}.jsonl"
    if not files.is_file(path):
        raise DataError(f"domain '{domain}': no {kind}; allowed: one with {path}")
    return path


def set_names(domain: str, directory: epath.Path | None) -> tuple[str, ...]:
    """The evaluation sets of a domain.

    Raises:
        DataError: there is no such domain.
    """
    if directory is None:
        _check_bundled(domain)
        return sets.NAMES
    names = {name for _, found in _folders(domain, directory) for name in found}
    return tuple(sorted(names))


def metrics_of(domain: str, part: str, directory: epath.Path | None) -> tuple[str, ...]:
    """Names of the metrics that an evaluation set is scored with, the one for tables first.

    Raises:
        DataError: there is no such set.
    """
    found = (_read_set(domain, part, split, directory) for split in SPLITS)
    return metrics_of_kind(next((rows[0].category for rows in found if rows), ""))


def metrics_of_kind(kind: str) -> tuple[str, ...]:
    """Names of the metrics for sets of a kind, such as 'ner', the one for tables first."""
    return METRICS.get(kind, _OTHER_METRICS)


def splits_of(name: SelfName, directory: epath.Path | None) -> tuple[str, ...]:
    """The splits that all parts of a name have.

    Raises:
        DataError: a part is not there, or they have no split in common.
    """
    if not set(name.parts).isdisjoint((SEEDS, PRETRAINING)):
        return ("train",)
    found = [
        {split for split in SPLITS if _read_set(name.domain, part, split, directory)}
        for part in name.parts
    ]
    common = set.intersection(*found)
    if not common:
        raise DataError(f"{name}: its sets have no split in common; allowed: sets that share one")
    return tuple(split for split in SPLITS if split in common)


def rows_of(
    name: SelfName,
    split: str,
    directory: epath.Path | None,
    seed: int = 0,
    order: str = "seeded",
) -> list[Row]:
    """The rows of a name.

    Args:
        name: what to read.
        split: one of `splits_of`.
        directory: as of `find_directory`.
        seed: which sample a budget is. Samples of one seed nest.
        order: "seeded", or "release" for the first rows.

    Raises:
        DataError: a part is not there, its file is wrong, or a task has too few seeds.
    """
    found: list[Row] = []
    for part in name.parts:
        rows = _read_part(name, part, split, directory)
        if split == "train" and name.budget is not None:
            chosen = select(part, [row.id for row in rows], name.budget, seed, order)
            rows = [rows[index] for index in chosen]
        found += rows
    return found


def read_seeds(domain: str, directory: epath.Path | None) -> list[Row]:
    """The seeds of a domain as rows; the `task` of a row is that of the seed."""
    return list(_read_seeds(domain, _place(directory)))


def _read_part(name: SelfName, part: str, split: str, directory: epath.Path | None) -> list[Row]:
    if part == PRETRAINING:
        _check_bundled(name.domain)
        return list(pretraining.texts())
    if part == SEEDS:
        return read_seeds(name.domain, directory)
    rows = list(_read_set(name.domain, part, split, directory))
    if not name.shots:
        return rows
    own = sorted((s for s in read_seeds(name.domain, directory) if s.task == part), key=_by_id)
    if len(own) < name.shots:
        raise DataError(f"{name}: task '{part}' has {len(own)} seeds; allowed: {name.shots}")
    shown = tuple(Example(seed.input, seed.references[0]) for seed in own[: name.shots])
    return [dataclasses.replace(row, positive_examples=shown) for row in rows]


def _by_id(row: Row) -> str:
    return row.id


def _read_set(domain: str, part: str, split: str, directory: epath.Path | None) -> tuple[Row, ...]:
    """A split of an evaluation set, its kind as category; () where the set has none."""
    if directory is None:
        _check_bundled(domain)
        return sets.read(part, split)
    return _read_file(str(_set_file(domain, part, directory)), part, split)


def _set_file(domain: str, part: str, directory: epath.Path) -> epath.Path:
    folders = _folders(domain, directory)
    for folder, names in folders:
        if part in names:
            return folder / f"{part}.jsonl"
    there = [name for _, names in folders for name in names]
    raise DataError(
        f"evaluation set '{part}': not in {directory / 'eval' / domain}{_known(part, there)}"
    )


def _folders(domain: str, directory: epath.Path) -> list[tuple[epath.Path, list[str]]]:
    """The folders of a domain, with the names of their sets."""
    root = directory / "eval"
    there = files.names_in(root)
    found = [name for name in there if name == domain or name.startswith(f"{domain}_")]
    if not found:
        domains = [name for name in there if "." not in name]
        raise DataError(f"domain '{domain}': not in {root}{_known(domain, domains)}")
    return [
        (
            root / name,
            [
                file.removesuffix(".jsonl")
                for file in files.names_in(root / name)
                if file.endswith(".jsonl")
            ],
        )
        for name in found
    ]


def _known(name: str, there: Sequence[str]) -> str:
    return f"; allowed: {', '.join(sorted(there))}{hint(name, there)}"


@functools.lru_cache(maxsize=64)
def _read_file(path: str, part: str, split: str) -> tuple[Row, ...]:
    return tuple(records.read_evaluation(path, split, part))


@functools.lru_cache(maxsize=16)
def _read_seeds(domain: str, directory: str | None) -> tuple[Row, ...]:
    path = domain_file("seeds", domain, None if directory is None else epath.Path(directory))
    return tuple(
        Row(seed.task, seed.kind, seed.id, seed.instruction, seed.input, (seed.output,))
        for seed in records.read_seeds(path)
    )


def _place(directory: epath.Path | None) -> str | None:
    return None if directory is None else os.fspath(directory)


def _check_bundled(domain: str) -> None:
    if domain != BUNDLED_DOMAIN:
        raise DataError(
            f"domain '{domain}' without DATA_DIR; allowed: a DATA_DIR or SPECIALIZATION_DIR that "
            f"holds eval/{domain}, or the bundled domain '{BUNDLED_DOMAIN}'"
        )
