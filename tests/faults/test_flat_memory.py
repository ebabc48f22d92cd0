"""Two thousand steps with everything a run does beside them: memory stays as it is."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from t5x_ext.configs import CheckpointConfig, DatasetConfig, SaveCheckpointConfig
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory
from t5x_ext.models import EncoderDecoderModel, network
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.runs.evaluation_hook import Evaluation
from t5x_ext.runs.run import run_training
from t5x_ext.training import optimizers
from t5x_ext.training.trainer import Program, StepEvent, Trainer

STEPS, WARM = 2000, 500
GROWTH_MB = 16  # checkpoints being written come and go with 10
LENGTHS = {"inputs": 32, "targets": 16}
CONFIG = network.T5Config(
    vocab_size=256,
    emb_dim=32,
    num_heads=2,
    head_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_dim=64,
)


class Sample(NamedTuple):
    resident_mb: float
    arrays: int


def take_sample() -> Sample:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(pages * 4096 / 1e6, len(jax.live_arrays()))


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory in /proc")
def test_memory_is_flat_over_2000_steps(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 256, (400, 16)).astype(np.int32)
    examples = [
        Example(f"e{i}", "task", "", row, (row[:8],), "", ("x",), False)
        for i, row in enumerate(tokens)
    ]
    model = EncoderDecoderModel(network.Transformer(CONFIG), optimizer_def=optimizers.AdamW())
    program = Program(model, PjitPartitioner(devices=jax.devices()[:1]), Trainer())
    samples: dict[int, Sample] = {}

    def watch(event: StepEvent) -> None:
        if event.step % (WARM // 2) == 0:
            samples[event.step] = take_sample()

    run_training(
        program,
        TrainBatches([in_memory("task", examples)], 8, LENGTHS, pack=True, seed=0),
        str(tmp_path),
        lambda start: STEPS,
        CheckpointConfig(save=SaveCheckpointConfig(period=50, keep=2)),
        random_seed=0,
        meta={},
        stats_period=10,
        evaluation=Evaluation(
            period=50,
            loss_cfg=DatasetConfig("task", LENGTHS, "validation", 8),
            loss_examples=examples[:40],
        ),
        hooks=[watch],
    )
    print(f"\n{samples}")
    later = [sample for step, sample in samples.items() if step >= WARM]
    assert len(later) == 7
    assert min(sample.resident_mb for sample in later[-3:]) - later[0].resident_mb < GROWTH_MB
    assert {sample.arrays for sample in later} == {later[0].arrays}
