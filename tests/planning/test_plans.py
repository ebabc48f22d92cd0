"""Plans of small models: memory from shapes, FLOPs by formula, changes that make a run fit."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from t5x_ext.data.features import EncoderDecoderFeatures
from t5x_ext.decoding import loop
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.decoding.sampling import Greedy
from t5x_ext.errors import ConfigError
from t5x_ext.models import EncoderDecoderModel, network, parameters
from t5x_ext.models.linen import LinenNetwork
from t5x_ext.models.lora import LoRA
from t5x_ext.models.network_config import NetworkConfig
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning import lowering, plans, proposals, tables
from t5x_ext.planning.devices import DEVICES, Machine
from t5x_ext.training.optimizers import AdamW
from t5x_ext.training.trainer import Program, Trainer

CONFIG = network.T5Config(
    vocab_size=384,
    emb_dim=96,
    num_heads=3,
    num_encoder_layers=2,
    num_decoder_layers=3,
    head_dim=32,
    mlp_dim=192,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.0,
)
WORKLOAD = lowering.Workload(12, 64, 32)
# No TPU slice has three or six chips, so XLA's CPU compiler answers.
THREE, SIX = (Machine(DEVICES["H200"], count) for count in (3, 6))


def make_setup(num_microbatches=1, **mesh):
    model = EncoderDecoderModel(module=network.Transformer(CONFIG), optimizer_def=AdamW())
    trainer = Trainer(num_microbatches=num_microbatches)
    return plans.Setup(model, PjitPartitioner(**mesh), trainer, WORKLOAD, num_steps=3600)


@pytest.fixture(scope="module")
def plan():
    return plans.make_plan(make_setup(), THREE, price_per_chip_hour=2.0)


def test_compiled_flops_are_those_of_the_formula(plan):
    # The gradient of attention's bias is summed over 12 rows by a product, in each of 3 heads: in 2
    # encoder layers over 64 x 64 positions, in 3 decoder layers over 32 x 32.
    bias_sums = 2 * 12 * 3 * (2 * 64**2 + 3 * 32**2)
    assert plan.train.totals.flops * 3 == plan.model_flops + bias_sums
    assert (plan.train.totals.unknown_loops, plan.train.totals.kernels) == (0, 0)


def test_parameters_and_optimizer_are_as_their_shapes_say(plan):
    count = parameters.count_params(plan.setup.model.specs)
    assert plan.train.memory.params == 4 * count
    assert plan.train.memory.optimizer == 2 * 4 * count + 4  # two moments and a counter
    memory = plan.train.memory
    assert memory.params + memory.optimizer + memory.temporaries == memory.peak


def test_a_plan_says_which_figures_of_a_network_of_ones_own_are_unknown():
    class Pairs(nn.Module):
        @nn.compact
        def __call__(self, encoder_input_tokens, decoder_input_tokens):
            read = nn.Embed(64, 8)(encoder_input_tokens).mean(axis=1, keepdims=True)
            return nn.Dense(64)(read + nn.Embed(64, 8)(decoder_input_tokens))

    module = LinenNetwork(Pairs(), NetworkConfig(vocab_size=64))
    model = EncoderDecoderModel(module, optimizer_def=AdamW())
    own = plans.make_plan(dataclasses.replace(make_setup(), model=model), THREE)
    assert own.fits and own.model_flops is None and own.utilization is None
    assert own.train.totals.flops > 0 and own.as_record()["model_flops_all_devices"] is None
    printed = tables.render(own, None)
    assert "unknown: NetworkConfig does not define forward_flops" in printed
    assert re.search(r"model FLOPs utilization +unknown$", printed, re.MULTILINE)
    policies = {change.setup.model.config.remat_policy for change in proposals._changes(own, SIX)}
    assert policies == {"none"}


def test_time_and_money_follow_from_the_step(plan):
    assert plan.step_secs >= plan.train.totals.flops / plan.machine.device.flops_per_sec
    assert plan.hours == pytest.approx(plan.step_secs)  # 3,600 steps
    assert plan.dollars == pytest.approx(plan.hours * 3 * 2.0)
    assert plan.tokens_per_sec == pytest.approx(12 * (64 + 32) / plan.step_secs)


def test_gradients_of_replicated_parameters_are_reduced_once(plan):
    payload = sum(t.payload_bytes for t in plan.train.totals.collectives.values())
    # A little more than the parameters: metrics, and the bias of attention.
    assert plan.train.memory.params <= payload < 1.5 * plan.train.memory.params


@pytest.mark.parametrize("size", [2, 4, 8])
def test_fsdp_divides_parameters_and_optimizer(size):
    def held(fsdp):
        setup = make_setup(devices=jax.devices()[:8], fsdp=fsdp)
        state = Program(setup.model, setup.partitioner, setup.trainer).abstract_state()
        return [lowering.bytes_per_device(tree) for tree in (state.params, state.opt_state)]

    for whole, part in zip(held(1), held(size), strict=True):
        assert part == pytest.approx(whole / size, rel=0.05)


def test_forward_flops_of_a_model_small_enough_to_count_by_hand():
    cfg = network.T5Config(
        vocab_size=7,
        emb_dim=2,
        num_heads=1,
        num_encoder_layers=1,
        num_decoder_layers=1,
        head_dim=3,
        mlp_dim=5,
    )
    # One row, 2 input and 1 target positions; multiply-adds:
    encoder = 2 * (4 * 6 + 2 * 10) + 2 * (2 * 2 * 3)  # projections, feed-forward, attention
    decoder = (4 * 6 + 2 * 10) + 2 * 3 + (2 * 6 + 2 * 2 * 6) + 2 * 2 * 3
    assert cfg.forward_flops(1, 2, 1) == 2 * (encoder + decoder + 2 * 7)
    forward = cfg.forward_flops(1, 2, 1)
    assert network.Transformer(cfg).train_flops(1, 2, 1) == 3 * forward
    assert network.Transformer(cfg, LoRA(4)).train_flops(1, 2, 1) == 2 * forward


def test_a_packed_batch_has_segments_and_positions():
    partitioner = PjitPartitioner(devices=jax.devices()[:4])
    lengths = {"inputs": 16, "targets": 4}
    batch = lowering.abstract_batch(EncoderDecoderFeatures(), 8, lengths, partitioner)
    shapes = {name: leaf.shape for name, leaf in batch.items()}
    assert shapes["encoder_positions"] == (8, 16) and shapes["decoder_segment_ids"] == (8, 4)
    assert len(shapes) == 8
    assert batch["encoder_input_tokens"].sharding.shard_shape((8, 16)) == (2, 16)


def test_decoding_of_adapters_holds_their_base_once_and_has_rows_of_any_in_a_batch():
    """Four adapters on two slots: each slot has a network of two, and one batch of 12 rows."""
    setup = make_setup(devices=jax.devices()[:4], expert=2, fsdp=2, data=1)
    module = network.Transformer(setup.model.config, LoRA(4))
    program = dataclasses.replace(setup, model=setup.model.replace(module=module)).program
    params = lowering.abstract_models(program, 4)
    stacked = parameters.select(module.trainable, params)
    one = jax.tree.leaves(program.abstract_state().params)
    shapes = [leaf.shape for leaf in jax.tree.leaves(stacked)]
    assert shapes == [(2, leaf.shape[0], 2, *leaf.shape[1:]) for leaf in one]
    assert parameters.select(module.frozen, params) == program.abstract_frozen()
    given = jax.tree.leaves(lowering.lower_decoding(program, setup.workload, 4).in_avals)
    assert [leaf.shape for leaf in given][-2:] == [(2, 12, 64), (2, 12)]


def test_rows_that_wait_are_those_that_decoding_parks():
    setup = make_setup(devices=jax.devices()[:2])
    workload = lowering.Workload(4, 64, 32)  # stages of 8 and of 32 positions

    generator = setup.model.generator

    def first_stage(params, prompts):
        weights = generator.prepare(params)
        batch = loop.Prompts(prompts, jnp.full(4, 64), jnp.arange(4))
        rows = loop.start_rows(generator, params, weights, batch, Greedy(), 32)
        return loop.advance_rows(generator, weights, rows, Greedy(), 0, 8, OutputIds((1,), 384))

    inputs = jax.ShapeDtypeStruct((4, 64), jnp.int32)
    rows = jax.eval_shape(first_stage, parameters.abstract_params(setup.model.specs), inputs)
    held = (rows.prompt.keys, rows.prompt.values, rows.cache)
    parked = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(held))
    assert lowering.waiting_bytes(setup.program, workload, 1) == parked / 2
    assert (
        lowering.waiting_bytes(setup.program, dataclasses.replace(workload, target_length=8), 1)
        == 0
    )


def with_memory(machine, num_bytes):
    return dataclasses.replace(
        machine, device=dataclasses.replace(machine.device, memory_bytes=int(num_bytes))
    )


def test_what_does_not_fit_says_by_how_much_and_what_would(plan):
    memory = plan.train.memory
    # Room for the activations and half of the parameters and moments.
    machine = with_memory(THREE, memory.peak - 0.5 * (memory.params + memory.optimizer))
    tight = plans.make_plan(make_setup(), machine)
    assert not tight.fits and tight.train is None and not tight.is_lower_bound
    assert tight.missing_bytes == plan.needed_bytes - machine.device.memory_bytes
    lines = []
    found = proposals.find_proposals(tight, 3, max_compiles=1, report=lines.append)
    assert [proposal.settings for proposal in found] == [("--gin.PjitPartitioner.fsdp=3",)]
    assert found[0].plan.fits and found[0].plan.setup.partitioner.mesh.shape["fsdp"] == 3
    assert lines[0] == "[1/1] --gin.PjitPartitioner.fsdp=3: compiling"
    assert "fits" in lines[1]
    text = tables.render(tight, found)
    assert "does not fit" in text and "--gin.PjitPartitioner.fsdp=3" in text


def test_changes_come_one_at_a_time_first_and_only_those_that_divide(plan):
    on_six = dataclasses.replace(plan, setup=make_setup().on(SIX), machine=SIX)
    settings = [change.settings for change in proposals._changes(on_six, SIX)]
    assert settings[0] == ("--gin.PjitPartitioner.fsdp=6",)
    assert settings[1] == ("--gin.REMAT_POLICY='\"minimal\"'",)
    assert settings[2] == ("--gin.NUM_MICROBATCHES=2",)
    assert settings[-1] == (*settings[2], "--gin.REMAT_POLICY='\"full\"'", *settings[0])
    # Twelve rows on six devices can be cut in two parts, not in four, unless `model` took some of
    # the devices; three heads do not divide.
    assert ("--gin.NUM_MICROBATCHES=4",) not in settings


def test_models_that_share_a_device_become_fewer(plan):
    one = Machine(DEVICES["H200"], 1)
    together = dataclasses.replace(make_setup(expert=-1, data=1).on(one), experts=119)
    crowded = dataclasses.replace(plan, setup=together, machine=one)
    changes = {change.settings: change.setup for change in proposals._changes(crowded, one)}
    assert changes["--gin.EXPERTS=59",].experts == 59
    assert not [settings for settings in changes if "Partitioner" in " ".join(settings)]


def test_a_mesh_that_is_spread_already_is_no_change(plan):
    spread = dataclasses.replace(plan, setup=make_setup(fsdp=3).on(THREE))
    settings = [" ".join(change.settings) for change in proposals._changes(spread, THREE)]
    assert settings and not [line for line in settings if "fsdp" in line]


def test_what_cannot_fit_is_not_compiled(plan, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("compiles")

    monkeypatch.setattr(plans.compiling, "compile_train_step", refuse)
    monkeypatch.setattr(plans.compiling, "compile_decoding", refuse)
    tight = dataclasses.replace(plan, machine=with_memory(THREE, 1000), train=None)
    lower_bound = plans.make_plan(make_setup(), tight.machine)
    assert lower_bound.is_lower_bound and not lower_bound.fits
    assert "more than" in tables.render(lower_bound, None)
    lines = []
    assert proposals.find_proposals(tight, 3, 0, lines.append) == []
    for change in proposals._changes(tight, tight.machine):
        assert proposals._expected_bytes(change, {}) > 1000
    assert lines == []


def test_a_mesh_or_batch_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="mesh .*fsdp=2.* does not divide 3 devices"):
        plans.make_plan(make_setup(fsdp=2), THREE)
    with pytest.raises(ConfigError, match="BATCH_SIZE: 12 examples do not divide into 3"):
        plans.make_plan(make_setup(num_microbatches=8), THREE)
