"""Tasks from Python rows, mixed at rates of your choice, under a prompt of your own.

    python docs/examples/register_mixture.py

prints what the mixture draws. A run finds the names when it imports this module:

    PYTHONPATH=docs/examples python -m t5x_ext.train \\
        --gin_file=models/t5_1_1_tiny.gin --gin_file=runs/train.gin \\
        --gin.MIXTURE_OR_TASK_MODULE="'register_mixture'" \\
        --gin.MIXTURE_OR_TASK_NAME="'arithmetic'" \\
        --gin.TASK_FEATURE_LENGTHS="{'inputs': 32, 'targets': 16}" \\
        --gin.TRAIN_STEPS=20 --gin.MODEL_DIR="'runs/arithmetic'"
"""

from __future__ import annotations

import itertools

import mixtures  # isort: skip  (before SeqIO: it drops what TensorFlow logs while it is loaded)
import seqio

from mixtures.records import Row

PAIRS = list(itertools.product(range(20), range(20)))


@mixtures.register_prompt("plain")
def plain(row: Row) -> str:
    """The instruction, then the input."""
    return f"{row.definition} {row.input} ="


def rows(sign: str) -> list[dict[str, str]]:
    """A row for each pair of numbers, in the fields of a JSONL line."""
    apply = {"+": int.__add__, "-": int.__sub__}[sign]
    return [
        {"instruction": "Work out:", "input": f"{a} {sign} {b}", "output": str(apply(a, b))}
        for a, b in PAIRS
    ]


for name, sign in (("sums", "+"), ("differences", "-")):
    everything = rows(sign)
    mixtures.register(name, {"train": everything[:-40], "test": everything[-40:]}, prompt="plain")
# Three differences for each sum.
seqio.MixtureRegistry.add("arithmetic", [("sums", 1), ("differences", 3)])


def main() -> None:
    """Draws from the mixture and counts."""
    mixture = seqio.get_mixture_or_task("arithmetic")
    drawn = mixture.get_dataset({"inputs": 32, "targets": 16}, "train", seed=0).take(2000)
    decode = mixtures.current_context().vocabulary.decode
    lines = [
        f"{decode(example['inputs'].tolist())} {decode(example['targets'].tolist())}"
        for example in drawn.as_numpy_iterator()
    ]
    print(*lines[:3], sep="\n")
    share = sum(" - " in line for line in lines) / len(lines)
    print(f"differences: {100 * share:.0f}%")


if __name__ == "__main__":
    main()
