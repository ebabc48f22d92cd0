"""Plans of whole studies: groups, hours, and one process for each model beside them."""

from __future__ import annotations

import dataclasses

import compilers
import pytest

from t5x_ext.models import EncoderDecoderModel, network
from t5x_ext.models.lora import LoRA
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning import lowering, plans, study_plans, study_tables
from t5x_ext.planning.devices import parse_topology
from t5x_ext.planning.study_plans import ModelSize, StudySetup, StudySize
from t5x_ext.training.optimizers import AdamW
from t5x_ext.training.trainer import Trainer

# Heads and lengths that the attention kernel takes.
CONFIG = network.T5Config(
    vocab_size=384,
    emb_dim=64,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=2,
    head_dim=64,
    mlp_dim=128,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.1,
    dtype="bfloat16",
)
SIZE = StudySize(
    models=(
        *[ModelSize("instruct", 6, 100)] * 2,
        ModelSize("instruct", 7, 30),
        ModelSize("instruct", 40, 300),
        ModelSize("plain", 5, 100),
        ModelSize("plain", 900, 0, is_initial=True),
    ),
    tasks=9,
    tasks_without_file=2,
)
MACHINE = "v5e:2x2"


def make_study(experts, lora=None, **mesh):
    model = EncoderDecoderModel(module=network.Transformer(CONFIG, lora), optimizer_def=AdamW())
    setup = plans.Setup(
        model,
        PjitPartitioner(**{"expert": 2, "data": 1, "fsdp": 2} | mesh),
        Trainer(),
        lowering.Workload(4, 128, 128),
        decoding=lowering.Workload(20, 128, 16),
    )
    return StudySetup(setup, SIZE, experts)


def test_a_kind_is_of_one_start_and_about_as_many_steps():
    initial, *kinds = study_plans.make_kinds(SIZE.models, 2)
    assert initial.models == [SIZE.models[-1]]
    assert [len(kind.models) for kind in kinds] == [3, 1, 1]
    assert [[model.steps for model in group] for group in kinds[0].groups] == [[6, 6], [7]]
    assert kinds[0].steps_range == (6, 7)


def test_a_group_lasts_as_long_as_its_longest_model():
    group = [ModelSize("a", 3, 10), ModelSize("a", 2, 41)]
    assert study_plans.group_secs(group, 10.0, 1.0, rows=20) == 3 * 10 + 3
    assert study_plans.group_secs(group[:1], 10.0, 1.0, rows=20) == 3 * 10 + 1
    # Adapters in a slot share batches: 51 prompts, and 18 in the other slot.
    group += [ModelSize("a", 3, 9), ModelSize("a", 3, 9)]
    assert study_plans.group_secs(group, 10.0, 1.0, rows=20, sharing=2) == 3 * 10 + 3
    assert study_plans.group_secs(group, 10.0, 1.0, rows=20, sharing=4) == 3 * 10 + 4


@pytest.fixture(scope="module")
def study():
    compilers.load_libtpu()
    lines = []
    plan = study_plans.make_study_plan(
        make_study("auto"), parse_topology(MACHINE), price_per_chip_hour=1.0, report=lines.append
    )
    assert len(lines) == 4  # one and two models a slot, decoding, the whole machine
    return plan


@pytest.mark.slow
def test_adapters_of_a_slot_share_batches_of_prompts_and_need_few_programs():
    compilers.load_libtpu()
    lines = []
    plan = study_plans.make_study_plan(
        make_study(4, LoRA(2)), parse_topology(MACHINE), report=lines.append, groups_only=True
    )
    assert lines == [
        "compiling the step of 4 models",
        "compiling decoding",
        "compiling the step of 2 models",
    ]
    assert plan.whole is None and plan.slot.decoding is plan.together.decoding
    [kind] = [kind for kind in plan.kinds if len(kind.models) == 3]
    # The longest comes first: 30 and 100 prompts in one slot, 100 in the other.
    secs = 7 * plan.together.step_secs + 7 * plan.together.decoding_secs
    assert plan.hours(kind) == pytest.approx(secs / 3600)
    assert "decoding 20 prompts of adapters in each slot" in study_tables.render(plan, None)


@pytest.mark.slow
def test_auto_takes_what_the_study_can_use(study):
    assert study.together.fits and study.slots == 2
    assert study.together.setup.experts == 4  # three models of one kind, in whole slots
    assert study.slot.setup.experts == 2
    assert study.whole.setup.partitioner.mesh.shape == {
        "expert": 1,
        "data": 1,
        "fsdp": 4,
        "model": 1,
    }


@pytest.mark.slow
def test_the_step_of_many_models_costs_what_each_asks_for(study):
    together, slot = study.together, study.slot
    assert together.model_flops == 2 * slot.model_flops
    for plan in (together, slot):
        assert plan.train.totals.flops * 4 == pytest.approx(plan.model_flops, rel=0.1)
        assert plan.train.totals.kernels > 0  # the attention kernel, in each model
        groups = {size for _, size in plan.train.totals.collectives}
        assert groups == {2}  # models never talk to each other
    assert together.train.memory.params == pytest.approx(2 * slot.train.memory.params)
    assert together.train.memory.optimizer == pytest.approx(2 * slot.train.memory.optimizer)


@pytest.mark.slow
def test_hours_and_dollars_follow_from_steps(study):
    kinds = study.kinds
    for kind in kinds:
        plan = study.together if len(kind.models) > 1 else study.slot
        batches = max(-(-model.prompts // 20) for model in kind.models)
        expected = kind.models[0].steps * plan.step_secs + batches * plan.decoding_secs
        assert study.hours(kind) == pytest.approx(expected / 3600)
    assert study.dollars(2.0) == 2 * 4 and study.dollars(2.0, 2) == 2 * 2
    start = study.slot.train.compile_secs + study.slot.decoding.compile_secs
    alone = study.alone_hours(kinds[0], study.slot) * 3600
    assert alone == pytest.approx(start + 900 * study.slot.step_secs)
    quick = dataclasses.replace(study, start_secs=0.0).alone_hours(kinds[0], study.slot) * 3600
    assert quick == pytest.approx(900 * study.slot.step_secs)
    whole = study.whole  # three models of 6, 6 and 7 steps; 100, 100 and 30 prompts
    work = 19 * whole.step_secs + 12 * whole.decoding_secs
    quick = dataclasses.replace(study, start_secs=5.0).alone_hours(kinds[1], whole) * 3600
    assert quick == pytest.approx(3 * 5 + work)


@pytest.mark.slow
def test_the_table_has_every_kind_and_the_whole(study):
    text = study_tables.render(study, None)
    assert "6 models, 9 tasks (2 have no file here" in text
    assert (
        "4 models: 2 in each of 2 slots of 2 devices; a model for each task takes at least 3 groups"
        in text
    )
    rows = [line.split() for line in text.splitlines()]
    assert [row[:4] for row in rows if row[:1] == ["instruct"]] == [
        ["instruct", "6", "to", "7"],
        ["instruct", "40", "1", "1"],
    ]
    places = ("in groups", "on 2 devices", "on all 4")
    named = [line for line in text.splitlines() if line.rstrip().endswith(places)]
    assert len(named) == len(study.kinds)
    record = study.as_record()
    assert (record["models"], record["experts"], record["slots"]) == (6, 4, 2)
    assert [kind["models"] for kind in record["kinds"]] == [1, 3, 1, 1]
    assert record["hours"] == pytest.approx(sum(map(study.hours, study.kinds)))
    assert record["dollars"] == pytest.approx(4 * record["hours"])
    least = [min(filter(None, kind["dollars"].values())) for kind in record["kinds"]]
    assert [kind["dollars"][kind["cheapest"]] for kind in record["kinds"]] == least
    assert record["dollars_where_cheapest"] == pytest.approx(sum(least))
    assert f"{sum(least):,.2f} dollars" in text


@pytest.mark.long
@pytest.mark.slow
def test_fewer_models_where_there_is_less_memory(study):
    machine = parse_topology(MACHINE)
    one, two = study.slot.needed_bytes, study.together.needed_bytes
    device = dataclasses.replace(machine.device, memory_bytes=int(one + 2.5 * (two - one)))
    large = dataclasses.replace(SIZE, models=SIZE.models[:1] * 20)
    asked = dataclasses.replace(make_study("auto"), size=large)
    plan = study_plans.make_study_plan(asked, dataclasses.replace(machine, device=device))
    assert plan.together.setup.experts == 2 * 3 and plan.together.fits
