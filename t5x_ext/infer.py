"""`python -m t5x_ext.infer`: writes a trained model's predictions for a split."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from etils import epath

from t5x_ext import bounds, files, gin_utils, multihost
from t5x_ext.configs import DatasetConfig, RestoreCheckpointConfig, SuperNIConfig
from t5x_ext.decoding.likelihood import predict_with_scores, score_targets
from t5x_ext.decoding.predict import predict
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.predictions import Prediction, write_predictions
from t5x_ext.models import BaseTransformerModel
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.runs.restored import RestoredModel, restore_each

Mode = Literal["predict", "score", "predict_with_aux"]


def infer(
    *,
    model: BaseTransformerModel,
    dataset_cfg: DatasetConfig,
    restore_checkpoint_cfg: RestoreCheckpointConfig,
    output_dir: str,
    mode: Mode = "predict",
    checkpoint_period: int = 1,
    shard_id: int = 0,
    num_shards: int = 1,
    file_extension: str = "jsonl",
    superni_cfg: SuperNIConfig = SuperNIConfig(),
    partitioner: PjitPartitioner = PjitPartitioner(),
    summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
) -> None:
    """Decodes a split into INFER_OUTPUT_DIR/predictions.jsonl; a killed run resumes from there.

    With several shards, each of the jobs writes predictions.jsonl-00000-of-00004 and so on, which
    `cat` joins in the order of the split. Where several checkpoints are named, each has its own
    file, predictions-<step>.jsonl.

    Args:
      model: the model and its vocabularies.
      dataset_cfg: what to decode.
      restore_checkpoint_cfg: CHECKPOINT_PATH, one or several.
      output_dir: INFER_OUTPUT_DIR, created if absent.
      mode: 'predict' decodes. 'score' writes scores.jsonl instead, with the log-likelihood of each
        first reference. 'predict_with_aux' decodes and adds the log-likelihood of the prediction.
      checkpoint_period: batches between writes to the file from which a killed run resumes, under
        'predict'; the other modes start again.
      shard_id: which shard this job is, from 0.
      num_shards: equal parts that the split is cut into.
      file_extension: of the files, JSON lines in any case.
      superni_cfg: how `superni.*` names become data.
      partitioner: the mesh.
      summarize_config_fn: writes the config down; `gin_utils.summarize_gin_config`.

    Raises:
      ConfigError: the checkpoint or the configuration does not fit.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"infer.mode: {mode!r}; allowed: {', '.join(get_args(Mode))}")
    bounds.check_int("infer.num_shards", num_shards, 1)
    if not 0 <= shard_id < num_shards:
        raise ConfigError(
            f"infer.shard_id: {shard_id}, with num_shards {num_shards}; allowed: 0 and more, below "
            "num_shards"
        )
    bounds.check_int("infer.checkpoint_period", checkpoint_period, 1)
    if not re.fullmatch(r"\w+(\.\w+)*", file_extension):
        raise ConfigError(
            f"infer.file_extension: {file_extension!r}; allowed: letters, digits and dots between"
        )
    directory = files.path(output_dir, "INFER_OUTPUT_DIR")
    if shard_id == 0:
        summarize_config_fn(output_dir, None, 0)
    shard = f"-{shard_id:05}-of-{num_shards:05}" if num_shards > 1 else ""
    for restored in restore_each(
        model, dataset_cfg, restore_checkpoint_cfg, superni_cfg, partitioner
    ):
        count = len(restored.examples)
        start, end = (count * i // num_shards for i in (shard_id, shard_id + 1))
        restored = restored._replace(examples=restored.examples[start:end])
        step = f"-{restored.step}" if restore_checkpoint_cfg.is_several else ""
        stem = "scores" if mode == "score" else "predictions"
        path = directory / f"{stem}{step}.{file_extension}{shard}"
        replaced = " (in place of those that were there)" * files.is_file(path)
        rows = _rows(restored, mode, path, checkpoint_period, start)
        multihost.say(f"{len(rows)} {stem} -> {path}{replaced}")
        del restored  # frees its parameters before the next are read


def _rows(
    restored: RestoredModel, mode: str, path: epath.Path, checkpoint_period: int, first: int
) -> list[Prediction]:
    """Writes one checkpoint's file and returns its rows; see `infer`.

    `first` is the place of the first restored example in the whole split.
    """
    decoder, weights, examples = restored.decoder, restored.params, restored.examples
    if mode == "predict":
        signature = restored.signature
        return predict(decoder, weights, examples, path, signature, True, checkpoint_period, first)
    scorer = restored.scorer
    if mode == "score":
        rows = score_targets(scorer, weights, examples)
    else:
        rows = predict_with_scores(decoder, scorer, weights, examples, first)
    if multihost.is_primary():
        write_predictions(path, rows)
    return rows


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shard_id",
        type=bounds.int_flag(0),
        metavar="I",
        help="decode part I (from 0) of infer.num_shards",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return gin_utils.run(infer, argv, gin_file="runs/infer.gin", add_flags=_add_flags)


if __name__ == "__main__":
    sys.exit(main())
