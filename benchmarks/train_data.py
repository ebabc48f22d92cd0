"""Examples and batches for benchmarks of the train step."""

from __future__ import annotations

import os

import numpy as np

from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory

VOCAB_SIZE = 32128


def random_examples(count: int, lengths: dict[str, int], full: bool = False) -> list[Example]:
    """Random tokens: half to all of `lengths` or, if `full`, all."""
    rng = np.random.default_rng(0)

    def tokens(limit: int, index: int) -> np.ndarray:
        # One in every batch is as long as can be.
        length = limit if full or index == 0 else rng.integers(limit // 2, limit + 1)
        return rng.integers(3, VOCAB_SIZE - 128, length, dtype=np.int32)

    def one(index: int) -> Example:
        inputs, targets = tokens(lengths["inputs"], index), tokens(lengths["targets"], index)
        return Example(str(index), "task", "", inputs, (targets,), "", ("",), False)

    return [one(index) for index in range(count)]


def superni_examples(count: int, lengths: dict[str, int]) -> list[Example]:
    """Instances of the train track in turn over tasks, as Tk-Instruct shows them to its model.

    From $SUPERNI_DIR, else from the bundled suite, whose prompts are shorter.
    """
    from mixtures import prompts, records, truncation
    from mixtures.release import Release, data_dir
    from mixtures.train_vocabulary import trained_vocabulary
    from mixtures.vocabularies import bundled_vocabulary

    real = "SUPERNI_DIR" in os.environ
    vocabulary = trained_vocabulary(8000) if real else bundled_vocabulary()
    release = Release(data_dir())
    render = prompts.get_prompt("tk.def_pos2").render
    names = release.names("train")
    print(f"prompts of {len(names)} tasks of {'SuperNI' if real else 'the bundled suite'}")

    def one(index: int) -> Example:
        task = release.task(names[index % len(names)])
        instance = task.instances[index // len(names) % len(task.instances)]
        row = records.rows(task, [instance])[0]
        count_tokens = lambda text: len(vocabulary.encode(text))  # noqa: E731
        prompt = truncation.fit(row, render, lengths["inputs"] - 1, count_tokens).text
        inputs, targets = (
            np.array([*vocabulary.encode(text)[: limit - 1], 1], np.int32)
            for text, limit in (
                (prompt, lengths["inputs"]),
                (row.references[0], lengths["targets"]),
            )
        )
        return Example(row.id, row.task, "", inputs, (targets,), prompt, row.references, False)

    return [one(index) for index in range(count)]


def make_features(
    examples: list[Example], rows: int, lengths: dict[str, int], pack: bool | str
) -> list[dict[str, np.ndarray]]:
    """An epoch of our batches, without a last one that is not full."""
    batches = TrainBatches([in_memory("task", examples)], rows, lengths, pack, seed=0)
    count = batches.steps_per_epoch()
    return [batches.make(0, step)[0] for step in range(max(1, count - 1))]
