"""The cells of a group, tuned and decoded together, equal cells tuned and decoded alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from t5x_ext.data.records import Example
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.predict import predict, predict_together
from t5x_ext.models import EncoderDecoderModel, network
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.studies.arms import Arm
from t5x_ext.studies.cells import Cell
from t5x_ext.studies.recipes import Recipe
from t5x_ext.studies.tuning import Job, Tuner
from t5x_ext.training.optimizers import AdamW

CONFIG = network.T5Config(
    vocab_size=64, emb_dim=16, num_heads=2, num_encoder_layers=1, num_decoder_layers=1,
    head_dim=8, mlp_dim=32, mlp_activations=("gelu", "linear"), dropout_rate=0.1,
)  # fmt: skip
RECIPE = Recipe({"inputs": 32, "targets": 16}, batch_size=4, epochs=2, learning_rate=1e-3)
ARM = Arm("stl", "STL", "start", "tk.def", ("n10",))
TRAIN = {"a": 13, "b": 28, "c": 20, "zero": 0, "long": 60}  # examples of each cell
TEST = {"a": 5, "b": 21, "c": 9, "zero": 3, "long": 8}


class Vocabulary:
    vocab_size = 64
    eos_id = 1

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


MODEL = EncoderDecoderModel(network.Transformer(CONFIG), Vocabulary(), Vocabulary(), AdamW())


def make_examples(seed: int, count: int) -> list[Example]:
    rng = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> np.ndarray:
        return np.append(rng.integers(2, 64, rng.integers(low, high)), 1).astype(np.int32)

    return [
        Example(f"{i}", "t", "c", tokens(9, 30), (tokens(2, 8),), "", ("",), False)
        for i in range(count)
    ]


def make_jobs(tuner: Tuner) -> list[Job]:
    return [
        tuner.prepare(
            Cell(name, ARM, "n10", seed, (name,)),
            make_examples(seed, TRAIN[name]),
            make_examples(100 + seed, TEST[name]),
        )
        for seed, name in enumerate(TRAIN)
    ]


def make_tuner(experts: int, **axes: int) -> Tuner:
    devices = None if axes else tuple(jax.devices()[:1])
    return Tuner(MODEL, PjitPartitioner(devices=devices, **axes), RECIPE, experts)


def run(tuner: Tuner) -> dict[str, tuple]:
    """Name of a cell -> its parameters, losses and predictions."""
    decoder = Decoder(MODEL, tuner.partitioner, 8, 32, 16, first_stage=None)
    initial = tuner.program(RECIPE.trainer(1)).init_state(jax.random.key(7)).params
    found = {}
    for group in tuner.group(make_jobs(tuner)):
        tuned = tuner.tune(initial, group)
        sets = [job.test for job in group]
        if len(group) == 1:
            stacked = jax.tree.map(lambda x: np.asarray(x)[None], tuned.params)
            predicted = [predict(decoder, tuned.params, sets[0])]
        else:
            stacked = jax.tree.map(np.asarray, tuned.params)
            predicted = predict_together(decoder, tuned.params, sets)
        for index, job in enumerate(group):
            own = jax.tree.map(lambda x, index=index: x[index], stacked)
            texts = [row.prediction for row in predicted[index]]
            found[job.cell.key] = own, tuned.losses[index], texts
    return found


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple]:
    return run(make_tuner(1))


def test_groups_take_cells_of_like_length() -> None:
    groups = list(make_tuner(4).group(make_jobs(make_tuner(4))))
    assert [[job.cell.key for job in group] for group in groups] == [
        ["zero"],
        ["a", "b", "c"],
        ["long"],
    ]
    assert [job.num_steps for job in groups[1]] == [8, 14, 10]


@pytest.mark.parametrize("axes", [{}, dict(expert=2, data=2, model=2), dict(expert=4, fsdp=2)])
def test_together_equals_alone(alone: dict[str, tuple], axes: dict[str, int]) -> None:
    together = run(make_tuner(4, **axes))
    assert together.keys() == alone.keys() == TRAIN.keys()
    for name, (own, losses, texts) in together.items():
        expected, expected_losses, expected_texts = alone[name]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), own, expected)
        assert losses == pytest.approx(expected_losses, rel=1e-5)
        assert texts == expected_texts
        assert len(texts) == TEST[name]
