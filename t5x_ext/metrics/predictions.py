"""The predictions file: one JSON object a line, in input order.

    {"task": ..., "category": ..., "id": ..., "inputs": prompt text, "references": [text, ...],
     "prediction": text, "truncated": bool, "score": {"rougeL": 0..1, ...}   (after scoring only),
     "finish": what ended the prediction: "eos", "stop" or "length"   (where a model decoded it)}

Metrics of edits and of rewriting compare with the text that was to be rewritten, and some with gold
edits; rows of such tasks also have

    "source": text as its data set has it, tokens included,
    "edits": {annotator: [[start, end, [correction, ...], type], ...]}, tokens counted from 0

A run that decodes in another order than the input's, or that may be killed, writes through
`PredictionLog`: rows go to `<path>.partial` as batches finish, and `finish` puts them in order.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from mixtures.errors import DataError
from mixtures.records import parse_json
from mixtures.writing.gold_edits import GoldEdits, parse_gold_edits
from t5x_ext import files
from t5x_ext.errors import ConfigError

FINISHES = ("eos", "stop", "length")


class Answer(NamedTuple):
    """What a model made of one prompt.

    Attributes:
        text: of the prediction.
        finish: what ended it, one of `FINISHES`; None where that is not known.
    """

    text: str
    finish: str | None = None


@dataclass(frozen=True)
class Prediction:
    """One line of a predictions file; `inputs` is the prompt as the model saw it."""

    task: str
    category: str
    id: str
    inputs: str
    references: tuple[str, ...]
    prediction: str
    truncated: bool = False
    score: dict[str, float] | None = None
    source: str | None = None
    edits: GoldEdits | None = None
    finish: str | None = None

    def with_answer(self, answer: Answer) -> Prediction:
        """The row with another prediction, without a score."""
        return replace(self, prediction=answer.text, finish=answer.finish, score=None)

    def to_json(self) -> str:
        """The line without its newline; of the optional fields it has those that are there."""
        fields = asdict(self)
        for name in ("score", "source", "edits", "finish"):
            if fields[name] is None:
                del fields[name]
        return json.dumps(fields, ensure_ascii=False)


_TEXT_FIELDS = ("task", "category", "id", "prediction")


def parse_prediction(line: str, where: str) -> Prediction:
    """Reads and checks one line.

    Args:
        line: JSON text. `inputs` may be missing (scoring does not need it), `truncated` too;
            other fields are ignored.
        where: file and line number, for messages.

    Raises:
        ConfigError: not JSON, a key is repeated, a field is missing or of the wrong type, or an
            edit lies outside of the source's tokens.
    """
    try:
        fields = parse_json(line, where, "a JSON object")
    except DataError as error:
        raise ConfigError(str(error)) from None
    if not isinstance(fields, dict):
        raise ConfigError(f"{where}: {_shorten(fields)} is not a JSON object")
    for name in _TEXT_FIELDS:
        _check(name in fields, where, name, "missing", "a string")
        _check(isinstance(fields[name], str), where, name, _shorten(fields[name]), "a string")
    inputs, truncated = fields.get("inputs", ""), fields.get("truncated", False)
    _check(isinstance(inputs, str), where, "inputs", _shorten(inputs), "a string")
    _check(isinstance(truncated, bool), where, "truncated", _shorten(truncated), "true or false")
    references: Any = fields.get("references")
    _check("references" in fields, where, "references", "missing", "a list of strings")
    is_texts = isinstance(references, list) and all(isinstance(text, str) for text in references)
    _check(is_texts, where, "references", _shorten(references), "a list of strings")
    _check(bool(references), where, "references", "empty list", "at least one string")
    source, edits, finish = (fields.get(name) for name in ("source", "edits", "finish"))
    _check(source is None or isinstance(source, str), where, "source", _shorten(source), "a string")
    is_finish = finish is None or finish in FINISHES
    _check(is_finish, where, "finish", _shorten(finish), ", ".join(FINISHES))
    named = [*((name, fields[name]) for name in _TEXT_FIELDS), ("inputs", inputs)]
    named += [("source", source)] if source is not None else []
    gold = _gold_edits(edits, where, source)
    written = (edit for made in (gold or {}).values() for edit in made)
    named += [("edits", text) for edit in written for text in (*edit.corrections, edit.type)]
    for name, text in [*named, *(("references", text) for text in references)]:
        _check(_is_utf8(text), where, name, _shorten(text), "text that UTF-8 can encode")
    return Prediction(
        task=fields["task"],
        category=fields["category"],
        id=fields["id"],
        inputs=inputs,
        references=tuple(references),
        prediction=fields["prediction"],
        truncated=truncated,
        score=fields.get("score"),
        source=source,
        edits=gold,
        finish=finish,
    )


def read_predictions(path: str | os.PathLike[str]) -> list[Prediction]:
    """All rows of a predictions file, in file order; blank lines are passed over.

    Raises:
        ConfigError: the file cannot be read, holds no rows, or has a malformed line.
    """
    rows = [parse_prediction(line, where) for line, where in _lines(path)]
    if not rows:
        raise ConfigError(f"{path}: no predictions in this file; a JSON object per line is needed")
    return rows


def write_predictions(path: str | os.PathLike[str], rows: Iterable[Prediction]) -> None:
    """Writes rows in the order given; the file appears whole or not at all."""
    files.write_text(files.path(path), "".join(row.to_json() + "\n" for row in rows))


class PredictionLog:
    """Collects the predictions of one run so that a killed run resumes where it stopped.

    Invariant: `<path>.partial` holds a header line and then `{"index": i, "prediction": text,
    "finish": how it ended}` for rows whose batches have finished, in any order, each index at most
    once.
    """

    def __init__(self, path: str | os.PathLike[str], rows: Sequence[Prediction], signature: str):
        """Opens the log and picks up what an earlier run left.

        Args:
            path: the predictions file to be.
            rows: every input, in order, with any `prediction` (it is replaced).
            signature: identifies what determines the outputs (weights, data, decoding settings);
                rows left by a run with another signature are thrown away.
        """
        self.path = files.path(path)
        self._rows = list(rows)
        self._partial = self.path.parent / f"{self.path.name}.partial"
        self._header = json.dumps({"signature": signature, "rows": len(self._rows)}).encode()
        self._done: dict[int, Answer] = {}
        with files.writing(self._partial):
            self._file = files.GrowingFile(self._partial, self._take)

    def _take(self, content: bytes) -> bytes:
        """Takes up the rows that an earlier run left, and returns the sound part of its file."""
        header, *lines = content.splitlines(keepends=True) or [b""]
        kept = [self._header + b"\n"]
        if header != kept[0]:
            return kept[0]
        for line in lines:
            try:
                entry = json.loads(line)
                index, answer = entry["index"], Answer(entry["prediction"], entry["finish"])
            except (ValueError, KeyError, TypeError):
                break  # cut off in mid-write, or damaged
            is_answer = isinstance(answer.text, str) and answer.finish in (None, *FINISHES)
            if not (line.endswith(b"\n") and isinstance(index, int) and is_answer):
                break
            self._done[index] = answer
            kept.append(line)
        return b"".join(kept)

    @property
    def done(self) -> dict[int, Answer]:
        """Row index -> answer, of the rows that an earlier run or this one has decoded."""
        return dict(self._done)

    @property
    def missing(self) -> list[int]:
        """Indices of the rows that still have to be decoded, ascending."""
        return [i for i in range(len(self._rows)) if i not in self._done]

    def append(self, answers: Iterable[tuple[int, Answer]]) -> None:
        """Adds (row index, answer) pairs; see `GrowingFile` for when they are safe."""
        pairs = list(answers)
        self._done.update(pairs)
        lines = (
            json.dumps({"index": index, "prediction": text, "finish": finish}) + "\n"
            for index, (text, finish) in pairs
        )
        with files.writing(self._partial):
            self._file.append("".join(lines).encode())

    def finish(self) -> list[Prediction]:
        """Writes the predictions file in input order, removes the partial one, returns the rows.

        Raises:
            ValueError: some rows have no prediction yet (a mistake of the caller).
        """
        if self.missing:
            raise ValueError(f"{self.path}: {len(self.missing)} rows have no prediction yet")
        rows = [row.with_answer(self._done[i]) for i, row in enumerate(self._rows)]
        write_predictions(self.path, rows)
        self.close()
        with files.writing(self._partial):
            files.remove(self._partial)
        return rows

    def close(self) -> None:
        """Closes and keeps the partial file; a later run with the same signature continues it."""
        with files.writing(self._partial):  # what `append` could not write is tried once more
            self._file.close()

    def __enter__(self) -> PredictionLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """(line, "path: line N") for each line that is not blank."""
    text = io.StringIO(files.read_text(files.path(path)), newline=None)
    for number, line in enumerate(text, start=1):
        if line.strip():
            yield line, f"{path}: line {number}"


def _check(holds: bool, where: str, field: str, found: str, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{where}: field '{field}': {found}; allowed: {allowed}")


def _gold_edits(value: Any, where: str, source: str | None) -> GoldEdits | None:
    try:
        return None if value is None else parse_gold_edits(value, where, source)
    except DataError as error:
        raise ConfigError(str(error)) from None


def _is_utf8(text: str) -> bool:
    """False for text with half of a surrogate pair, which JSON can escape."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
