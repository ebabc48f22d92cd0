"""Runs in a directory: what ends them early."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_ext.configs import CheckpointConfig, SaveCheckpointConfig
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.errors import ConfigError
from t5x_ext.models import EncoderDecoderModel, network
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.runs import run_training
from t5x_ext.training import optimizers
from t5x_ext.training.trainer import Program, Trainer

CONFIG = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_dim=32,
    dropout_rate=0.0,
)


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(tmp_path: Path) -> None:
    tokens = np.arange(3, 12, dtype=np.int32)
    examples = [
        Example(f"e{i}", "task", "", tokens, (tokens[i:],), "", ("x",), False) for i in range(8)
    ]
    batches = TrainBatches(
        [("task", examples, 1.0)], 8, {"inputs": 32, "targets": 32}, pack=False, seed=0
    )
    # The third update makes the parameters infinite.
    explodes = lambda step: 1e-3 + (step == 2) * 3e38  # noqa: E731
    model = EncoderDecoderModel(network.Transformer(CONFIG), optimizer_def=optimizers.AdamW())
    partitioner = PjitPartitioner(devices=jax.devices()[:1])
    program = Program(model, partitioner, Trainer(learning_rate_fn=explodes))
    message = "^step 4: (loss|grad_norm) is (nan|inf), on examples "
    with pytest.raises(ConfigError, match=message) as error:
        run_training(
            program,
            batches,
            str(tmp_path),
            lambda start: 8,
            CheckpointConfig(save=SaveCheckpointConfig(period=2, keep=None)),
            random_seed=0,
            meta={},
        )
    assert all(f"e{i}" in str(error.value) for i in range(8))
    assert [path.name for path in tmp_path.glob("checkpoint_*")] == ["checkpoint_2"]
