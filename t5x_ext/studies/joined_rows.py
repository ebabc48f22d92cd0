"""How many rows the joined batches of a study take, estimated from its texts.

A plan has no vocabulary to tokenise with, so lengths are counted in characters.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np

from mixtures.prompts import chat_messages, get_prompt
from mixtures.records import Row
from mixtures.records import rows as rows_of
from mixtures.release import Release
from t5x_ext.bounds import PER_BATCH
from t5x_ext.data.features import Features
from t5x_ext.data.length_buckets import joined_size
from t5x_ext.data.packing import join_rows, lay_out
from t5x_ext.studies.arms import ZERO_SHOT, Arm
from t5x_ext.studies.recipes import Recipe

# Test track of SuperNI with SmolLM2's pieces: 4.20 with instructions, 4.05 without.
_CHARS_PER_TOKEN = 4.2
_TASKS, _INSTANCES, _BATCHES = 24, 64, 4


def estimate_rows(
    arms: Sequence[Arm],
    names: Sequence[str],
    recipe: Recipe,
    store: Release,
    features: Features,
    multiple: int,
) -> int:
    """Rows of a typical batch under `pack="batch"`; `batch_size` where nothing is joined.

    A few batches of the first instances of evenly spread tasks are joined in rows of the largest
    length; the mean over arms and tasks is rounded up to what batches may have.

    Args:
        arms: those of the study; each budget counts as much.
        names: test-track tasks; those without a file are left out.
        recipe: of the cells.
        store: task files.
        features: what a row holds.
        multiple: rows come in multiples of this; see `TrainBatches`.
    """
    names = [name for name in names if name not in set(store.missing("test"))]
    if recipe.pack != PER_BATCH or not names:
        return recipe.batch_size
    names = names[:: -(-len(names) // _TASKS)]
    limits = tuple(features.limits(recipe.task_feature_lengths).values())
    needed, weights = [], []
    for arm in arms:
        weight = sum(budget != ZERO_SHOT for budget in arm.budgets)
        lengths = [_token_counts(store, name, arm.prompt, recipe) for name in names]
        if arm.setting == "MTL":
            lengths = [np.concatenate(lengths)]
        for of_task in lengths:
            for chosen in _batches(of_task, recipe.batch_size):
                first, second = features.sides(*chosen.T)
                layout = lay_out(np.arange(len(chosen)), first, second)
                needed.append(join_rows(layout, first, second, *limits)[0].num_rows)
                weights.append(weight / (len(lengths) * _BATCHES))
    if not any(weights):
        return recipe.batch_size
    typical = round(float(np.average(needed, weights=weights)) + 0.5)
    return joined_size(typical, recipe.batch_size, multiple)


def _token_counts(store: Release, name: str, prompt: str, recipe: Recipe) -> np.ndarray:
    """int64 [instances, 2]: tokens of prompts and targets, about, and cut as the recipe says."""
    record = store.task(name)
    limits = recipe.task_feature_lengths
    return np.array(
        [
            (
                min(_about(_text(prompt, row)), limits["inputs"]),
                min(_about(row.references[0]), limits["targets"]),
            )
            for row in rows_of(record, record.instances[:_INSTANCES])
        ],
        np.int64,
    ).reshape(-1, 2)


def _text(prompt: str, row: Row) -> str:
    """A prompt; of a chat what the user says, since a template comes with a vocabulary."""
    found = get_prompt(prompt)
    return chat_messages(row)[0]["content"] if found.is_chat else found.render(row)


def _about(text: str) -> int:
    return round(len(text) / _CHARS_PER_TOKEN) + 1  # with the end of sequence


def _batches(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    draw = random.Random(0)
    for _ in range(_BATCHES):
        yield lengths[draw.choices(range(len(lengths)), k=batch_size)]
