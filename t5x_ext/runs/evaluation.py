"""Evaluation as the commands do it: loss on held-out examples, decoded and scored predictions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np

from t5x_ext.configs import DatasetConfig
from t5x_ext.data.batching import eval_batches
from t5x_ext.data.cuts import joined_cuts
from t5x_ext.data.epochs import share_out
from t5x_ext.data.records import Example
from t5x_ext.data.tables import as_table
from t5x_ext.data.task_metrics import Score
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.likelihood import Scorer
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.decoding.predict import predict
from t5x_ext.metrics.aggregate import over_tasks
from t5x_ext.metrics.scoring import Measured, measure
from t5x_ext.models import BaseTransformerModel
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.progress import MinuteNotes
from t5x_ext.training.trainer import Program


def make_decoder(
    model: BaseTransformerModel,
    partitioner: PjitPartitioner,
    cfg: DatasetConfig,
    resident_bytes: int = 0,
    eos_ids: Sequence[int] = (),
) -> Decoder:
    """A decoder with the batch size and lengths of a dataset config, which states both.

    Args:
      model: gives the network and the output vocabulary.
      partitioner: the mesh.
      cfg: the dataset to decode.
      resident_bytes: see `Decoder`.
      eos_ids: ids that end a prediction besides those of the vocabulary.
    """
    assert cfg.task_feature_lengths is not None
    return Decoder(
        model,
        partitioner,
        batch_size=cfg.batch_size,
        max_input_length=cfg.task_feature_lengths["inputs"],
        max_decode_length=cfg.task_feature_lengths["targets"],
        resident_bytes=resident_bytes,
        ids=OutputIds.of(model.output_vocabulary).ending_also_at(eos_ids) if eos_ids else None,
    )


def evaluate_loss(
    program: Program,
    model_params: Params,
    examples: Sequence[Example],
    cfg: DatasetConfig,
    max_batches: int | None = None,
    between: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Means per target token over the examples: 'cross_entropy', 'accuracy', ...

    Args:
      program: compiled functions.
      model_params: parameters on the program's mesh.
      examples: held-out examples; the first reference of each is the target.
      cfg: gives batch size and lengths, which are set.
      max_batches: batches to take, of the examples that `first_of_all_tasks` picks for them; None
        takes all.
      between: called before every batch; what it raises ends the evaluation.
    """
    assert cfg.task_feature_lengths is not None
    batch_size = program.partitioner.round_up_batch(cfg.batch_size)
    if max_batches is not None:
        examples = first_of_all_tasks(examples, max_batches * batch_size)
    features = program.model.features
    batches = eval_batches(features, examples, batch_size, cfg.task_feature_lengths)
    number = -(-len(examples) // batch_size)

    def given() -> Iterator[dict[str, np.ndarray]]:
        for _, batch in batches:
            between()
            yield batch

    with MinuteNotes("held-out loss", number, "batches") as progress:
        return program.evaluate(model_params, given(), progress)


def predict_and_score(
    decoder: Decoder,
    model_params: Params,
    examples: Sequence[Example],
    path: str | os.PathLike[str] | None = None,
    signature: str = "",
    show_progress: bool = False,
    between: Callable[[], None] = lambda: None,
) -> tuple[Measured, dict[str, float]]:
    """Scored rows in the order given, and means over tasks in percent; see `decoding.predict`."""
    rows = predict(decoder, model_params, examples, path, signature, show_progress, between=between)
    measured = measure(rows)
    return measured, {key: score.mean for key, score in over_tasks(measured).means.items()}


class _NotesBetween(MinuteNotes):
    """Lines about the scoring of rows, and a call before every batch of them."""

    def __init__(self, total: int, between: Callable[[], None]) -> None:
        super().__init__("scoring", total, "rows")
        self._total_rows, self._between = total, between

    def __enter__(self) -> Self:
        self._between()
        return super().__enter__()

    def count(self, done: int, result: Any = None) -> None:
        """See `MinuteNotes`; called after every batch, in every process."""
        super().count(done, result)
        if done < self._total_rows:
            self._between()


def targets_scorer(
    scorer: Scorer,
    model_params: Params,
    examples: Sequence[Example],
    between: Callable[[], None] = lambda: None,
) -> Score:
    """Gives natural log-likelihoods of the first targets of examples, by their places.

    Args:
      scorer: compiled scoring, for all that is scored with the model.
      model_params: parameters on its mesh.
      examples: what places are counted in.
      between: called before every batch; what it raises ends the scoring.
    """

    def score(places: Sequence[int]) -> Sequence[float]:
        chosen = [examples[place] for place in places]
        with _NotesBetween(len(chosen), between) as progress:
            return scorer.log_likelihoods(model_params, chosen, progress=progress).tolist()

    return score


def first_of_each_task(examples: Sequence[Example], count: int | None) -> list[Example]:
    """The first `count` examples of every task, in the order given; None takes all."""
    seen: Counter[str] = Counter()
    kept = []
    for example in examples:
        seen[example.task] += 1
        if count is None or seen[example.task] <= count:
            kept.append(example)
    return kept


def first_of_all_tasks(examples: Sequence[Example], count: int) -> Sequence[Example]:
    """The first examples of every task, in proportion to the tasks' sizes, in the order given.

    Of a single task these are its first `count` examples, as in T5X. Data of several tasks lie
    there task by task, so that their first examples would speak for one or two tasks alone.
    Batches are sorted by length, so a sample has to be taken before they are made, not of them.
    """
    if len(examples) <= count:
        return examples
    parts = as_table(examples).parts()
    tasks_of = [part.cuts for part in parts]
    sizes = {task: cuts.rows for task, cuts in joined_cuts(tasks_of).items()}
    left = dict(zip(sizes, share_out(count, list(sizes.values())), strict=True))
    kept = []
    for part, tasks in zip(parts, tasks_of, strict=True):
        wanted = sum(left[task] for task in tasks)  # what lies on disk is read no further than that
        for example in part if wanted else ():
            if left[example.task]:
                left[example.task] -= 1
                wanted -= 1
                kept.append(example)
            if not wanted:
                break
    return kept
