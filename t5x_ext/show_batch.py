"""Shows training batches as the model is given them: texts, what the loss counts, padding.

    python -m t5x_ext.show_batch --gin_file=models/t5_1_1_tiny.gin --gin_file=runs/train.gin ...

Give the gin files, bindings and process flags of the run itself. Its data is read, truncated,
packed and put into rows as the run does it; no parameters are read, no accelerator is used and
nothing is written. The loss counts what stands between ⟦ and ⟧.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mixtures.spelling import spell, spell_marked
from mixtures.vocabularies import Vocabulary
from t5x_ext import bounds, gin_utils, startup
from t5x_ext.configs import SuperNIConfig
from t5x_ext.data.batching import BatchInfo, TrainBatches
from t5x_ext.data.features import Batch
from t5x_ext.errors import ConfigError
from t5x_ext.gin_strict.binding import bound_to
from t5x_ext.terminal import Parser, command, show
from t5x_ext.train import train
from t5x_ext.training.trainer import Trainer

_SEGMENTS, _ENCODER = "decoder_segment_ids", "encoder_input_tokens"
_READ, _PREDICTED = "decoder_input_tokens", "decoder_target_tokens"
_WEIGHTS, _BOTH_WAYS = "decoder_loss_weights", "decoder_causal_attention"

_MAX_STEP = 1_000_000


class Segment(NamedTuple):
    """One example's part of a row.

    Attributes:
        row: from 0.
        number: of the example in its row, from 1.
        id: of the example.
        encoder: int32 [positions], what an encoder reads; None without one.
        read: int32 [positions], what the decoder reads.
        predicted: int32 [positions], what it is to predict there.
        weights: float32 [positions], how much each prediction counts in the loss.
        both_ways: int32 [positions], 1 where tokens see each other whatever their order.
    """

    row: int
    number: int
    id: str
    encoder: np.ndarray | None
    read: np.ndarray
    predicted: np.ndarray
    weights: np.ndarray
    both_ways: np.ndarray


def segments(batch: Batch, info: BatchInfo) -> Iterator[Segment]:
    """Takes a batch apart again, row by row.

    Args:
        batch: T5X's features, [B, L], the rows of all hosts.
        info: what the batch holds.

    Raises:
        ConfigError: the model's features are others than T5X's.
    """
    for name in (_SEGMENTS, _READ, _PREDICTED, _WEIGHTS):
        if name not in batch:
            raise ConfigError(f"show_batch: batches have no {name}; allowed: T5X's features")
    both_ways = batch.get(_BOTH_WAYS, np.zeros_like(batch[_READ]))
    ids = iter(info.ids)
    for row, numbers in enumerate(batch[_SEGMENTS]):
        for number in range(1, int(numbers.max(initial=0)) + 1):
            encoder = None
            if _ENCODER in batch:
                encoder = batch[_ENCODER][row][batch["encoder_segment_ids"][row] == number]
            here = numbers == number
            read, predicted, weights = (batch[n][row][here] for n in (_READ, _PREDICTED, _WEIGHTS))
            both = both_ways[row][here]
            yield Segment(row, number, next(ids), encoder, read, predicted, weights, both)


def head(batch: Batch, info: BatchInfo, step: int) -> list[str]:
    """What a batch holds as a whole."""
    shapes = {
        name: "x".join(map(str, batch[name].shape))
        for name in (_ENCODER, _READ, _PREDICTED)
        if name in batch
    }
    return [
        f"step {step} (epoch {info.epoch}): {len(info.ids)} examples in {info.num_rows} rows, "
        f"{info.num_tokens:,} tokens, {info.padding_share:.1%} padding",
        "  ".join(f"{name} {shape}" for name, shape in shapes.items()),
    ]


def texts(segment: Segment, inputs: Vocabulary, outputs: Vocabulary) -> list[str]:
    """A segment as text, the loss marked.

    Args:
        segment: from `segments`.
        inputs: the vocabulary of an encoder.
        outputs: that of the decoder.
    """
    counted = segment.weights > 0
    lines = [f"row {segment.row}, segment {segment.number}: {segment.id}"]
    predicted = segment.predicted
    if segment.encoder is not None:
        text = spell(inputs, segment.encoder.tolist())
        lines.append(f"  encoder, {len(segment.encoder)} tokens: {text}")
    else:  # the first token is only read
        predicted = np.concatenate([segment.read[:1], predicted])
        counted = np.concatenate([[False], counted])
    seen = int(segment.both_ways.sum())
    facts = f"{len(predicted)} tokens, {int(counted.sum())} in the loss"
    facts += f", {seen} read both ways" if seen else ""
    text = spell_marked(outputs, predicted.tolist(), counted.tolist(), "⟦", "⟧")
    lines.append(f"  decoder, {facts}: {text}")
    return lines


def table(segment: Segment, outputs: Vocabulary) -> list[str]:
    """A segment's decoder position by position: ids and pieces read and predicted, loss weight."""
    lines = [f"  {'position':>8}  {'reads':>28}  {'predicts':>28}  weight"]
    columns = zip(segment.read, segment.predicted, segment.weights, strict=True)
    for position, (read, predicted, weight) in enumerate(columns):
        cells = (f"{token} {spell(outputs, [token])!r}" for token in (read, predicted))
        lines.append(
            f"  {position:>8}  " + "  ".join(f"{cell:>28}" for cell in cells) + f"  {weight:g}"
        )
    return lines


def _batches(bound: dict[str, Any]) -> TrainBatches:
    """The batches of a run, on one host.

    Args:
        bound: the arguments that gin gives to `t5x_ext.train.train`.
    """
    from t5x_ext.data import datasets

    model, cfg = bound["model"], bound["train_dataset_cfg"]
    datasets.set_context(
        bound.get("superni_cfg", SuperNIConfig()), model.output_vocabulary, model.features
    )
    trainer = bound.get("trainer_cls", Trainer)()
    seed = bound.get("random_seed", 0)
    return datasets.train_batches(
        cfg, model.features, seed or 0, multiple=trainer.num_microbatches or 1
    )


def _batch_of(batches: TrainBatches, step: int) -> tuple[Batch, BatchInfo]:
    """The batch of a step, counted from 1."""
    epoch, left = 0, step - 1
    while left >= batches.steps_per_epoch(epoch):
        left -= batches.steps_per_epoch(epoch)
        epoch += 1
    return batches.make(epoch, left)


def _parser() -> Parser:
    parser = Parser(
        "show_batch",
        __doc__,
        usage="t5x_ext show_batch --gin_file=FILE [--gin.NAME=VALUE ...] [options]",
        parents=[gin_utils.gin_flags()],
    )
    add = parser.add_argument
    step, rows = bounds.int_flag(1, _MAX_STEP), bounds.int_flag(1, bounds.MAX_ROWS)
    add("--step", type=step, default=1, metavar="N", help="of the run (default: %(default)s)")
    add("--rows", type=rows, default=4, metavar="N", help="to show (default: %(default)s)")
    add(
        "--tokens",
        action="store_true",
        help="also show each position: what is read, what is predicted, its weight in the loss",
    )
    startup.add_flags(parser)
    return parser


def _show(args: argparse.Namespace) -> None:
    """Shows what the command's own flags ask for, of the run that gin describes."""
    bound = bound_to(train)
    cfg = bound.get("train_dataset_cfg")
    if cfg is None or cfg.task_feature_lengths is None or "model" not in bound:
        raise ConfigError("no batch to show: give the gin files of a run that trains")
    model = bound["model"]
    model.check_pack(cfg.pack)
    model.check_vocabulary()
    batch, info = _batch_of(_batches(bound), args.step)
    show(*head(batch, info, args.step))
    for segment in segments(batch, info):
        if segment.row < args.rows:
            show("", *texts(segment, model.input_vocabulary, model.output_vocabulary))
            show(*table(segment, model.output_vocabulary) if args.tokens else ())


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; returns its exit status."""
    jax.config.update("jax_platforms", "cpu")
    flags, args = gin_utils.parse_flags(_parser(), argv)
    # Batches are shown whole, by one process, however many the run has.
    alone = startup.take_flags(args)._replace(
        coordinator_address=None, process_count=None, process_index=None
    )
    # Only some of the arguments matter here, so that none has to be given.
    arguments = tuple(inspect.signature(train).parameters)
    gin_utils.parse(flags.files, flags.bindings, flags.search_paths, train, arguments)
    with startup.process(alone, joins_cluster=False):
        _show(args)


if __name__ == "__main__":
    sys.exit(main())
