"""Meshes: what is refused, how memory divides, and the ready ones for machines."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import compilers
import gin
import jax
import pytest

import gin_configs
from t5x_ext import gin_utils
from t5x_ext.errors import ConfigError
from t5x_ext.models import EncoderDecoderModel, network, parameters
from t5x_ext.partitioning import PjitPartitioner, standard_logical_axis_rules
from t5x_ext.planning import compiling
from t5x_ext.planning.devices import parse_devices, parse_topology
from t5x_ext.training import optimizers
from t5x_ext.training.trainer import Program, Trainer

SIZES = {
    "xl": dict(
        emb_dim=2048, num_heads=32, num_encoder_layers=24, num_decoder_layers=24, mlp_dim=5120
    ),
    "xxl": dict(
        emb_dim=4096, num_heads=64, num_encoder_layers=24, num_decoder_layers=24, mlp_dim=10240
    ),
}


def make_model(optimizer: Any = None, **changes: Any) -> EncoderDecoderModel:
    """T5 1.1 small, or what the changes make of it."""
    shape = dict(emb_dim=512, num_heads=8, num_encoder_layers=8, num_decoder_layers=8, mlp_dim=1024)
    config = network.T5Config(
        **({"vocab_size": 32128, "mlp_activations": ("gelu", "linear")} | shape | changes)
    )
    return EncoderDecoderModel(network.Transformer(config), optimizer_def=optimizer)


def bytes_per_device(tree: Any) -> int:
    """Bytes that one device holds of arrays described by shape, dtype and sharding."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(model=3), "expert=1 x data=2 x fsdp=1 x model=3 does not divide 8 devices"),
        (dict(data=4, fsdp=4), "data=4 x fsdp=4 x model=1 does not divide 8 devices"),
        (dict(data=1), "data=1 x fsdp=1 x model=1 does not divide 8 devices"),
        (dict(fsdp=16), "fsdp=16 x model=1 does not divide 8 devices"),
        (dict(data=0), "data=0 x fsdp=1 x model=1 does not divide"),
        (dict(fsdp=0), "PjitPartitioner.fsdp: 0; allowed: 1 and more"),
        (dict(data=8, fsdp=-1, model=-1), "PjitPartitioner.fsdp: -1; allowed: 1 and more"),
        (dict(num_partitions=2, model=4), "num_partitions=2, .*model=4 disagree"),
        (dict(num_partitions=2, model_parallel_submesh=(2, 2, 1, 1)), "disagree"),
    ],
)
def test_mesh_that_does_not_fit_the_devices_is_refused_with_the_numbers(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        _ = PjitPartitioner(**settings).mesh


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        (dict(num_partitions=1), 1),
        (dict(num_partitions=4), 4),
        (dict(model_parallel_submesh=(2, 1, 1, 2)), 4),
        (dict(num_partitions=4, model_parallel_submesh=(2, 2, 1, 1)), 4),
        (dict(num_partitions=1, model=2), 2),  # T5X's run files say 1 whatever is meant
        (dict(num_partitions=2, fsdp=2), 2),
    ],
)
def test_t5x_knobs_set_the_model_axis(settings, model) -> None:
    shape = dict(PjitPartitioner(**settings).mesh.shape)
    fsdp = settings.get("fsdp", 1)
    assert shape == {"expert": 1, "data": 8 // (model * fsdp), "fsdp": fsdp, "model": model}


def test_one_axis_takes_what_the_others_leave() -> None:
    assert PjitPartitioner(fsdp=2).mesh.shape["data"] == 4
    assert PjitPartitioner(expert=-1, data=1, fsdp=2).mesh.shape["expert"] == 4
    with pytest.raises(ConfigError, match="expert=2 x data=1 x fsdp=3 x model=1 does not divide 8"):
        _ = PjitPartitioner(expert=-1, data=1, fsdp=3).mesh


@pytest.mark.parametrize(
    ("shape", "mesh", "message"),
    [
        (dict(num_heads=6, head_dim=64), dict(model=4), "heads=6, which model=4 does not divide"),
        (dict(mlp_dim=1023), dict(model=2), "wi_0.*mlp=1023, which model=2 does not divide"),
        (dict(vocab_size=32127), dict(model=2), "vocab=32127, which model=2 does not divide"),
        (dict(emb_dim=516), dict(fsdp=8), "embed=516, which fsdp=8 does not divide"),
    ],
)
def test_parameter_that_does_not_divide_is_refused_by_name(shape, mesh, message) -> None:
    model = make_model(**shape)
    axes, abstract = parameters.param_axes(model.specs), parameters.abstract_params(model.specs)
    with pytest.raises(ConfigError, match=message):
        PjitPartitioner(**mesh).param_shardings(axes, abstract)


@pytest.mark.parametrize(
    ("batch_size", "num_microbatches", "mesh", "multiple"),
    [(12, 1, dict(data=8), 8), (16, 4, dict(data=8), 32), (6, 1, dict(fsdp=4, model=2), 4)],
)
def test_batch_that_does_not_divide_is_refused(batch_size, num_microbatches, mesh, multiple):
    partitioner = PjitPartitioner(**mesh)
    with pytest.raises(ConfigError, match=f"{batch_size} examples .*: multiples of {multiple}$"):
        partitioner.check_batch(batch_size, num_microbatches)
    partitioner.check_batch(2 * multiple, num_microbatches)


def test_axis_without_a_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="no rule for axis 'hats'; known: expert, batch"):
        PjitPartitioner().spec(("embed", "hats"))


@pytest.mark.parametrize("optimizer", [optimizers.AdamW(), optimizers.Adafactor()])
@pytest.mark.parametrize("fsdp", [2, 4, 8])
def test_fsdp_divides_parameters_and_optimizer_of_xl(optimizer, fsdp) -> None:
    def measure(partitioner: PjitPartitioner) -> tuple[int, int]:
        program = Program(make_model(optimizer, **SIZES["xl"]), partitioner, Trainer())
        state = program.abstract_state()
        return bytes_per_device(state.params), bytes_per_device(state.opt_state)

    whole = measure(PjitPartitioner(devices=jax.devices()[:1]))
    split = measure(PjitPartitioner(fsdp=fsdp, devices=jax.devices()[:fsdp]))
    assert whole[0] == pytest.approx(4 * 2.85e9, rel=0.01)
    assert split[0] == pytest.approx(whole[0] / fsdp, rel=0.05)
    # Factored moments are replicated; they are too small to count beside the parameters.
    total = [sum(measured) for measured in (whole, split)]
    assert total[1] == pytest.approx(total[0] / fsdp, rel=0.05)
    if isinstance(optimizer, optimizers.AdamW):
        assert split[1] == pytest.approx(whole[1] / fsdp, rel=0.05)


# Models and optimizers that the comments of the ready meshes promise to fit.
READY = {
    "one_gpu": [("xl", optimizers.AdamW())],
    "gpu_8": [("xl", optimizers.AdamW()), ("xxl", optimizers.AdamW())],
    "v4_8": [("xl", optimizers.AdamW())],
    "v5e_16": [("xl", optimizers.AdamW()), ("xxl", optimizers.Adafactor())],
    "v5e_64": [("xxl", optimizers.AdamW())],
    "v5e_256": [("xxl", optimizers.AdamW())],
    "v5p_32": [("xxl", optimizers.AdamW())],
    "v6e_16": [("xxl", optimizers.AdamW())],
}
# They take the number of devices from the machine, or from FSDP.
ANY_MACHINE = {"data_parallel", "fsdp", "experts"}


def read_ready(name: str) -> tuple[str, PjitPartitioner]:
    """The first line's machine, and the mesh of a run with a file of gin_configs/meshes."""
    gin_utils.parse(["models/t5_1_1_xl.gin", "runs/plan.gin", f"meshes/{name}.gin"])
    settings = gin.get_bindings("t5x_ext.partitioning.PjitPartitioner")
    assert settings.pop("num_partitions", None) is None
    first = (MESHES / f"{name}.gin").read_text().splitlines()[0]
    machine, count = re.match(r"# (\S+): (\d+) devices?[ .]", first).groups()
    assert math.prod(settings.values()) == int(count)
    return machine, PjitPartitioner(**settings)


MESHES = Path(gin_configs.__file__).parent / "meshes"


def test_every_mesh_file_is_checked_here() -> None:
    assert {path.stem for path in MESHES.glob("*.gin")} == set(READY) | ANY_MACHINE


@pytest.mark.parametrize("name", READY)
def test_ready_mesh_is_that_of_its_machine_and_holds_its_models(name, monkeypatch) -> None:
    text, settings = read_ready(name)
    if ":" in text:
        compilers.load_libtpu()
        for variable in compiling.TPU_ENVIRONMENT:  # put back after the test
            monkeypatch.setenv(variable, "")
        machine = parse_topology(text)
        devices = compiling.describe_devices(machine)
    else:
        machine = parse_devices(text)
        devices = jax.devices()[: machine.count]
    partitioner = PjitPartitioner(
        data=settings.data, fsdp=settings.fsdp, model=settings.model, devices=devices
    )
    assert partitioner.mesh.size == machine.count
    partitioner.check_batch(128)
    for size, optimizer in READY[name]:
        program = Program(make_model(optimizer, **SIZES[size]), partitioner, Trainer())
        state = program.abstract_state()
        # Gradients are as large as the parameters; a quarter is for activations.
        held = bytes_per_device(state) + bytes_per_device(state.params)
        assert held < 0.75 * machine.device.memory_bytes, (size, held / 2**30)


@pytest.mark.parametrize(
    ("rules", "axes", "expected"),
    [
        # T5X's own list for activations and parameters in two dimensions.
        ([("mlp", "model"), ("embed", "model"), ("embed", "data")], ("embed", "mlp"), "data model"),
        ([("mlp", "model"), ("embed", "model"), ("embed", "data")], ("embed",), "model"),
        # The rules' order counts, not the array's.
        ([("vocab", "model"), ("embed", "model")], ("embed", "vocab"), "- model"),
        # A rule for several mesh axes fits as a whole or not at all.
        ([("embed", "fsdp"), ("batch", ("data", "fsdp"))], ("batch", "embed"), "- fsdp"),
        (
            [("embed", "fsdp"), ("batch", ("data", "fsdp")), ("batch", "data")],
            ("batch", "embed"),
            "data fsdp",
        ),
        # The first rule that fits counts, also where it says not to split.
        ([("heads", None), ("heads", "model")], ("heads",), "-"),
    ],
)
def test_an_axis_takes_its_first_rule_that_fits(rules, axes, expected: str) -> None:
    spec = PjitPartitioner(logical_axis_rules=rules).spec(axes)
    assert " ".join(entry or "-" for entry in spec) == expected


def test_additional_rules_come_after_the_standard_ones() -> None:
    rules = standard_logical_axis_rules(additional_rules=[("colour", "model"), ("vocab", "data")])
    partitioner = PjitPartitioner(logical_axis_rules=rules)
    assert tuple(partitioner.spec(("colour",))) == ("model",)
    assert tuple(partitioner.spec(("colour", "vocab"))) == (None, "model")
    with pytest.raises(ConfigError, match="parameter_partitioning_dims: 3; allowed: 1, 2"):
        standard_logical_axis_rules(parameter_partitioning_dims=3)


def test_an_axis_without_a_rule_is_refused_with_the_known_ones() -> None:
    partitioner = PjitPartitioner(logical_axis_rules=[("embed", "model"), ("embed", None)])
    with pytest.raises(ConfigError, match="no rule for axis 'mlp'; known: embed$"):
        partitioner.spec(("embed", "mlp"))
