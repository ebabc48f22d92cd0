"""Writes the rows of the bundled writing suite, to look at or to change.

    python -m mixtures.writing --out=writing_suite

The files are <task>.<split>.jsonl, one object per line with instruction, input and references.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mixtures.writing.bundled.rows import bundled_items
from mixtures.writing.layouts import Item
from mixtures.writing.sets import GENERIC, INSTRUCTIONS, SPLITS


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mixtures.writing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write to")
    directory = parser.parse_args(arguments).out
    directory.mkdir(parents=True, exist_ok=True)
    for task in (*INSTRUCTIONS, GENERIC):
        for split in SPLITS:
            lines = [json.dumps(_fields(task, item)) for item in bundled_items(task, split)]
            (directory / f"{task}.{split}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{directory}: {len(list(directory.glob('*.jsonl')))} files")
    return 0


def _fields(task: str, item: Item) -> dict[str, object]:
    return {
        "dataset": task,
        "id": item.id,
        "instruction": item.instruction or INSTRUCTIONS[task],
        "input": item.source,
        "references": list(item.references),
        "meta": {"tokenized": bool(item.tokenized)},
    }


if __name__ == "__main__":
    sys.exit(main())
