"""A small training run with predictions, as a program that several processes can share.

python multihost_run.py '{"model_dir": ..., "steps": 6, "session": {...}}'
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import numpy as np

from t5x_ext import multihost, schedules
from t5x_ext.configs import CheckpointConfig, DatasetConfig, SaveCheckpointConfig
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.predict import predict
from t5x_ext.models import (
    BaseTransformerModel,
    DecoderOnlyModel,
    EncoderDecoderModel,
    network,
)
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.runs.evaluation_hook import Evaluation
from t5x_ext.runs.run import run_training
from t5x_ext.terminal import exit_status
from t5x_ext.training import optimizers
from t5x_ext.training.trainer import Program, StepEvent, Trainer

BATCH_SIZE = 16
SIGNATURE = "what the predictions depend on"
LENGTHS = {"inputs": 32, "targets": 16}
CONFIG = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=8,
    head_dim=4,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_dim=32,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.0,
)
LLAMA = LlamaConfig(
    vocab_size=64,
    emb_dim=16,
    num_layers=1,
    num_heads=8,
    num_kv_heads=4,
    head_dim=4,
    mlp_dim=32,
)


class Vocabulary:
    """Ids as text."""

    vocab_size = 60
    eos_id = 1

    @staticmethod
    def decode(ids) -> str:
        return " ".join(map(str, ids))


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the tests vary.

    `family` is "t5" or "llama"; `predictions` is a file to write after the last step; to
    `steps_file` each process adds the number and the examples of every step; `long_evaluations`
    come after every step.
    """

    model_dir: str
    steps: int
    save_period: int | None = None
    mesh: dict[str, int] = dataclasses.field(default_factory=dict)
    microbatches: int = 1
    family: str = "t5"
    predictions: str | None = None
    steps_file: str | None = None
    config: str = "a = 1\nc = 3"
    long_evaluations: bool = False


def make_examples(count: int) -> list[Example]:
    rng = np.random.default_rng(0)

    def tokens(low: int, high: int) -> np.ndarray:
        return np.append(rng.integers(3, 60, rng.integers(low, high)), 1).astype(np.int32)

    return [
        Example(f"e{i}", "task", "", tokens(3, 16), (tokens(1, 8),), f"prompt {i}", ("x",), False)
        for i in range(count)
    ]


def to_predict() -> list[Example]:
    return make_examples(37)


def make_model(family: str) -> BaseTransformerModel:
    if family == "llama":
        return DecoderOnlyModel(network.Transformer(LLAMA), Vocabulary(), optimizers.AdamW())
    return EncoderDecoderModel(
        network.Transformer(CONFIG), Vocabulary(), Vocabulary(), optimizers.AdamW()
    )


def run(settings: Settings) -> None:
    """Trains, evaluates the loss, and decodes; everything lies in `model_dir` afterwards."""
    # 90 examples pack into three batches of 16 rows, the last of them partly empty.
    examples = make_examples(90)
    partitioner = PjitPartitioner(**settings.mesh)
    model = make_model(settings.family)
    constant = schedules.create_learning_rate_scheduler("constant", 1e-2)
    program = Program(model, partitioner, Trainer(settings.microbatches, constant))
    batches = TrainBatches(
        [in_memory("task", examples)],
        BATCH_SIZE,
        LENGTHS,
        pack=True,
        seed=0,
        host_rows=partitioner.host_rows,
        features=model.features,
    )
    held_out = DatasetConfig("task", LENGTHS, "validation", BATCH_SIZE)
    evaluation = Evaluation(loss_cfg=held_out, loss_examples=examples[:21])
    if settings.long_evaluations:
        evaluation = Evaluation(1, held_out, examples * 4)

    def record(event: StepEvent) -> None:
        if settings.steps_file:
            with open(settings.steps_file, "a") as file:
                file.write(json.dumps({"step": event.step, "ids": event.info.ids}) + "\n")

    state, _ = run_training(
        program,
        batches,
        settings.model_dir,
        lambda start: settings.steps,
        CheckpointConfig(save=SaveCheckpointConfig(period=settings.save_period, keep=None)),
        random_seed=0,
        meta={},
        stats_period=1,
        evaluation=evaluation,
        hooks=[record],
    )
    if settings.predictions:
        decoder = Decoder(
            model, partitioner, 8, LENGTHS["inputs"], LENGTHS["targets"], first_stage=2
        )
        predict(decoder, state.params, to_predict(), settings.predictions, SIGNATURE)


def main() -> None:
    settings: dict[str, Any] = json.loads(sys.argv[1])
    with multihost.session(**settings.pop("session")):
        checked = Settings(**settings)
        multihost.check_same({"config": checked.config})
        run(checked)


if __name__ == "__main__":
    sys.exit(exit_status(main))
