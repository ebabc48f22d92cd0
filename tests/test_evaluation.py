"""Held-out loss: what a limited number of batches is a sample of."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from t5x_ext.configs import DatasetConfig
from t5x_ext.data.records import Example
from t5x_ext.evaluation import evaluate_loss, first_of_all_tasks
from t5x_ext.models import EncoderDecoderModel, network, parameters
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.training.trainer import Program, Trainer

CONFIG = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_dim=32,
)


def make_examples(task: str, count: int, lengths=(2, 100)) -> list[Example]:
    random = np.random.default_rng(0)

    def tokens(low: int, high: int) -> np.ndarray:
        return random.integers(3, 64, random.integers(low, high)).astype(np.int32)

    return [
        Example(f"{task}{i}", task, "", tokens(*lengths), (tokens(1, 8),), "", ("x",), False)
        for i in range(count)
    ]


def test_a_few_batches_are_of_the_first_examples_and_not_of_the_longest() -> None:
    examples = make_examples("task", 60)
    model = EncoderDecoderModel(network.Transformer(CONFIG))
    program = Program(model, PjitPartitioner(devices=jax.devices()[:1]), Trainer())
    weights = parameters.init_params(model.specs, jax.random.key(0))
    cfg = DatasetConfig("task", {"inputs": 100, "targets": 8}, "validation", batch_size=8)
    limited = evaluate_loss(program, weights, examples, cfg, max_batches=3)
    assert limited == evaluate_loss(program, weights, examples[:24], cfg)
    longest = sorted(examples, key=lambda example: -len(example.inputs))[:24]
    other = evaluate_loss(program, weights, longest, cfg)
    assert limited["cross_entropy"] != pytest.approx(other["cross_entropy"], rel=1e-4)


def test_a_sample_of_several_tasks_holds_each_in_proportion() -> None:
    tasks = {"a": 50, "b": 30, "c": 20}
    examples = [ex for task, count in tasks.items() for ex in make_examples(task, count)]
    ids = [example.id for example in first_of_all_tasks(examples, 10)]
    assert ids == ["a0", "a1", "a2", "a3", "a4", "b0", "b1", "b2", "c0", "c1"]
    assert first_of_all_tasks(examples, 100) == first_of_all_tasks(examples, 500) == examples
