"""What synthetic rows are like: repeated, leaked from the evaluation, one-sided, long.

The verb and noun of an instruction are found by its words, without a parser: the first word that is
no opening phrase, and the last word of the phrase after it. They are for pictures of diversity, as
in the papers' figures, and for nothing finer.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from mixtures.records import Row
from mixtures.specialization.records import Seed
from t5x_ext import files
from t5x_ext.errors import ConfigError
from t5x_ext.generation.journal import check_texts, read_records
from t5x_ext.generation.overlap import EvaluationTexts, Overlap, fold

_FIELDS = ("instruction", "input", "output")
_MOST = 20  # pairs and bigrams that are listed

_DETERMINERS = frozenset(
    "a an the this that these those each every all any some following given one two three your its "
    "his her their most more".split()
)
# Where the phrase after a verb ends.
_BREAKS = frozenset(
    "of in on at to from for with by about into as and or that which who whose whether if when "
    "where why how using based is are was were be been has have had do does did can could should "
    "would may might will it them they you between below above according mentioned provided "
    "listed".split()
)
_OPENING = re.compile(
    r"^(?:in this task|given|you are given|you will be given|based on|according to|from|for|"
    r"using)\b[^,.:]*[,.:]\s*",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class SyntheticRow:
    """A row of train.jsonl."""

    id: str
    instruction: str
    input: str
    output: str


@dataclasses.dataclass(frozen=True)
class Shared:
    """A text that shares words in a row with an evaluation row.

    Attributes:
        id: of the synthetic row, or passage.
        field: 'instruction', 'input', 'output' or 'passage'.
        text: that field.
        evaluation_task: of the evaluation row.
        evaluation_id: its id.
        evaluation_text: its input or reference.
        words: those that both have.
        evaluation_rows: rows that have them; boilerplate is in many, a copied text in one.
    """

    id: str
    field: str
    text: str
    evaluation_task: str
    evaluation_id: str
    evaluation_text: str
    words: str
    evaluation_rows: int


def audit_rows(
    rows: Sequence[SyntheticRow],
    evaluation: Iterable[Row] = (),
    seeds: Iterable[Seed] = (),
    passages: Iterable[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Measures synthetic rows.

    Args:
        rows: what a model wrote.
        evaluation: rows that must not be among them.
        seeds: likewise.
        passages: (id, text) of the corpus, to be compared with the evaluation too.

    Returns:
        What can be printed as JSON: `rows`; `duplicates`, groups of ids that have a field in
        common, by field; `seed_copies`; `shared`, see `Shared`; `openings` and `verb_nouns`, those
        of most rows with their shares; `labels`, outputs of most rows; `words`, of each field.
    """
    texts = EvaluationTexts(evaluation)
    seeds = list(seeds)
    known = {name: {fold(getattr(seed, name)) for seed in seeds} for name in _FIELDS}
    fields = [(row.id, name, getattr(row, name)) for row in rows for name in _FIELDS]
    fields += [(name, "passage", text) for name, text in passages]
    return {
        "rows": len(rows),
        "duplicates": {name: _duplicates(rows, name) for name in ("instruction", "input", "both")},
        "seed_copies": [
            {"id": row.id, "field": name}
            for row in rows
            for name in ("instruction", "input")
            if getattr(row, name).strip() and fold(getattr(row, name)) in known[name]
        ],
        "shared": [
            dataclasses.asdict(Shared(name, field, text, *_of(overlap)))
            for name, field, text in fields
            if (overlap := texts.find(text))
        ],
        "openings": most_frequent(rows, "openings"),
        "verb_nouns": most_frequent(rows, "verb_nouns"),
        "labels": _shares(fold(row.output) for row in rows),
        "words": {name: _lengths(getattr(row, name) for row in rows) for name in _FIELDS},
    }


def most_frequent(
    rows: Iterable[SyntheticRow], what: Literal["openings", "verb_nouns"]
) -> list[dict[str, Any]]:
    """How most instructions open, or which verbs with which nouns they have.

    Returns:
        [{"text", "rows", "share"}], the most frequent first.
    """
    if what == "openings":
        return _shares(_opening(row.instruction) for row in rows)
    return _shares(" ".join(verb_noun(row.instruction)) for row in rows)


def read_rows(path: files.StrPath) -> list[SyntheticRow]:
    """Reads train.jsonl, or another file of instruction, input and output.

    Raises:
        ConfigError: the file cannot be read, holds no row, or a row lacks a text.
    """
    found = []
    for number, record in enumerate(read_records(path), start=1):
        check_texts(f"{path}: record {number}", record, _FIELDS)
        name = str(record.get("id", f"row {number}"))
        found.append(SyntheticRow(name, *(record[field] for field in _FIELDS)))
    if not found:
        raise ConfigError(f"{path}: holds no row; allowed: one or more")
    return found


def verb_noun(instruction: str) -> tuple[str, str]:
    """'Identify the rare diseases mentioned in ...' -> ('identify', 'diseases').

    Questions give their question word and the last word of what it asks about; '' stands for a
    noun that is not there.
    """
    rest = instruction.strip()
    while (shorter := _OPENING.sub("", rest, count=1)) != rest and shorter:
        rest = shorter
    first_sentence = re.split(r"[.,:;?!\n]", rest, maxsplit=1)[0]
    words = re.findall(r"[a-z][a-z'-]*", first_sentence.lower())
    if not words:
        return "", ""
    verb, *others = words
    phrase: list[str] = []
    for word in others:
        if word in _DETERMINERS and not phrase:
            continue
        if word in _BREAKS or (phrase and word.endswith(("ed", "ing"))):
            if phrase:
                break
            continue
        phrase.append(word)
    return verb, phrase[-1] if phrase else ""


def _opening(instruction: str) -> str:
    return " ".join(fold(instruction).split()[:2])


def _duplicates(rows: Sequence[SyntheticRow], field: str) -> list[list[str]]:
    groups: dict[Any, list[str]] = defaultdict(list)
    for row in rows:
        key = fold(row.instruction), fold(row.input)
        text = key if field == "both" else fold(getattr(row, field))
        if text:
            groups[text].append(row.id)
    return [ids for ids in groups.values() if len(ids) > 1]


def _of(overlap: Overlap) -> tuple[str, str, str, str, int]:
    found = overlap
    return found.task, found.id, found.evaluation_text, found.words, found.num_rows


def _shares(texts: Iterable[str]) -> list[dict[str, Any]]:
    counts = Counter(texts)
    return [
        {"text": text, "rows": count, "share": count / counts.total()}
        for text, count in counts.most_common(_MOST)
    ]


def _lengths(texts: Iterable[str]) -> dict[str, float]:
    words = np.array([len(text.split()) for text in texts] or [0])
    p50, p95 = np.percentile(words, (50, 95))
    return {
        "mean": float(words.mean()),
        "p50": float(p50),
        "p95": float(p95),
        "longest": int(words.max()),
    }
