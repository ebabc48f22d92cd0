"""Loads examples through SeqIO: any registered task or mixture, and the names `mixtures` resolves.

SeqIO says what the data is (source, prompt, vocabulary, trimming); order, packing and batches are
made from the loaded examples by the other modules of this package.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

import mixtures
from mixtures import on_demand
from mixtures.joining import response_tokens
from mixtures.names import PREFIX
from mixtures.specialization.names import PREFIX as SELF_PREFIX
from mixtures.specialization.rows import find_directory as find_domains
from mixtures.writing.names import PREFIX as WRITING_PREFIX
from mixtures.writing.rows import find_directory
from t5x_ext.data.records import Example, Member
from t5x_ext.errors import ConfigError


def load_mixture(
    name: str, split: str, lengths: Mapping[str, int], use_cached: bool = False
) -> list[Member]:
    """Loads a split of a task or mixture, task by task.

    Loading the same thing again gives the same examples from memory.

    Args:
        name: a registered SeqIO task or mixture, or any name that mixtures.resolve takes.
        split: train, validation, test, or whatever splits the task has.
        lengths: {'inputs': tokens, 'targets': tokens}, at most, EOS included.
        use_cached: read the task's SeqIO cache instead of preprocessing.

    Returns:
        One member per task that has the split, in the order of the mixture's task names, with the
        mixture's rate; a task is its own only member, at rate 1.

    Raises:
        ConfigError: no task has the split, or `lengths` is not for inputs and targets.
        mixtures.errors.DataError: the name or its data is wrong.
    """
    check_lengths(lengths)
    return [
        Member(task.name, _load_task(task, split, lengths, use_cached), rate)
        for task, rate in tasks_of(name, split)
    ]


def check_lengths(lengths: Mapping[str, int]) -> None:
    """Raises ConfigError unless lengths are given for inputs and targets."""
    if set(lengths) != {"inputs", "targets"} or min(lengths.values()) < 1:
        raise ConfigError(
            f"TASK_FEATURE_LENGTHS: {dict(lengths)}; allowed: inputs and targets, each 1 or more"
        )


def tasks_of(name: str, split: str) -> list[tuple[seqio.Task, float]]:
    """The tasks of a name that have the split, with their rates."""
    provider = seqio.get_mixture_or_task(mixtures.resolve(name))
    is_mixture = isinstance(provider, seqio.Mixture)
    if is_mixture:
        on_demand.renew(provider)
    if split not in provider.splits:
        raise ConfigError(f"{name}: split {split!r}; allowed: {', '.join(sorted(provider.splits))}")
    if not is_mixture:
        return [(provider, 1.0)]
    return [
        (task, float(provider.get_rate(task))) for task in provider.tasks if split in task.splits
    ]


def load_examples(
    name: str, split: str, lengths: Mapping[str, int], use_cached: bool = False
) -> list[Example]:
    """Every example of a split of a task or mixture exactly once; see load_mixture."""
    members = load_mixture(name, split, lengths, use_cached)
    return [example for member in members for example in member.examples]


# What _to_example looks at; only `inputs` and `targets` must be there.
_COLUMNS = (
    "id",
    "task",
    "category",
    "inputs",
    "targets",
    "inputs_pretokenized",
    "targets_pretokenized",
    "references",
    "truncated",
    "source",
    "edits",
    "target_texts",
)
_LISTS = ("references", "target_texts")
_ROWS_PER_BATCH = 64


class _RecentExamples:
    """Keeps the examples used last, at most `capacity` of them (about 6 kB each)."""

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._kept: OrderedDict[Hashable, list[Example]] = OrderedDict()

    def get(self, key: Hashable) -> list[Example] | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Hashable, examples: list[Example]) -> None:
        self._kept[key] = examples
        while sum(map(len, self._kept.values())) > self._capacity:
            self._kept.popitem(last=False)


# A study opens the same tasks for every setting, starting point and seed; opening one through
# SeqIO takes about half a second however small it is.
_recent = _RecentExamples(capacity=50_000)


def _load_task(
    task: seqio.Task, split: str, lengths: Mapping[str, int], use_cached: bool
) -> list[Example]:
    examples = recall(task, split, lengths, use_cached)
    if examples is None:
        dataset = open_dataset(task, split, lengths, use_cached)
        examples = list(read_examples(dataset, task, lengths))
        remember(task, split, lengths, use_cached, examples)
    return list(examples)


def recall(
    task: seqio.Task, split: str, lengths: Mapping[str, int], use_cached: bool
) -> list[Example] | None:
    """A task's examples if they were loaded before and are still in memory."""
    return _recent.get(_key_of(task, split, lengths, use_cached))


def remember(
    task: seqio.Task,
    split: str,
    lengths: Mapping[str, int],
    use_cached: bool,
    examples: list[Example],
) -> None:
    """Keeps a task's examples for the next that asks for them."""
    _recent.put(_key_of(task, split, lengths, use_cached), examples)


def _key_of(task: seqio.Task, split: str, lengths: Mapping[str, int], use_cached: bool) -> Hashable:
    return _data_key(task, split), split, tuple(sorted(lengths.items())), use_cached


def _data_key(task: seqio.Task, split: str) -> Hashable:
    """What determines a task's rows; the same for all budgets where the budget plays no part."""
    if task.name.startswith(WRITING_PREFIX):
        context = mixtures.current_context()
        return task.name, context, str(find_directory(context.data_dir))
    if task.name.startswith(SELF_PREFIX):
        context = mixtures.current_context()
        return task.name, context, str(find_domains(context.data_dir))
    if not task.name.startswith(PREFIX):
        # The object, not its name: the name may come to stand for another task. Being kept in the
        # key it cannot be mistaken for a later object at the same address.
        return task
    context = mixtures.current_context()
    context = dataclasses.replace(context, data_dir=str(context.store.path))
    if split == "train":
        return task.name, context
    name_without_budget = task.name.rpartition(".")[0]
    return name_without_budget, dataclasses.replace(context, budget_order="seeded", budget_seed=0)


def open_dataset(
    task: seqio.Task,
    split: str,
    lengths: Mapping[str, int],
    use_cached: bool,
    seed: int = 0,
) -> tf.data.Dataset:
    """A task's dataset in its own order.

    Args:
        task: has the split.
        split: as of load_mixture, like the next two.
        lengths: see there.
        use_cached: see there.
        seed: of stochastic preprocessors.

    Raises:
        ConfigError: `use_cached`, and there is no SeqIO cache.
    """
    if use_cached and not task.cache_dir:
        raise ConfigError(
            f"{task.name}: DatasetConfig.use_cached is set, but there is no SeqIO cache of it; "
            "allowed: USE_CACHED_TASKS = False, or seqio.add_global_cache_dirs in a task module"
        )
    # Preprocessors take their seeds from here. `get_dataset` hands another seed to the data
    # source too, and refuses sources that take none.
    tf.random.set_seed(seed)
    return task.get_dataset(
        sequence_length=dict(lengths),
        split=split,
        shuffle=False,
        num_epochs=1,
        use_cached=use_cached,
    )


def read_examples(
    dataset: tf.data.Dataset, task: seqio.Task, lengths: Mapping[str, int]
) -> Iterator[Example]:
    """The examples of a task's dataset, one after the other."""
    for index, row in enumerate(_rows(dataset)):
        yield _to_example(row, index, task, lengths["targets"])


def _rows(dataset: tf.data.Dataset) -> Iterator[dict[str, Any]]:
    """The rows as NumPy values, of the columns that examples are made of.

    Taken out of TensorFlow in batches, which costs half of what a row at a time does.
    """
    names = [name for name in _COLUMNS if name in dataset.element_spec]

    def columns_of(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # What comes out of Python code may not know that it is a vector.
        return {
            name: tf.ensure_shape(row[name], [None]) if name in _LISTS else row[name]
            for name in names
        }

    for batch in dataset.map(columns_of).ragged_batch(_ROWS_PER_BATCH):
        columns = []
        for name in names:
            values = batch[name]
            if isinstance(values, tf.RaggedTensor):
                columns.append(np.split(values.values.numpy(), values.row_splits[1:-1].numpy()))
            else:
                columns.append(values.numpy())
        for row in zip(*columns, strict=True):
            yield dict(zip(names, row, strict=True))


def _to_example(row: Mapping, index: int, task: seqio.Task, target_length: int) -> Example:
    inputs = row["inputs"].astype(np.int32)
    target = row["targets"].astype(np.int32)
    features = task.output_features
    if "references" in row:
        references = tuple(_text(reference) for reference in row["references"])
    elif "targets_pretokenized" in row:
        references = (_text(row["targets_pretokenized"]),)
    else:
        references = (features["targets"].vocabulary.decode(target.tolist()),)
    if "inputs_pretokenized" in row:
        prompt = _text(row["inputs_pretokenized"])
    else:
        prompt = features["inputs"].vocabulary.decode(inputs.tolist())
    texts = references
    if "target_texts" in row:
        texts = tuple(_text(text) for text in row["target_texts"])
    return Example(
        id=_text(row["id"]) if "id" in row else f"{task.name}:{index}",
        task=_text(row["task"]) if "task" in row else task.name,
        category=_text(row.get("category", "")),
        inputs=inputs,
        targets=_tokenize_targets(
            target, texts, features["targets"], target_length, _joined_prompt(prompt)
        ),
        inputs_pretokenized=prompt,
        references=references,
        truncated=bool(row.get("truncated", False)),
        source=_text(row["source"]) if "source" in row else None,
        edits=_text(row.get("edits", "")),
    )


def _tokenize_targets(
    target: np.ndarray,
    texts: tuple[str, ...],
    feature: seqio.Feature,
    length: int,
    joined_prompt: str | None,
) -> tuple[np.ndarray, ...]:
    """One target per text to train on, as the row's own target is tokenised."""
    if len(texts) < 2:
        return (target,)
    end = [feature.vocabulary.eos_id] if feature.add_eos else []
    targets = []
    for text in texts:
        if joined_prompt is None:
            tokens = list(feature.vocabulary.encode(text))
        else:
            tokens = response_tokens(feature.vocabulary, joined_prompt, text)
        targets.append(np.array(tokens[: length - len(end)] + end, np.int32))
    # A task may rewrite its targets after it kept the references (a label format, say). Then the
    # references are for scoring only.
    if not any(np.array_equal(target, tokens) for tokens in targets):
        return (target,)
    return tuple(targets)


def _joined_prompt(prompt: str) -> str | None:
    """The prompt, where responses are tokenised behind it."""
    return prompt if mixtures.current_context().joined else None


def _text(value: object) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
