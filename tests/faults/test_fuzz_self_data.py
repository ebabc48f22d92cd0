"""Files of self-specialization and of gold edits, mutated: records of texts, or one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzzing import damaged, fuzz, mutated, outcome, to_json
from hypothesis import given
from hypothesis import strategies as st

from mixtures.writing.m2 import read_m2
from t5x_ext.generation.records import read_evaluation, read_seeds
from t5x_ext.retrieval import Corpus

ROWS: dict[str, dict[str, Any]] = {
    "seeds": {"task": "t", "instruction": "Do.", "input": "a", "output": "b", "kind": "ner"},
    "evaluation": {
        "instruction": "Do.",
        "input": "a",
        "references": ["b"],
        "split": "test",
        "meta": {"labels": ["b"]},
    },
    "corpus": {"title": "a", "text": "b c"},
}
READERS: dict[str, Callable[[Path], list]] = {
    "seeds": read_seeds,
    "evaluation": read_evaluation,
    "corpus": lambda path: list(Corpus(path).scan()),
}
M2 = b"""S This are it .
A 1 2|||R:VERB|||is|||REQUIRED|||-NONE-|||0
A -1 -1|||noop|||-NONE-|||REQUIRED|||-NONE-|||1

S Two .

"""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("self_data")


@pytest.mark.parametrize("kind", sorted(ROWS))
@fuzz
@given(data=st.data())
def test_fuzz_lines(scratch: Path, kind: str, data: st.DataObject) -> None:
    path = scratch / f"{kind}.jsonl"
    lines = data.draw(mutated([{"id": str(i)} | ROWS[kind] for i in range(2)]))
    path.write_bytes(b"\n".join(map(to_json, lines)))
    found = outcome(lambda: READERS[kind](path))
    if not isinstance(found, str):
        # What was read can be tokenised, hashed and written.
        json.dumps([str(record) for record in found], ensure_ascii=False).encode()


@pytest.mark.parametrize("kind", sorted(ROWS))
@fuzz
@given(data=st.data())
def test_fuzz_bytes(scratch: Path, kind: str, data: st.DataObject) -> None:
    path = scratch / f"{kind}.jsonl"
    whole = b"\n".join(to_json({"id": str(i)} | ROWS[kind]) for i in range(2))
    path.write_bytes(data.draw(damaged(whole)))
    outcome(lambda: READERS[kind](path))


@fuzz
@given(data=damaged(M2))
def test_fuzz_gold_edits(scratch: Path, data: bytes) -> None:
    path = scratch / "gold.m2"
    path.write_bytes(data)
    found = outcome(lambda: read_m2(path))
    if not isinstance(found, str):
        for sentence in found:
            length = len(sentence.source.split())
            for edits in sentence.edits.values():
                assert all(0 <= edit.start <= edit.end <= length for edit in edits)
