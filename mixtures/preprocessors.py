"""From rows to tokens, as a SeqIO preprocessor around `mixtures.rendering`.

A row travels through tf.data as a flat dictionary, the same from task files, from TFRecord shards
and from a SeqIO cache:

    task, category, id, definition, input                            string []
    references                                                       string [references]
    positive_inputs, positive_outputs, positive_explanations         string [positives]
    negative_inputs, negative_outputs, negative_explanations         string [negatives]

and, where the input is to be rewritten (see `mixtures.records.Row`),

    source, edits                                                    string []
    target_texts                                                     string [references]

and, where data sets say which document a row is from,

    document                                                         string []
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from mixtures.records import Example, Row
from mixtures.rendering import Encoder, Renderer

SCALARS = ("task", "category", "id", "definition", "input")
POSITIVES = ("positive_inputs", "positive_outputs", "positive_explanations")
NEGATIVES = ("negative_inputs", "negative_outputs", "negative_explanations")
VECTORS = ("references", *POSITIVES, *NEGATIVES)
REWRITING = ("source", "edits")
TARGET_TEXTS = "target_texts"
DOCUMENT = "document"

# Rows that one call into Python renders. A call costs about half a millisecond whatever it does,
# far more than a row's prompt and tokens do.
_ROWS_PER_CALL = 64

_TOKENS_OUT = {"inputs": tf.int32, "targets": tf.int32}
_LENGTHS_OUT = {"inputs_length": tf.int64, "targets_length": tf.int64}
_SCALARS_OUT = {
    "inputs_pretokenized": tf.string,
    "targets_pretokenized": tf.string,
    "truncated": tf.int32,
    "targets_truncated": tf.int32,
    "inputs_tokens_before": tf.int32,
}


def render_prompt(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    sequence_length: Mapping[str, int] | None = None,
    *,
    prompt: str,
    trim: str = "keep_question",
    seed: int = 0,
    joined: bool = False,
) -> tf.data.Dataset:
    """Writes every row as a prompt and a target, and tokenizes both.

    Tokens are made here and not by `seqio.preprocessors.tokenize`, because fitting a prompt into
    its length needs them anyway. Features that end in EOS do so also where they had to be cut.

    Args:
        dataset: rows; see the top of this module.
        output_features: `inputs` and `targets`, each with its vocabulary.
        sequence_length: tokens allowed for each, EOS included; None or a missing key: no limit.
        prompt: name of a registered prompt.
        trim: what long prompts lose, one of `mixtures.truncation.TRIMS`.
        seed: draws the reference that becomes the target (that of epoch 0), and the format where
            a prompt has several.
        joined: whether a decoder-only model reads both as one text; see `mixtures.joining`.

    Returns:
        Dataset of `inputs` and `targets` (int32 [length]), `inputs_pretokenized`,
        `targets_pretokenized`, `task`, `category`, `id` (string []), `references`
        (string [references]), of texts to be rewritten `source`, `edits` and `target_texts`,
        `truncated` and `targets_truncated` (int32 [], 1 if the prompt, or the target, did not fit
        whole) and `inputs_tokens_before` (int32 [], tokens of the whole prompt, EOS not counted).
    """

    def encoder(name: str) -> Encoder:
        feature = output_features[name]
        return Encoder(feature.vocabulary, feature.add_eos, (sequence_length or {}).get(name))

    renderer = Renderer(
        encoder("inputs"), encoder("targets"), prompt=prompt, trim=trim, seed=seed, joined=joined
    )

    def render_row(row: Row) -> dict[str, Any]:
        rendered = renderer(row)
        return {
            "inputs": rendered.inputs,
            "targets": rendered.targets,
            "inputs_pretokenized": rendered.prompt.encode("utf-8"),
            "targets_pretokenized": rendered.target.encode("utf-8"),
            "truncated": rendered.truncated,
            "targets_truncated": rendered.target_truncated,
            "inputs_tokens_before": rendered.tokens_before,
        }

    @tf.autograph.experimental.do_not_convert
    def render_batch(batch: dict[str, tf.Tensor | tf.RaggedTensor]) -> dict[str, tf.Tensor]:
        rendered = _call_python(render_row, batch)
        for name in _TOKENS_OUT:
            lengths = rendered.pop(f"{name}_length")
            rendered[name] = tf.RaggedTensor.from_row_lengths(
                rendered[name], lengths, validate=False
            )
        return rendered | {name: batch[name] for name in kept}

    @tf.autograph.experimental.do_not_convert
    def plain_tensors(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # Unbatched ragged rows are tensors, but their spec still says RaggedTensorSpec.
        ragged = [name for name in (*_TOKENS_OUT, "references", TARGET_TEXTS) if name in example]
        return example | {name: tf.ensure_shape(example[name], [None]) for name in ragged}

    has_sources = TARGET_TEXTS in dataset.element_spec
    kept = ["task", "category", "id", "references"]
    kept += [*REWRITING, TARGET_TEXTS] if has_sources else []
    # The prefetch lets Python render the next rows while these are taken apart.
    batches = dataset.ragged_batch(_ROWS_PER_CALL).map(render_batch).prefetch(2)
    return batches.unbatch().map(plain_tensors)


def _call_python(
    render_row: Callable[[Row], Mapping[str, Any]],
    batch: Mapping[str, tf.Tensor | tf.RaggedTensor],
) -> dict[str, tf.Tensor]:
    """Runs `render_row` over the rows of a batch; token lists come back end to end."""
    scalars = [*SCALARS, *(name for name in (*REWRITING, DOCUMENT) if name in batch)]
    vectors_in = [*VECTORS, *([TARGET_TEXTS] if TARGET_TEXTS in batch else [])]
    flat = [batch[name] for name in scalars]
    for name in vectors_in:
        vectors = batch[name]
        if not isinstance(vectors, tf.RaggedTensor):
            vectors = tf.RaggedTensor.from_tensor(vectors)
        flat += [vectors.values, vectors.row_splits]
    dtypes = _TOKENS_OUT | _LENGTHS_OUT | _SCALARS_OUT

    def call(*arrays: np.ndarray) -> list[np.ndarray]:
        rendered = [render_row(row) for row in _rows(scalars, vectors_in, arrays)]
        columns: dict[str, list[Any]] = {
            name: [row[name] for row in rendered] for name in _SCALARS_OUT
        }
        for name in _TOKENS_OUT:
            columns[name] = [token for row in rendered for token in row[name]]
            columns[f"{name}_length"] = [len(row[name]) for row in rendered]
        return [
            np.array(columns[name], object if dtype == tf.string else dtype.as_numpy_dtype)
            for name, dtype in dtypes.items()
        ]

    outputs = tf.numpy_function(call, flat, list(dtypes.values()), stateful=False)
    return {
        name: tf.ensure_shape(value, [None]) for name, value in zip(dtypes, outputs, strict=True)
    }


def _rows(
    scalar_names: Sequence[str], vector_names: Sequence[str], arrays: Sequence[np.ndarray]
) -> Iterator[Row]:
    """The rows of a batch from its columns: texts, then values and row splits of lists of them."""
    scalars = dict(zip(scalar_names, arrays, strict=False))
    pairs = arrays[len(scalar_names) :]
    vectors = dict(zip(vector_names, zip(pairs[::2], pairs[1::2], strict=True), strict=True))

    def texts(name: str, index: int) -> tuple[str, ...]:
        values, splits = vectors[name]
        return tuple(v.decode("utf-8") for v in values[splits[index] : splits[index + 1]])

    def examples(names: Sequence[str], index: int) -> tuple[Example, ...]:
        columns = (texts(name, index) for name in names)
        return tuple(Example(*fields) for fields in zip(*columns, strict=True))

    for index in range(len(scalars["id"])):
        yield Row(
            **{name: values[index].decode("utf-8") for name, values in scalars.items()},
            references=texts("references", index),
            positive_examples=examples(POSITIVES, index),
            negative_examples=examples(NEGATIVES, index),
            targets=texts(TARGET_TEXTS, index) if TARGET_TEXTS in vectors else (),
        )
