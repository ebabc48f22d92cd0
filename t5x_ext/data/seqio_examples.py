"""Examples of SeqIO's tasks: whatever their sources and preprocessors make."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

import mixtures
from mixtures.errors import warn_once
from t5x_ext.data import stochastic
from t5x_ext.data.records import Example
from t5x_ext.data.row_examples import tokenize_targets
from t5x_ext.errors import ConfigError

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
    "targets_truncated",
    "source",
    "edits",
    "target_texts",
)
_SIDES = ("inputs", "targets")
# Features for which `render_prompt` reports truncation.
_TOLD = {"inputs": "truncated", "targets": "targets_truncated"}
_LISTS = ("references", "target_texts")
_ROWS_PER_BATCH = 64


def read_examples(
    task: seqio.Task,
    split: str,
    lengths: Mapping[str, int],
    use_cached: bool = False,
    seed: int = 0,
) -> Iterator[Example]:
    """The examples of a task, in its own order; see `examples.read_examples`."""
    dataset = _open_dataset(task, split, lengths, use_cached, seed)
    for index, row in enumerate(_rows(dataset)):
        yield _to_example(row, index, task, lengths)


def is_stochastic(
    task: seqio.Task, split: str, lengths: Mapping[str, int], use_cached: bool
) -> bool:
    """Whether each pass over a task has other examples; warns where they cannot be repeated."""
    dataset = _open_dataset(task, split, lengths, use_cached, seed=0)
    if stochastic.takes_seeds(dataset):
        return True
    if stochastic.draws_without_seeds(dataset):
        warn_once(
            f"{task.name}: a preprocessor draws with tf.random, which cannot be repeated "
            "when a run resumes, so every epoch has the first draw; allowed: "
            "seqio.map_over_dataset(num_seeds=...) and tf.random.stateless_*"
        )
    return False


def files_of(task: seqio.Task, split: str, use_cached: bool) -> list[tuple[str, int, int]]:
    """The files of a split, with size in bytes and time of change in ns; none if it has none."""
    if use_cached:
        paths = sorted(tf.io.gfile.glob(os.path.join(task.cache_dir, f"{split}.*")))
    elif isinstance(task.source, seqio.FileDataSource):
        paths = [str(path) for path in task.source.list_shards(split)]
    else:
        return []
    stats = [tf.io.gfile.stat(path) for path in paths]
    return [(path, s.length, s.mtime_nsec) for path, s in zip(paths, stats, strict=True)]


def _open_dataset(
    task: seqio.Task, split: str, lengths: Mapping[str, int], use_cached: bool, seed: int
) -> tf.data.Dataset:
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
        trim_output_features=False,  # `_to_example` does, and sees what was lost
    )


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


def _to_example(row: Mapping, index: int, task: seqio.Task, lengths: Mapping[str, int]) -> Example:
    features = task.output_features
    inputs, target = (row[side][: lengths[side]].astype(np.int32) for side in _SIDES)
    inputs_cut, target_cut = (_is_cut(row, side, features[side], lengths[side]) for side in _SIDES)
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
    targets, target_cut = tokenize_targets(
        target,
        target_cut,
        texts,
        features["targets"].vocabulary,
        features["targets"].add_eos,
        lengths["targets"],
        prompt if mixtures.current_context().joined else None,
    )
    return Example(
        id=_text(row["id"]) if "id" in row else f"{task.name}:{index}",
        task=_text(row["task"]) if "task" in row else task.name,
        category=_text(row.get("category", "")),
        inputs=inputs,
        targets=targets,
        inputs_pretokenized=prompt,
        references=references,
        truncated=inputs_cut,
        source=_text(row["source"]) if "source" in row else None,
        edits=_text(row.get("edits", "")),
        target_truncated=target_cut,
    )


def _is_cut(row: Mapping, side: str, feature: seqio.Feature, length: int) -> bool:
    """Whether a feature lost tokens to fit.

    SeqIO cuts last of all, or `append_eos_after_trim` does before; of that only a row's text tells
    whether it was longer.
    """
    if (told := row.get(_TOLD[side])) is not None:
        return bool(told)
    tokens, text = row[side], row.get(f"{side}_pretokenized")
    if len(tokens) != length or text is None:
        return len(tokens) > length
    end = 1 if feature.add_eos else 0
    whole = list(feature.vocabulary.encode(_text(text)))
    # A preprocessor may have made other tokens of the text, such as spans of it.
    is_start = whole[: length - end] == tokens[: length - end].tolist()
    return is_start and len(whole) + end > length


def _text(value: object) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
