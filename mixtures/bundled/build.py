"""Writes the bundled suite: ``python -m mixtures.bundled.build [--out DIR] [--check]``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mixtures.bundled.draws import Draw
from mixtures.bundled.specs import Item, TaskSpec
from mixtures.bundled.test_track import test_track
from mixtures.bundled.train import train_track
from mixtures.bundled.vocabulary import train_vocabulary
from t5x_ext.terminal import Parser, command, note, show

SUITE = Path(__file__).parent / "suite"
SEED = "t5x_ext bundled suite 1"
TRAIN_INSTANCES = 130
TEST_INSTANCES = 320
POSITIVE_EXAMPLES = 2
NEGATIVE_EXAMPLES = 1
VOCABULARY_SIZE = 768
# How often the prompts' own words are counted in the vocabulary's training text.
PROMPT_TEXT = "Definition: Positive example 1- Now complete the following example - Input: Output:"


def build_suite() -> dict[str, bytes]:
    """Returns the suite's files: path relative to the suite's folder -> content."""
    tracks = {"train": train_track(), "test": test_track()}
    counts = {"train": TRAIN_INSTANCES, "test": TEST_INSTANCES}
    files: dict[str, bytes] = {}
    texts: list[str] = []
    number = 0
    for track, specs in tracks.items():
        names = []
        for spec in specs:
            number += 1
            name = f"task{number:03d}_{spec.name}"
            record = task_record(name, spec, counts[track])
            files[f"tasks/{name}.json"] = _json(record)
            names.append(name)
            if track == "train":
                texts += _vocabulary_texts(record)
        files[f"splits/default/{track}_tasks.txt"] = ("\n".join(names) + "\n").encode()
    files["vocab.model"] = train_vocabulary(texts, VOCABULARY_SIZE)
    return files


def task_record(name: str, spec: TaskSpec, instances: int) -> dict:
    """Draws the items of a task and lays them out as the natural-instructions release does."""
    items = _different_items(name, spec, POSITIVE_EXAMPLES + NEGATIVE_EXAMPLES + instances)
    positive = items[:POSITIVE_EXAMPLES]
    negative = items[POSITIVE_EXAMPLES:][:NEGATIVE_EXAMPLES]
    rest = items[POSITIVE_EXAMPLES + NEGATIVE_EXAMPLES :]
    return {
        "Contributors": ["t5x_ext"],
        "Source": ["synthetic"],
        "URL": [],
        "Categories": [spec.category],
        "Reasoning": [],
        "Definition": [spec.definition],
        "Input_language": ["English"],
        "Output_language": ["English"],
        "Instruction_language": ["English"],
        "Domains": ["Story"],
        "Positive Examples": [
            {"input": item.input, "output": item.output, "explanation": item.why}
            for item in positive
        ],
        "Negative Examples": [
            {
                "input": item.input,
                "output": item.wrong,
                "explanation": f"The correct output is: {item.output}",
            }
            for item in negative
        ],
        "Instances": [
            {"id": f"{name.split('_')[0]}-{i}", "input": item.input, "output": [item.output]}
            for i, item in enumerate(rest)
        ],
        "Instance License": ["Apache 2.0"],
    }


def _different_items(name: str, spec: TaskSpec, count: int) -> list[Item]:
    """Draws items with different inputs; the first two have different outputs."""
    draw = Draw(f"{SEED}/{name}")
    items: dict[str, Item] = {}
    first = spec.make(draw)
    second = spec.make(draw)
    while second.output == first.output:
        second = spec.make(draw)
    for item in (first, second):
        items[item.input] = item
    for _ in range(100 * count):
        if len(items) == count:
            return list(items.values())
        item = spec.make(draw)
        items.setdefault(item.input, item)
    raise ValueError(f"task {name}: {len(items)} different inputs exist, {count} are needed")


def _vocabulary_texts(record: dict) -> list[str]:
    texts = [f"{PROMPT_TEXT} {record['Definition'][0]}"]
    for instance in record["Instances"]:
        texts.append(f"{instance['input']} {instance['output'][0]} {record['Definition'][0]}")
    return texts


def _json(record: dict) -> bytes:
    return (json.dumps(record, indent=4, ensure_ascii=False) + "\n").encode()


def differences(files: dict[str, bytes], folder: Path) -> list[str]:
    """Returns one line for each file that is missing, superfluous or different in a folder."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    lines = [f"{path}: superfluous" for path in sorted(present - files.keys())]
    for path, content in files.items():
        if path not in present:
            lines.append(f"{path}: missing")
        elif (folder / path).read_bytes() != content:
            lines.append(f"{path}: different")
    return lines


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = Parser("mixtures.bundled.build", __doc__)
    parser.add_argument("--out", type=Path, default=SUITE, help="folder of the suite")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args(argv)
    files = build_suite()
    if options.check:
        lines = differences(files, options.out)
        note(*(f"error: {options.out}: {line}" for line in lines))
        if not lines:
            show(f"{options.out}: {len(files)} files as built")
        return 1 if lines else 0
    for path, content in files.items():
        target = options.out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    show(f"{options.out}: {len(files)} files, {sum(map(len, files.values())) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
