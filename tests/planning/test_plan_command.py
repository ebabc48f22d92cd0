"""The plan command, and what it makes of the gin files of runs and studies."""

from __future__ import annotations

import dataclasses
import json
import math

import compilers
import jax
import pytest

from mixtures.errors import DataError
from t5x_ext import checkpoints, gin_utils
from t5x_ext import plan as plan_command
from t5x_ext.checkpoints import peft
from t5x_ext.errors import ConfigError
from t5x_ext.models import network, parameters
from t5x_ext.models.lora import LoRA
from t5x_ext.planning import compiling, lowering, plans, tables
from t5x_ext.planning.devices import DEVICES, Machine, parse_devices, parse_topology
from t5x_ext.planning.roofline import Totals

COMMAND = [
    "--gin_file=models/t5_1_1_tiny.gin",
    "--gin_file=runs/plan.gin",
    "--gin.BATCH_SIZE=8",
    '--gin.TASK_FEATURE_LENGTHS={"inputs": 64, "targets": 16}',
]


@pytest.fixture
def _same_environment(monkeypatch):
    """The command sets what JAX reads from the environment."""
    jax.devices()  # made with the suite's flags, before these go
    for name in ("XLA_FLAGS", *compiling.TPU_ENVIRONMENT):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("_same_environment")
def test_json_for_a_tpu_slice(capsys):
    compilers.load_libtpu()
    arguments = ["--topology", "v5e:2x2", "--gin.TRAIN_STEPS=1000", "--decode", "--json"]
    assert plan_command.main([*COMMAND, *arguments]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["machine"]["name"] == "v5e:2x2" and record["machine"]["count"] == 4
    assert record["fits"] and record["missing_bytes"] == 0 and not record["is_estimate"]
    assert record["mesh"] == {"expert": 1, "data": 4, "fsdp": 1, "model": 1}
    train = record["train"]
    assert train["flops"] * 4 == pytest.approx(record["model_flops_all_devices"], rel=0.03)
    assert train["memory_bytes"]["params"] == 4 * record["model"]["params"]
    assert {one["kind"] for one in train["collectives"]} == {"all-reduce"}
    assert record["dollars"] == pytest.approx(record["hours"] * 4 * DEVICES["v5e"].price_per_hour)
    cfg_flops = record["decoding"]["flops"]
    assert cfg_flops > 0 and record["decoding"]["unknown_loops"] == 0
    assert record["decoding_batch"] == {
        "rows": 8,
        "input_length": 64,
        "target_length": 16,
        "pack": False,
    }
    assert record["proposals"] == []
    assert all(math.isfinite(record[name]) for name in ("step_secs", "tokens_per_sec"))


INFER = [
    "--gin_file=models/t5_1_1_tiny.gin",
    "--gin_file=runs/infer.gin",
    "--gin.CHECKPOINT_PATH=''",
    "--gin.INFER_OUTPUT_DIR=''",
    "--gin.MIXTURE_OR_TASK_NAME=''",
    '--gin.TASK_FEATURE_LENGTHS={"inputs": 64, "targets": 16}',
    "--gin.PjitPartitioner.fsdp=4",
    "--topology=v5e:2x2",
]


@pytest.mark.usefixtures("_same_environment")
def test_a_run_that_only_decodes_is_planned_token_by_token():
    compilers.load_libtpu()
    flags, args = gin_utils.parse_flags(plan_command._parser(), [*INFER, "--prompts=8"])
    setup = plan_command._setup(flags, plan_command.Decoding(prompts=args.prompts))
    assert setup.decoding == lowering.Workload(8, 64, 16) and not setup.trains
    plan = plans.make_plan(setup, parse_topology("v5e:2x2"))
    record = plan.as_record()
    assert record["train"] is None and record["step_secs"] is None and record["fits"]
    decoding, token = record["decoding"], record["decoding"]["token"]
    # One exchange a token, of whether all rows have ended; the encoder's come before.
    assert [(one["kind"], one["count"]) for one in token["collectives"]] == [("all-reduce", 1)]
    reduced = [one for one in decoding["collectives"] if one["kind"] == "all-reduce"]
    assert reduced[0]["count"] >= 16
    assert 0 < 16 * token["operation_secs"] < decoding["operation_secs"]
    text = tables.render(plan, None)
    assert "8 prompts of 64 tokens, 16 made" in text and "train step" not in text
    assert "gathered once, before the first token" in text
    # Keys and values, in each decoder layer, of every head, in float32.
    config = setup.model.config
    cached = 2 * config.num_decoder_layers * config.num_heads * config.head_dim * 4
    assert record["decoding_cache_bytes_per_position"] == cached
    assert f"cached keys and values of a position  {cached:,} bytes a row" in text

    tight = dataclasses.replace(plan.setup.partitioner, device_bytes=1000)
    without_room = dataclasses.replace(plan.setup, partitioner=tight)
    assert not dataclasses.replace(plan, setup=without_room).whole_weights


@pytest.mark.usefixtures("_same_environment")
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--topology", "v5e:5x5"], "error: --topology: 'v5e:5x5'; allowed: v5e: with one of 1x1"),
        (["--devices", "8xTPU"], "error: --devices: unknown chip 'TPU'"),
        (["--devices", "3xH200"], "error: BATCH_SIZE: 8 examples do not divide into 3 batch"),
        (["--devices", "2xH200", "--gin.BATCHSIZE=4"], "unknown macro 'BATCHSIZE'"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert plan_command.main([*COMMAND, *arguments]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert message in errors[-1]
    assert all(line.startswith("plan: ") for line in errors[:-1])


@pytest.mark.usefixtures("_same_environment")
def test_a_number_of_models_that_the_slots_do_not_take_is_refused(capsys):
    compilers.load_libtpu()
    arguments = ["--gin_file=studies/quickstart.gin", "--gin.MODEL_DIR=''", "--topology=v5e:2x2"]
    mesh = ["--gin_file=meshes/experts.gin", "--gin.FSDP=2", "--gin.EXPERTS=3"]
    assert plan_command.main([*arguments, *mesh]) == 1
    message = "error: EXPERTS: 3; allowed: 'auto', or a multiple of the mesh's expert axis, 2"
    assert capsys.readouterr().err.splitlines()[-1] == message


@pytest.fixture
def read_setup():
    def read(*arguments):
        flags, _ = gin_utils.parse_flags(
            plan_command._parser(), [*arguments, "--topology", "v5e:4x4"]
        )
        return plan_command._setup(flags)

    return read


def test_a_runs_own_gin_files_do(read_setup):
    setup = read_setup(
        "--gin_file=models/t5_1_1_xl.gin",
        "--gin_file=runs/finetune.gin",
        "--gin_file=meshes/fsdp.gin",
        "--gin.FSDP=8",
        "--gin.PjitPartitioner.model=2",
        "--gin.MODEL_DIR=''",
        "--gin.MIXTURE_OR_TASK_NAME='held_in'",
        "--gin.INITIAL_CHECKPOINT_PATH=''",
        '--gin.TASK_FEATURE_LENGTHS={"inputs": 9, "targets": 5}',
        "--gin.INFER_EVAL=@infer_eval/utils.DatasetConfig()",
        "--gin.PACK=True",
        "--gin.NUM_MICROBATCHES=4",
        "--gin.REMAT_POLICY='full'",
        "--gin.TRAIN_STEPS_RELATIVE=70",
    )
    assert setup.workload == lowering.Workload(32, 9, 5, pack=True)
    assert setup.decoding == lowering.Workload(32, 9, 5)
    assert (setup.num_steps, setup.num_microbatches) == (70, 4)
    assert (setup.partitioner.fsdp, setup.partitioner.model) == (8, 2)
    assert setup.model.config.remat_policy == "full" and setup.model.config.dropout_rate == 0.1


def test_steps_are_those_on_top_of_the_initial_checkpoint(read_setup, tmp_path):
    def planned(path, *more):
        setup = read_setup(
            "--gin_file=models/t5_1_1_tiny.gin",
            "--gin_file=runs/finetune.gin",
            "--gin.MODEL_DIR=''",
            "--gin.MIXTURE_OR_TASK_NAME='held_in'",
            f"--gin.INITIAL_CHECKPOINT_PATH='{path}'",
            '--gin.TASK_FEATURE_LENGTHS={"inputs": 9, "targets": 5}',
            *(more or ["--gin.TRAIN_STEPS=1_020_000"]),
        )
        return setup.num_steps, setup.includes_initial

    assert planned("gs://bucket/t5_1_1_base/checkpoint_1000000") == (20_000, False)
    assert planned("gs://bucket/t5_1_1_base") == (1_020_000, True)
    assert planned("gs://bucket/t5_1_1_base", "--gin.TRAIN_STEPS_RELATIVE=70") == (70, False)
    with pytest.raises(ConfigError, match="TRAIN_STEPS: 1020000, which includes"):
        planned("gs://bucket/checkpoint_1020000")

    # One that is here tells itself, whatever it is called.
    model = read_setup(
        "--gin_file=models/t5_1_1_tiny.gin", "--gin_file=runs/plan.gin", "--gin.BATCH_SIZE=8"
    ).model
    params = parameters.init_params(model.specs, jax.random.key(0))
    meta = {"config": dataclasses.asdict(model.config), "step": 1_019_000}
    checkpoints.save_params(str(tmp_path / "mine"), params, meta)
    assert planned(tmp_path / "mine") == (1_000, False)


def test_steps_that_include_those_of_the_initial_checkpoint_are_said_to(read_setup):
    setup = read_setup(*COMMAND[:2], "--gin.BATCH_SIZE=8", "--gin.TRAIN_STEPS=1000")
    step = compiling.Compiled(compiling.Memory(0, 0, 0, 0), Totals(operation_secs=1.0), 0.0)
    plan = plans.Plan(setup, parse_devices("1xH200"), 1.0, step, 0)
    assert "  1,000 steps\n" in tables._time(plan)
    setup = dataclasses.replace(setup, includes_initial=True)
    text = tables._time(dataclasses.replace(plan, setup=setup))
    assert "1,000 steps, those of the initial checkpoint included" in text


def test_a_run_is_planned_with_the_adapter_that_it_goes_on_from_or_decodes_with(
    read_setup, tmp_path
):
    files = "--gin_file=models/llama_tiny.gin", "--gin_file=runs/plan.gin"
    config, lora = read_setup(*files).model.config, LoRA(3, targets=["q_proj"])
    params = network.Transformer(config, lora).init_trainable(jax.random.key(0))
    peft.write(str(tmp_path / "adapter"), config, peft.StoredAdapter(lora, params))
    adapter = f"--gin.ADAPTER='{tmp_path / 'adapter'}'"
    decodes = (
        files[0],
        "--gin_file=runs/infer.gin",
        "--gin.CHECKPOINT_PATH=''",
        "--gin.INFER_OUTPUT_DIR=''",
        "--gin.MIXTURE_OR_TASK_NAME=''",
        '--gin.TASK_FEATURE_LENGTHS={"inputs": 9, "targets": 5}',
    )
    macros = "--gin.LORA_RANK=3", "--gin.LORA_TARGETS=['q_proj']"
    # CHECKPOINT_PATH, which a plan does not read, may be a run with these.
    found = [read_setup(*files, adapter), read_setup(*decodes, adapter)]
    found += [read_setup(*decodes, *macros), read_setup(*decodes, adapter, *macros)]
    counts = [parameters.count_params(setup.model.module.trainable) for setup in found]
    assert counts == [parameters.count_params(params)] * 4
    with pytest.raises(ConfigError, match=r"^LORA_RANK: 8, but the adapter .* has 3; allowed: "):
        read_setup(*decodes, adapter, "--gin.LORA_RANK=8")


def test_quantised_parameters_are_not_planned_to_be_trained(read_setup):
    setup = read_setup(
        "--gin_file=models/llama_tiny.gin", "--gin_file=runs/plan.gin", "--gin.QUANTIZATION='nf4'"
    )
    with pytest.raises(ConfigError, match="QUANTIZATION: 'nf4' without LORA_RANK"):
        plans.make_plan(setup, Machine(DEVICES["H200"], 3))


def test_a_study_is_planned_as_a_whole(read_setup):
    study = read_setup("--gin_file=studies/quickstart.gin", "--gin.MODEL_DIR=''")
    assert study.size.tuned > 100 and study.experts == 1
    assert study.setup.decoding.rows > 0 and study.setup.decoding.pack is False
    more = read_setup(
        "--gin_file=studies/quickstart.gin",
        "--gin.MODEL_DIR=''",
        "--gin.EXPERTS=8",
        f"--gin.{study.setup.microbatches_name}=2",
    )
    assert more.setup.num_microbatches == 2 * study.setup.num_microbatches
    assert more.experts == 8


def test_the_papers_study_has_961_models_though_files_are_missing(read_setup, superni_dir):
    study = read_setup(
        "--gin_file=studies/paper.gin",
        "--gin.MODEL_DIR=''",
        "--gin.TK_INSTRUCT_PATH=''",
        "--gin.LM_ADAPT_PATH=''",
        "--gin.FSDP=4",
        f"--gin.DATA_DIR='{superni_dir}'",
    )
    size = study.size
    assert (size.tuned, size.tasks, size.tasks_without_file) == (961, 119, 19)
    assert sum(model.is_initial for model in size.models) == 1


def test_arms_of_another_program_are_named(read_setup):
    study = read_setup("--gin_file=studies/writing_tiny.gin", "--gin.MODEL_DIR=''")
    assert study.left_out == ("writing_alpaca_full",)
    whole = read_setup(
        "--gin_file=studies/writing_tiny.gin", "--gin.MODEL_DIR=''", "--gin.LORA_RANK=None"
    )
    assert whole.left_out == () and whole.size.tuned == study.size.tuned + 1


def test_a_model_alone_is_not_enough(read_setup):
    with pytest.raises(ConfigError, match="no run to plan: .*runs/plan.gin"):
        read_setup("--gin_file=models/t5_1_1_xl.gin")


def test_a_setting_that_cannot_be_made_is_named(read_setup):
    """It is not taken for gin files without a run."""
    names = ("LLAMA_PATH", "DATA_DIR", "MODEL_DIR")
    empty = [f"--gin.{name}=''" for name in names]
    with pytest.raises(DataError, match=r"vocabulary \(VOCABULARY_PATH\): ''; allowed: a path"):
        read_setup("--gin_file=studies/writing_paper.gin", "--gin.FSDP=16", *empty)
