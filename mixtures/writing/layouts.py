"""Readers for the layouts in which writing sets are distributed.

Every reader takes paths and gives `Item`s in file order, texts as they stand in the file. What a
file has that its layout has not is an error of one line with file, line, field and what is allowed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mixtures.errors import DataError, quoted
from mixtures.files import StrPath
from mixtures.jsonl import ONE_PER_LINE, check_text, is_texts, read_objects, wrong_field
from mixtures.records import parse_json_text
from mixtures.writing.gold_edits import parse_gold_edits
from mixtures.writing.lines import read_lines
from mixtures.writing.m2 import Sentence, read_m2

T = TypeVar("T")

TURK_REFERENCES = 8
_WNC_COLUMNS = 7  # id, source tokens, target tokens, source, target, POS tags, parse tags


@dataclass(frozen=True)
class Item:
    """A text, what it may be rewritten to, and what else its file says.

    Attributes:
        source: the text as distributed; "" for an instruction without input.
        references: one or more rewritings as distributed; one may be empty.
        id: where the file states one.
        label: the kind of edit, where a file holds several kinds.
        instruction: where the file states one.
        edits: gold edits by annotator as JSON, where the file has edits.
        document: which one the text is from, where the file says so.
        tokenized: whether tokens are separated by spaces; None if the file does not say.
    """

    source: str
    references: tuple[str, ...]
    id: str = ""
    label: str = ""
    instruction: str = ""
    edits: str = ""
    document: str = ""
    tokenized: bool | None = None


def read_parallel(source: StrPath, *references: StrPath) -> list[Item]:
    """Files whose lines belong together: JFLEG, ASSET, TurkCorpus in its GEM folder, WikiLarge."""
    texts = read_lines(source)
    columns = [read_lines(path) for path in references]
    for path, lines in zip(references, columns, strict=True):
        if len(lines) != len(texts):
            raise DataError(
                f"{path}: {len(lines)} lines; allowed: {len(texts)}, one for each of {source}"
            )
    return [
        Item(text, tuple(lines[row] for lines in columns))
        for row, text in enumerate(_filled(texts, source))
    ]


def read_turk_table(path: StrPath) -> list[Item]:
    """TurkCorpus' table: number, source, 8 references; tabs, quotes doubled as in CSV."""
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}: line {number}"
        # By itself, since an unbalanced quote would take in the lines that follow.
        row = next(_csv_rows([line], path, "\t", number), [])
        if len(row) != 2 + TURK_REFERENCES:
            raise _wrong_columns(
                where, len(row), f"{2 + TURK_REFERENCES}: number, source, 8 turkers"
            )
        found.append(Item(_text(row[1], where, "source"), tuple(row[2:]), id=row[0]))
    return _some(found, path)


def read_wnc(path: StrPath) -> list[Item]:
    """WNC's `biased.*`: tabs, no header, and quotes are characters like others."""
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}: line {number}"
        row = line.split("\t")
        if len(row) != _WNC_COLUMNS:
            columns = "id, source tokens, target tokens, source, target, POS tags, parse tags"
            raise _wrong_columns(where, len(row), f"{_WNC_COLUMNS}: {columns}")
        found.append(Item(_text(row[3], where, "source"), (row[4],), id=row[0]))
    return _some(found, path)


def read_pairs(path: StrPath) -> list[Item]:
    """CLang8: source TAB target."""
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}: line {number}"
        row = line.split("\t")
        if len(row) != 2:
            raise _wrong_columns(where, len(row), "2: source and target")
        found.append(Item(_text(row[0], where, "source"), (row[1],)))
    return _some(found, path)


def read_stsb(path: StrPath) -> list[Item]:
    """The STS benchmark's CSV, its pairs of the highest similarity: 5."""
    found = []
    # A quoted sentence may hold a line break, so lines are the CSV reader's business.
    lines = (line + "\n" for line in read_lines(path))
    for number, row in enumerate(_csv_rows(lines, path), start=1):
        where = f"{path}: row {number}"
        if len(row) != 3:
            raise _wrong_columns(where, len(row), "3: sentence1, sentence2, score")
        try:
            score = float(row[2])
        except ValueError:
            raise wrong_field(where, "score", row[2], "a number of 0 to 5") from None
        if score == 5.0:
            item = Item(_text(row[0], where, "sentence1"), (row[1],), id=str(number - 1))
            found.append(item)
    return _some(found, path)


def read_iterater(path: StrPath) -> list[Item]:
    """ITERATER, version 1 (human, sentence level) and 2: one object per line."""
    found = []
    for where, value in read_objects(path, f"{ONE_PER_LINE}, with before_sent, after_sent, labels"):
        before, after = (_string(value, where, f"{part}_sent") for part in ("before", "after"))
        label, document = _string(value, where, "labels"), _id(value, where, "doc_id")
        found.append(Item(before, (after,), label=label, document=document))
    return _some(found, path)


def read_alpaca(path: StrPath) -> list[Item]:
    """Alpaca's JSON list of instruction, input (may be empty) and output."""
    text = "\n".join(read_lines(path))
    value = parse_json_text(text, str(path), "a JSON list of instruction, input, output")
    if not isinstance(value, list):
        raise DataError(f"{path}: {type(value).__name__}; allowed: a list of objects")
    found = []
    for number, row in enumerate(value):
        where = f"{path}: item {number}"
        if not isinstance(row, dict):
            raise DataError(f"{where}: {quoted(str(row))}; allowed: instruction, input, output")
        instruction, source, output = (
            _string(row, where, field) for field in ("instruction", "input", "output")
        )
        _text(instruction, where, "instruction")
        found.append(Item(source, (output,), instruction=instruction))
    return _some(found, path)


def read_m2_items(path: StrPath) -> list[Item]:
    """CoNLL-2014, BEA-2019, W&I+LOCNESS and other M2: edits, and each annotator's sentence."""
    return [
        Item(sentence.source, sentence.references, edits=sentence.edits_as_json(), tokenized=True)
        for sentence in read_m2(path)
    ]


def read_character_edits(path: StrPath) -> list[Item]:
    """W&I+LOCNESS' JSON: whole texts with edits in characters; null leaves an error as it is."""
    found = []
    for where, value in read_objects(path, f"{ONE_PER_LINE}, with id, text, edits"):
        text = _string(value, where, "text")
        try:
            corrected = tuple(_apply(text, edits) for _, edits in value["edits"])
        except (KeyError, TypeError, ValueError):
            allowed = "[[annotator, [[start, end, text or null], ...]], ...] in characters"
            raise wrong_field(where, "edits", value.get("edits"), allowed) from None
        found.append(Item(text, corrected or (text,), id=_string(value, where, "id")))
    return _some(found, path)


def read_jsonl(path: StrPath, dataset: str) -> list[Item]:
    """One object per line: input and references; dataset, instruction, id, edits and meta are
    optional, and may be null.

    Args:
        path: the file.
        dataset: what `dataset` must say, so that no set is taken for another.
    """
    found = []
    for where, value in read_objects(path, f"{ONE_PER_LINE}, with instruction, input, references"):
        named = _optional(value, where, "dataset", str, "a text") or dataset
        if named != dataset:
            raise wrong_field(where, "dataset", named, f"{dataset!r}, the set of this file's name")
        references = value.get("references")
        if not is_texts(references) or not references:
            raise wrong_field(where, "references", references, "a list of one or more texts")
        source = _string(value, where, "input")
        edits = value.get("edits")
        meta = _optional(value, where, "meta", dict, "an object") or {}
        item = Item(
            source,
            tuple(references),
            id=_id(value, where, "id"),
            document=_id(meta, where, "doc_id"),
            label=_optional(meta, where, "label", str, "a text") or "",
            instruction=_optional(value, where, "instruction", str, "a text") or "",
            edits="" if edits is None else _edits(edits, where, source),
            tokenized=_optional(meta, where, "tokenized", bool, "true or false"),
        )
        found.append(item)
    return _some(found, path)


def _csv_rows(
    lines: Iterable[str], path: StrPath, delimiter: str = ",", first: int = 1
) -> Iterator[list[str]]:
    """The rows of CSV; `first` is the number of the first line, for messages."""
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        where = f"{path}: line {first + reader.line_num}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            allowed = "CSV whose quotes are closed, without a carriage return inside of a line"
            raise DataError(f"{where}: not CSV ({error}); allowed: {allowed}") from None
        if row is None:
            return
        yield row


def _apply(text: str, edits: Sequence[tuple[int, int, str | None]]) -> str:
    for start, end, correction in sorted(edits, key=lambda edit: tuple(edit[:2]), reverse=True):
        if not 0 <= start <= end <= len(text):
            raise ValueError("outside of the text")
        if correction is not None:
            text = text[:start] + correction + text[end:]
    return text


def _filled(texts: list[str], path: StrPath) -> list[str]:
    for number, text in enumerate(texts, start=1):
        _text(text, f"{path}: line {number}", "source")
    if not texts:
        raise DataError(f"{path}: holds no line; allowed: one text per line")
    return texts


def _some(found: list[Item], path: StrPath) -> list[Item]:
    if not found:
        raise DataError(f"{path}: holds no row that can be used; allowed: one or more")
    return found


def _string(value: dict[str, Any], where: str, field: str) -> str:
    return check_text(where, field, value.get(field), allowed="a string")


def _optional(
    value: dict[str, Any], where: str, field: str, kind: type[T], allowed: str
) -> T | None:
    """A field that may be absent or null."""
    found = value.get(field)
    if found is not None and not isinstance(found, kind):
        raise wrong_field(where, field, found, allowed)
    return found


def _id(value: dict[str, Any], where: str, field: str) -> str:
    """A text, or a whole number as one; "" where there is none."""
    if type(value.get(field)) is int:
        return str(value[field])
    return _optional(value, where, field, str, "a text or a whole number") or ""


def _edits(value: Any, where: str, source: str) -> str:
    return Sentence(source, parse_gold_edits(value, where, source)).edits_as_json()


def _text(text: str, where: str, field: str) -> str:
    return check_text(where, field, text, False, "a text that is not blank")


def _wrong_columns(where: str, count: int, allowed: str) -> DataError:
    return DataError(f"{where}: {count} columns; allowed: {allowed} (separated as published)")
