"""One small checkpoint of each layout, and ways to damage its files."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "checkpoints"))

import hf_checkpoints  # noqa: E402

from t5x_ext.checkpoints.hugging_face import write_hf  # noqa: E402
from t5x_ext.checkpoints.own_layout import write_params  # noqa: E402
from t5x_ext.checkpoints.t5x_layout import write_t5x  # noqa: E402

LAYOUTS = ("hf", "hf_sharded", "t5x", "own")


def make_all(directory: Path) -> dict[str, Path]:
    """Writes one checkpoint per layout, of models of a few thousand parameters."""
    source = hf_checkpoints.random_source(hf_checkpoints.T5_1_1)
    places = {layout: directory / layout for layout in LAYOUTS}
    write_hf(source, str(places["hf"]))
    write_hf(source, str(places["hf_sharded"]), max_file_bytes=20_000)
    write_t5x(source, str(places["t5x"]), scan_layers=True)
    write_params(source, str(places["own"]))
    return places


def files_of(checkpoint: Path) -> list[Path]:
    """Its files, relative to it, in an order that does not change."""
    return sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())


@st.composite
def changed_files(draw: st.DrawFn, checkpoint: Path) -> dict[Path, bytes | None]:
    """New contents of one to three files; None for one that is gone."""
    changed: dict[Path, bytes | None] = {}
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(files_of(checkpoint)))
        data = (checkpoint / path).read_bytes()
        how = draw(st.sampled_from(("gone", "empty", "cut", "flip", "zeros", "longer", "json")))
        at = draw(st.integers(0, len(data)))
        changed[path] = {
            "gone": lambda: None,
            "empty": lambda: b"",
            "cut": lambda data=data, at=at: data[:at],
            "flip": lambda data=data, at=at: _flip(data, at, draw(st.integers(0, 7))),
            "zeros": lambda data=data, at=at: data[:at] + bytes(len(data) - at),
            "longer": lambda data=data: data + b"x",
            "json": lambda data=data: _change_json(draw, data),
        }[how]()
    return changed


@contextlib.contextmanager
def with_changes(checkpoint: Path, changed: dict[Path, bytes | None]) -> Iterator[None]:
    """Changes files of a checkpoint while its body runs."""
    before = {path: (checkpoint / path).read_bytes() for path in changed}
    try:
        for path, data in changed.items():
            if data is None:
                (checkpoint / path).unlink()
            else:
                (checkpoint / path).write_bytes(data)
        yield
    finally:
        for path, data in before.items():
            (checkpoint / path).write_bytes(data)


def _flip(data: bytes, at: int, bit: int) -> bytes:
    if not data:
        return b"\1"
    at = min(at, len(data) - 1)
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def _change_json(draw: st.DrawFn, data: bytes) -> bytes:
    """Another value somewhere in a JSON file; other files lose their first byte."""
    from fuzzing import mutated, to_json

    try:
        value: Any = json.loads(data)
    except ValueError:
        return data[1:]
    return to_json(draw(mutated(value)) if isinstance(value, dict | list) else [value])
