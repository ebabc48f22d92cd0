"""Writes the rows of the bundled writing suite, to look at or to change.

    python -m mixtures.writing --out=writing_suite

The files are <task>.<split>.jsonl, one object per line with instruction, input and references.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from mixtures import files
from mixtures.errors import DataError
from mixtures.writing.bundled.rows import bundled_items
from mixtures.writing.layouts import Item
from mixtures.writing.sets import GENERIC, INSTRUCTIONS, SPLITS
from t5x_ext.terminal import Parser, command, show


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; returns its exit status."""
    parser = Parser("mixtures.writing", __doc__)
    parser.add_argument("--out", metavar="DIR", required=True, help="directory to write to")
    directory = files.path(parser.parse_args(argv).out, "--out")
    written = 0
    for task in (*INSTRUCTIONS, GENERIC):
        for split in SPLITS:
            lines = [json.dumps(_fields(task, item)) for item in bundled_items(task, split)]
            target = directory / f"{task}.{split}.jsonl"
            try:
                files.write_bytes(target, ("\n".join(lines) + "\n").encode())
            except OSError as error:
                raise DataError(f"{target}: cannot be written ({error.strerror})") from None
            written += 1
    show(f"{directory}: {written} files")


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
