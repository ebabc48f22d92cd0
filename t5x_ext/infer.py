"""`python -m t5x_ext.infer`: writes a trained model's predictions for a split."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from t5x_ext import gin_utils
from t5x_ext.configs import DatasetConfig, RestoreCheckpointConfig, SuperNIConfig
from t5x_ext.models import EncoderDecoderModel
from t5x_ext.partitioning import PjitPartitioner


def infer(
    *,
    model: EncoderDecoderModel,
    dataset_cfg: DatasetConfig,
    restore_checkpoint_cfg: RestoreCheckpointConfig,
    output_dir: str,
    superni_cfg: SuperNIConfig = SuperNIConfig(),
    partitioner: PjitPartitioner = PjitPartitioner(),
) -> None:
    """Decodes a split into INFER_OUTPUT_DIR/predictions.jsonl; a killed run goes on from there.

    Args:
      model: the model and its vocabularies.
      dataset_cfg: what to decode.
      restore_checkpoint_cfg: CHECKPOINT_PATH.
      output_dir: INFER_OUTPUT_DIR, created if absent.
      superni_cfg: how `superni.*` names become data.
      partitioner: the mesh.

    Raises:
      ConfigError: the checkpoint or the configuration does not fit.
    """
    from t5x_ext.decoding.predict import predict
    from t5x_ext.evaluation import restore_for_decoding

    session = restore_for_decoding(
        model, dataset_cfg, restore_checkpoint_cfg, superni_cfg, partitioner
    )
    path = Path(output_dir) / "predictions.jsonl"
    rows = predict(session.decoder, session.params, session.examples, path, session.signature, True)
    print(f"{len(rows)} predictions -> {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return gin_utils.run(infer, argv, gin_file="runs/infer.gin")


if __name__ == "__main__":
    sys.exit(main())
