"""Packs examples with our planner and with SeqIO's packing, side by side.

    python benchmarks/packing.py [--examples 4000]

Prints examples a second and density (tokens per position of the encoder) of both.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import seqio
import tensorflow as tf

from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory

LENGTHS = {"inputs": 1024, "targets": 256}


def make_examples(count: int) -> list[Example]:
    """Inputs of 400 +- 150 tokens, targets of about 40, as SuperNI has them."""
    rng = np.random.default_rng(0)

    def one(index: int) -> Example:
        inputs, targets = rng.normal(400, 150), rng.normal(40, 15)
        tokens = [
            np.full(int(np.clip(n, 5, m)), 7, np.int32)
            for n, m in ((inputs, LENGTHS["inputs"]), (targets, LENGTHS["targets"]))
        ]
        return Example(str(index), "task", "", tokens[0], (tokens[1],), "", ("",), False)

    return [one(index) for index in range(count)]


def pack_ours(examples: list[Example]) -> tuple[float, float]:
    clock = time.perf_counter()
    batches = TrainBatches([in_memory("task", examples)], 32, LENGTHS, pack=True, seed=0)
    filled = positions = 0
    for step in range(batches.steps_per_epoch()):
        batch, _ = batches.make(0, step)
        used = batch["encoder_segment_ids"].any(axis=1)  # the last batch may hold empty rows
        filled += int((batch["encoder_segment_ids"] > 0).sum())
        positions += int(used.sum()) * LENGTHS["inputs"]
    return len(examples) / (time.perf_counter() - clock), filled / positions


def pack_seqio(examples: list[Example]) -> tuple[float, float]:
    signature = {name: tf.TensorSpec([None], tf.int32) for name in LENGTHS}
    rows = ({"inputs": e.inputs, "targets": e.targets[0]} for e in examples)
    dataset = tf.data.Dataset.from_generator(lambda: rows, output_signature=signature)
    clock = time.perf_counter()
    packed = seqio.utils.trim_and_pack_dataset(dataset, LENGTHS)
    filled = positions = 0
    for row in packed.as_numpy_iterator():
        filled += int((row["inputs_segment_ids"] > 0).sum())
        positions += LENGTHS["inputs"]
    return len(examples) / (time.perf_counter() - clock), filled / positions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=4000)
    examples = make_examples(parser.parse_args().examples)
    (our_speed, our_density), (speed, density) = pack_ours(examples), pack_seqio(examples)
    print(f"ours   {our_speed:9.0f} examples/s  density {our_density:.3f}")
    print(f"seqio  {speed:9.0f} examples/s  density {density:.3f}")
    print(f"ratio  {our_speed / speed:9.1f}x            {our_density / density:.2f}x")


if __name__ == "__main__":
    main()
