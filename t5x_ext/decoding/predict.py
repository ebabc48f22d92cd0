"""Predictions of a whole split, written as they come and resumed where they stopped."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from t5x_ext.data.records import Example
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.metrics.predictions import Prediction, PredictionLog
from t5x_ext.models.params import Params


def to_rows(examples: Sequence[Example]) -> list[Prediction]:
    """Rows of a predictions file, with empty predictions."""
    return [
        Prediction(
            task=example.task,
            category=example.category,
            id=example.id,
            inputs=example.inputs_pretokenized,
            references=example.references,
            prediction="",
            truncated=example.truncated,
        )
        for example in examples
    ]


def predict(
    decoder: Decoder,
    model_params: Params,
    examples: Sequence[Example],
    path: str | os.PathLike[str] | None = None,
    signature: str = "",
    show_progress: bool = False,
) -> list[Prediction]:
    """Decodes every example.

    Args:
      decoder: how to decode.
      model_params: parameters on the decoder's mesh.
      examples: prompts with their references.
      path: predictions file to write; a killed run leaves `<path>.partial` and goes on from it.
        None writes nothing.
      signature: identifies weights, data and settings; leftovers with another one are dropped.
      show_progress: show rows done and rows a second.

    Returns:
      One row per example, in the order given, without scores.
    """
    rows = to_rows(examples)
    if path is None:
        texts = dict(_progress(decoder, model_params, examples, show_progress))
        return [dataclasses.replace(row, prediction=texts[i]) for i, row in enumerate(rows)]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with PredictionLog(path, rows, signature) as log:
        missing = log.missing
        left = [examples[i] for i in missing]
        for index, text in _progress(decoder, model_params, left, show_progress):
            log.append([(missing[index], text)])
        return log.finish()


def _progress(decoder: Decoder, model_params: Params, examples: Sequence[Example], show: bool):
    """(index, text) pairs, with a progress bar on a terminal."""
    from tqdm import tqdm

    bar = tqdm(total=len(examples), unit="row", desc="decoding", disable=None if show else True)
    with bar:
        for pairs in decoder.decode_texts(model_params, examples):
            yield from pairs
            bar.update(len(pairs))
