"""Decoder-only models train as in transformers: loss, gradients and ten AdamW steps."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from decoder_only_twins import (
    VARIANTS,
    Pair,
    adamw_losses,
    loss_and_gradients,
    make_model,
    make_pairs,
    save,
    with_gradients_as_weights,
)

from t5x_ext import schedules
from t5x_ext.checkpoints import load_params, open_source
from t5x_ext.data.packing import Layout
from t5x_ext.models import DecoderOnlyModel
from t5x_ext.models.network import Transformer
from t5x_ext.models.parameters import path_name
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.training import optimizers
from t5x_ext.training.step import sum_gradients
from t5x_ext.training.trainer import Program, Trainer

pytest.importorskip("torch")
pytest.importorskip("transformers")

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01
# One of each kind of attention, position and head: a train step takes seconds to compile.
STEPPED = ("llama_mha", "llama_gqa_tied", "llama_mqa", "mpt_6_heads", "falcon_7b", "falcon_40b")


@pytest.fixture(scope="module", params=list(VARIANTS))
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A random model of transformers, and the directory it was saved in."""
    model = make_model(request.param)
    return model, save(model, tmp_path_factory.mktemp(request.param))


def our_model(directory: Path) -> DecoderOnlyModel:
    optimizer = optimizers.AdamW(weight_decay=WEIGHT_DECAY)
    return DecoderOnlyModel(
        Transformer(open_source(str(directory)).config), optimizer_def=optimizer
    )


def our_batch(model: DecoderOnlyModel, pairs: list[Pair]) -> dict[str, np.ndarray]:
    """Each pair in its own row, as training builds batches; all rows are 128 long."""
    inputs = [np.array(pair.prompt, np.int32) for pair in pairs]
    targets = [np.array(pair.response, np.int32) for pair in pairs]
    rows, starts = np.arange(len(pairs)), np.zeros(len(pairs), int)
    layout = Layout(rows, rows, np.ones(len(pairs), int), starts, starts, len(pairs))
    return model.features.build(inputs, targets, layout, {"inputs": 128, "targets": 128})


@pytest.mark.slow(but="llama_gqa_tied")
def test_loss_and_gradients_are_equal(twin, tmp_path) -> None:
    theirs, directory = twin
    pairs = make_pairs(theirs.config.vocab_size)
    loss, _ = loss_and_gradients(theirs, pairs)
    model = our_model(directory)
    compute = jax.jit(lambda p, b: sum_gradients(model, p, b, None))
    grads, sums = compute(load_params(str(directory)), our_batch(model, pairs))
    assert float(sums.loss / sums.weight) == pytest.approx(loss, abs=1e-4)

    # Their gradients take the way of the weights: saved by transformers, opened by us.
    expected = load_params(str(save(with_gradients_as_weights(theirs), tmp_path)))

    def check(path, left, right) -> None:
        right = np.asarray(right / sums.weight)
        assert np.abs(left).max() > 1e-5, path_name(path)  # every parameter has a gradient
        np.testing.assert_allclose(right, left, rtol=0, atol=1e-4, err_msg=path_name(path))
        error = np.linalg.norm(right - left) / np.linalg.norm(left)
        assert error < 1e-4, path_name(path)

    jax.tree_util.tree_map_with_path(check, expected, grads)


@pytest.mark.slow(but="falcon_7b")
@pytest.mark.parametrize("variant", STEPPED)
def test_ten_adamw_steps_have_equal_losses(variant, tmp_path) -> None:
    theirs = make_model(variant)
    directory = save(theirs, tmp_path)
    vocab_size = theirs.config.vocab_size
    model = our_model(directory)
    schedule = schedules.create_learning_rate_scheduler("constant", LEARNING_RATE)
    one_device = PjitPartitioner(devices=jax.devices()[:1])
    program = Program(model, one_device, Trainer(learning_rate_fn=schedule))
    params = jax.device_put(load_params(str(directory)), jax.devices()[0])
    state, ours = program.state_from_params(params), []
    batches = [make_pairs(vocab_size, seed) for seed in range(10)]
    for pairs in batches:
        state, metrics = program.train_step(state, our_batch(model, pairs), jax.random.key(0))
        ours.append(float(metrics["loss"]))
    expected = adamw_losses(theirs, batches, LEARNING_RATE, WEIGHT_DECAY)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected) > 0.1  # the losses do move
