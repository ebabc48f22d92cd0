"""The same weights and batches in transformers and here: loss, gradients and ten AdamW steps."""

from __future__ import annotations

import copy
import dataclasses

import jax
import numpy as np
import pytest
from hf_twins import Twin, make_batch, make_twin

from t5x_ext import schedules
from t5x_ext.checkpoints import load_params
from t5x_ext.models import EncoderDecoderModel, network
from t5x_ext.models.parameters import path_name
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.training import optimizers
from t5x_ext.training.step import sum_gradients
from t5x_ext.training.trainer import Program, Trainer

torch = pytest.importorskip("torch")

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01


def make_model(twin: Twin) -> EncoderDecoderModel:
    config = dataclasses.replace(twin.source.config, dropout_rate=0.0)
    optimizer = optimizers.AdamW(weight_decay=WEIGHT_DECAY)
    return EncoderDecoderModel(network.Transformer(config), optimizer_def=optimizer)


def torch_loss(model, batch):
    """transformers' own loss: the mean over target tokens that are not padding."""
    inputs = torch.from_numpy(batch["encoder_input_tokens"]).long()
    labels = torch.from_numpy(batch["decoder_target_tokens"]).long()
    labels = labels.masked_fill(labels == 0, -100)
    return model(input_ids=inputs, attention_mask=(inputs > 0).long(), labels=labels).loss


@pytest.mark.slow(but="umt5_tied")
def test_loss_and_gradients_are_equal(twin: Twin, tmp_path) -> None:
    batch = make_batch(twin.source.config.vocab_size)
    theirs = twin.torch_model
    theirs.zero_grad()
    loss = torch_loss(theirs, batch)
    loss.backward()

    model = make_model(twin)
    grads, sums = jax.jit(lambda p, b: sum_gradients(model, p, b, None))(twin.params, batch)
    assert float(sums.loss / sums.weight) == pytest.approx(loss.item(), abs=1e-4)

    # Their gradients take the way of the weights: saved by transformers, opened by us.
    gradient_model = copy.deepcopy(theirs)  # with what it shares
    with torch.no_grad():
        for into, weight in zip(gradient_model.parameters(), theirs.parameters(), strict=True):
            into.copy_(weight.grad)
    gradient_model.save_pretrained(tmp_path / "gradients")
    expected = load_params(str(tmp_path / "gradients"))

    def check(path, left, right) -> None:
        right = np.asarray(right / sums.weight)
        assert np.abs(left).max() > 1e-4, path_name(path)  # every parameter has a gradient
        np.testing.assert_allclose(right, left, rtol=0, atol=1e-4, err_msg=path_name(path))
        error = np.linalg.norm(right - left) / np.linalg.norm(left)
        assert error < 1e-4, path_name(path)

    jax.tree_util.tree_map_with_path(check, expected, grads)


@pytest.mark.slow(but="t5_1_0")
@pytest.mark.parametrize("family", ["t5_1_0", "t5_1_1"])
def test_ten_adamw_steps_have_equal_losses(family: str, tmp_path) -> None:
    twin = make_twin(family, tmp_path)
    batches = [make_batch(twin.source.config.vocab_size, seed) for seed in range(10)]

    module = twin.torch_model
    module.train()
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        elif hasattr(part, "dropout") and isinstance(part.dropout, float):
            part.dropout = 0.0  # of attention weights
    adamw = torch.optim.AdamW(module.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    theirs = []
    for batch in batches:
        loss = torch_loss(module, batch)
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        theirs.append(loss.item())

    schedule = schedules.create_learning_rate_scheduler("constant", LEARNING_RATE)
    one_device = PjitPartitioner(devices=jax.devices()[:1])
    program = Program(make_model(twin), one_device, Trainer(learning_rate_fn=schedule))
    state = program.state_from_params(jax.device_put(twin.params, jax.devices()[0]))
    ours = []
    for batch in batches:
        state, metrics = program.train_step(state, batch, jax.random.key(0))
        ours.append(float(metrics["loss"]))

    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert np.ptp(theirs) > 0.1  # the losses do move
