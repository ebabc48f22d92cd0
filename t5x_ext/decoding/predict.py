"""Predictions of a whole split, written as they come and resumed where they stopped."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from mixtures.writing.gold_edits import GoldEdits, parse_gold_edits
from t5x_ext import multihost
from t5x_ext.data.records import Example
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.outputs import Output
from t5x_ext.metrics.predictions import Answer, Prediction, PredictionLog
from t5x_ext.models.parameters import Params
from t5x_ext.progress import MinuteNotes


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
            source=example.source,
            edits=_gold_edits(example),
        )
        for example in examples
    ]


def _gold_edits(example: Example) -> GoldEdits | None:
    if not example.edits:
        return None
    return parse_gold_edits(json.loads(example.edits), example.id, example.source)


def predict(
    decoder: Decoder,
    params: Params,
    examples: Sequence[Example],
    path: str | os.PathLike[str] | None = None,
    signature: str = "",
    show_progress: bool = False,
    log_period: int = 1,
    first: int = 0,
    between: Callable[[], None] = lambda: None,
) -> list[Prediction]:
    """Decodes every example.

    Args:
      decoder: how to decode.
      params: parameters on the decoder's mesh.
      examples: prompts with their references.
      path: predictions file to write; a killed run leaves `<path>.partial` and resumes from it.
        None writes nothing.
      signature: identifies weights, data and settings; leftovers with another one are dropped.
      show_progress: show a bar on a terminal; elsewhere a line every minute says how far it is.
      log_period: batches between writes to the partial file; a killed run decodes these again.
      first: the number of the first example, where `examples` is a part of a split; samples depend
        on the numbers.
      between: called before every batch; what it raises ends the work.

    Returns:
      One row per example, in the order given, without scores.
    """
    rows = to_rows(examples)
    if first:
        signature = f"{signature}, prompts from number {first}"
    # Process 0 alone has the file; all decode the same batches, and return the same rows.
    log = PredictionLog(path, rows, signature) if path and multihost.is_primary() else None
    with log or contextlib.nullcontext():
        known = multihost.gather(list(log.done.items()) if log else [])[0]
        answers = {index: Answer(*answer) for index, answer in known}
        left = [i for i in range(len(rows)) if i not in answers]
        batches = _progress(decoder, params, examples, left, show_progress, first)
        pending: list[tuple[int, Answer]] = []
        if left:
            between()
        for number, pairs in enumerate(batches, start=1):
            found = [(left[index], to_answer(output)) for index, output in pairs]
            answers.update(found)
            pending += found
            if log and number % log_period == 0:
                log.append(pending)
                pending = []
            if len(answers) < len(rows):
                between()
        if log:
            log.append(pending)
            log.finish()
    return [row.with_answer(answers[i]) for i, row in enumerate(rows)]


def to_answer(output: Output) -> Answer:
    """What a row of predictions keeps of an output."""
    return Answer(output.text or "", output.finish)


def predict_together(
    decoder: Decoder, stacked_params: Params, sets: Sequence[Sequence[Example]]
) -> list[list[Prediction]]:
    """Decodes a set of examples with each of several models; see `Decoder.decode_texts_together`.

    Returns:
      For each set one row per example, in the order given, without scores.
    """
    return _in_sets(decoder.decode_texts_together(stacked_params, sets), sets)


def predict_by_adapter(
    decoder: Decoder, params: Params, sets: Sequence[Sequence[Example]]
) -> list[list[Prediction]]:
    """Decodes a set of examples with each of several adapters over one base.

    See `Decoder.decode_texts_by_adapter`.

    Returns:
      For each set one row per example, in the order given, without scores.
    """
    return _in_sets(decoder.decode_texts_by_adapter(params, sets), sets)


def _in_sets(
    batches: Iterator[list[tuple[int, Output]]], sets: Sequence[Sequence[Example]]
) -> list[list[Prediction]]:
    """Puts outputs, by their place in all sets one after the other, into the rows of their sets."""
    noted = _noted(batches, sum(map(len, sets)))
    outputs = dict(itertools.chain.from_iterable(noted))
    place = itertools.count()
    return [
        [row.with_answer(to_answer(outputs[next(place)])) for row in to_rows(examples)]
        for examples in sets
    ]


def _progress(
    decoder: Decoder,
    params: Params,
    examples: Sequence[Example],
    left: Sequence[int],
    show: bool,
    first: int,
) -> Iterator[list[tuple[int, Output]]]:
    """(place in `left`, output) pairs batch by batch; on a terminal, a bar if it is wanted."""
    # Numbered by their places in the whole split, so that a resumed run draws the same samples,
    # and the runs of a split's parts those of one run.
    numbers = [first + i for i in left]
    batches = decoder.decode_texts(params, [examples[i] for i in left], numbers)
    if not (show and multihost.is_primary() and sys.stderr.isatty()):
        yield from _noted(batches, len(left))
        return
    from tqdm import tqdm

    with tqdm(total=len(left), unit="row", desc="decoding") as bar:
        for pairs in batches:
            yield pairs
            bar.set_postfix(compiled=len(decoder.programs.shapes), refresh=False)
            bar.update(len(pairs))


def _noted(
    batches: Iterator[list[tuple[int, Output]]], total: int
) -> Iterator[list[tuple[int, Output]]]:
    """The same batches, and a line every minute."""
    done = 0
    with MinuteNotes("decoding", total, "rows") as progress:
        for pairs in batches:
            yield pairs
            done += len(pairs)
            progress.count(done)
