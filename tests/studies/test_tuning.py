"""The cells of a group, tuned and decoded together, equal cells tuned and decoded alone."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from t5x_ext.data.records import Example
from t5x_ext.models import EncoderDecoderModel, network
from t5x_ext.models.lora import LoRA
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.studies.arms import Arm
from t5x_ext.studies.cells import Cell
from t5x_ext.studies.predicting import Predictor
from t5x_ext.studies.recipes import Recipe
from t5x_ext.studies.tuning import Job, Tuner, copy_to
from t5x_ext.training.optimizers import AdamW

CONFIG = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=32,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.1,
)
RECIPE = Recipe({"inputs": 32, "targets": 16}, batch_size=4, epochs=2, learning_rate=1e-3)
ARM = Arm("stl", "STL", "start", "tk.def", ("n10",))
TRAIN = {"a": 13, "b": 28, "c": 20, "zero": 0, "d": 40, "e": 9}  # examples of each cell
TEST = {"a": 5, "b": 21, "c": 9, "zero": 3, "d": 8, "e": 2}


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
            [Cell(name, ARM, "n10", seed, (name,))],
            make_examples(seed, TRAIN[name]),
            make_examples(100 + seed, TEST[name]),
        )
        for seed, name in enumerate(TRAIN)
    ]


MODELS = {
    "full": MODEL,
    "adapters": MODEL.replace(module=network.Transformer(CONFIG, LoRA(2, alpha=32.0))),
}


def make_tuner(experts: int, tuned: str = "full", **axes: int) -> Tuner:
    devices = None if axes else tuple(jax.devices()[:1])
    return Tuner(MODELS[tuned], PjitPartitioner(devices=devices, **axes), RECIPE, experts)


def run(tuner: Tuner) -> dict[str, tuple]:
    """Name of a cell -> its parameters, losses and predictions."""
    predictor = Predictor({"": tuner.model}, tuner.partitioner, 8, RECIPE.task_feature_lengths)
    initial = tuner.program(RECIPE.trainer(1)).init_base(jax.random.key(7))
    found = {}
    for group in tuner.group(make_jobs(tuner)):
        tuned = tuner.tune(initial, group)
        stacked = jax.tree.map(np.asarray, tuned.params)
        if len(group) == 1:
            stacked = jax.tree.map(lambda x: x[None], stacked)
        [predicted] = predictor.predict(tuned)
        for index, job in enumerate(group):
            own = jax.tree.map(lambda x, index=index: x[index], stacked)
            texts = [row.prediction for row in predicted[index]]
            found[job.cell.key] = own, tuned.losses[index], texts
    return found


@functools.cache
def alone(tuned: str) -> dict[str, tuple]:
    return run(make_tuner(1, tuned))


def test_equal_steps_go_together_first_and_the_rest_by_its_steps() -> None:
    tuner = make_tuner(2)
    sizes = {"a": 13, "b": 60, "c": 28, "d": 16, "zero": 0, "e": 40, "f": 13, "g": 5}
    jobs = [
        tuner.prepare([Cell(name, ARM, "n10", 0, (name,))], make_examples(0, count), [])
        for name, count in sizes.items()
    ]
    groups = [[(job.cell.key, job.num_steps) for job in group] for group in tuner.group(jobs)]
    assert groups == [
        [("a", 8), ("d", 8)],  # as soon as there are two
        [("zero", 0)],
        [("c", 14), ("f", 8)],
        [("b", 30), ("e", 20)],
        [("g", 4)],  # too few to wait for the others
    ]


@pytest.mark.slow(but="2-axes0")
@pytest.mark.parametrize("axes", [{}, dict(expert=2, fsdp=2, data=2)])
@pytest.mark.parametrize("experts", [1, 2])
def test_a_step_compiled_ahead_is_not_compiled_again(
    experts: int, axes: dict[str, int], caplog
) -> None:
    tuner = make_tuner(experts, **axes)
    initial = tuner.program(RECIPE.trainer(1)).init_state(jax.random.key(7)).params
    groups = list(tuner.group(make_jobs(tuner)))
    with jax.log_compiles():
        for group in groups:
            tuner.compile(group)
        ahead = steps_compiled(caplog)
        for group in groups:
            tuner.tune(copy_to(initial, "pinned_host"), group)
    # In pairs: one program for two, and one for the cell that is left.
    assert steps_compiled(caplog) == ahead == experts


def steps_compiled(caplog) -> int:
    finished = [r.getMessage() for r in caplog.records if "XLA compilation" in r.getMessage()]
    return sum("sharded_step" in text or "jit(one)" in text for text in finished)


@pytest.mark.slow(but="full-axes2")
@pytest.mark.parametrize(
    ("tuned", "axes"),
    [
        ("full", {}),
        ("full", dict(expert=2, data=2, model=2)),
        ("full", dict(expert=4, fsdp=2)),
        ("adapters", {}),
        ("adapters", dict(expert=2, fsdp=4)),
    ],
)
def test_together_equals_alone(tuned: str, axes: dict[str, int]) -> None:
    together = run(make_tuner(4, tuned, **axes))
    assert together.keys() == alone(tuned).keys() == TRAIN.keys()
    for name, (own, losses, texts) in together.items():
        expected, expected_losses, expected_texts = alone(tuned)[name]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), own, expected)
        assert losses == pytest.approx(expected_losses, rel=1e-5)
        assert texts == expected_texts
        assert len(texts) == TEST[name]
