"""A SeqIO task as T5X users register theirs, on the bundled vocabulary: spell a word backwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from mixtures.vocabularies import bundled_vocabulary
from t5x_ext.training.trainer import StepEvent

NAME = "contract_reverse"
ROWS = {"train": 32, "validation": 10, "test": 11}
_WORDS = "river stone cloud apple window garden paper silver morning forest".split()


def _rows(split: str, shuffle_files: bool) -> tf.data.Dataset:
    del shuffle_files
    words = [f"{_WORDS[i % len(_WORDS)]} {i}" for i in range(ROWS[split])]
    columns = {
        "inputs": [f"reverse: {word}" for word in words],
        "targets": [word[::-1] for word in words],
    }
    return tf.data.Dataset.from_tensor_slices(columns)


def print_step(event: StepEvent) -> None:
    """A hook."""
    print(f"step {event.step} hooked")


def _length_of(text: str, example: Mapping[str, object], is_target: bool) -> int:
    assert example["targets_pretokenized"].decode()
    return 2 * len(text) if is_target else len(text)


def mean_lengths(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, object]:
    """A metric that shows what it was called with."""
    return {
        "target_length": sum(targets) / len(targets),
        "prediction_length": seqio.metrics.Scalar(sum(predictions) / len(predictions)),
    }


def mean_score(targets: Sequence[int], scores: Sequence[float]) -> dict[str, float]:
    """A metric of log-likelihoods."""
    return {"mean_score": sum(scores) / len(targets)}


def _register(name: str, vocabulary: seqio.Vocabulary) -> None:
    feature = seqio.Feature(vocabulary, add_eos=True)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(_rows, splits=tuple(ROWS)),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={"inputs": feature, "targets": feature},
        postprocess_fn=_length_of,
        metric_fns=[mean_lengths, mean_score],
    )


_register(NAME, seqio.SentencePieceVocabulary(bundled_vocabulary().path))
_register("contract_bytes", seqio.ByteVocabulary())
