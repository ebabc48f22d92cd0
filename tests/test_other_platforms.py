"""What users run lowers for GPUs and TPUs, on a host that has neither."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as jax_cudnn

from t5x_ext.decoding import Beam, Sampling
from t5x_ext.decoding.likelihood import Scorer
from t5x_ext.decoding.loop import decode_batch
from t5x_ext.decoding.methods import Method, OutputIds
from t5x_ext.models import DecoderOnlyModel, EncoderDecoderModel
from t5x_ext.models.blocks import attend
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.falcon import FalconConfig
from t5x_ext.models.generation import Prefixes
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.mpt import MptConfig
from t5x_ext.models.network import T5Config, Transformer
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning.lowering import Workload, decoding_call, train_arguments
from t5x_ext.training.experts import ExpertProgram
from t5x_ext.training.optimizers import AdamW
from t5x_ext.training.trainer import Program, Trainer

PLATFORMS = ("cuda", "tpu")
SHAPE = dict(vocab_size=128, emb_dim=64, head_dim=16, mlp_dim=128, dtype="bfloat16")
CONFIGS = {
    "t5": T5Config(num_heads=4, mlp_activations=("gelu", "linear"), **SHAPE),
    "llama": LlamaConfig(num_layers=2, num_heads=4, num_kv_heads=2, **SHAPE),
    "mpt": MptConfig(num_layers=2, num_heads=4, num_kv_heads=4, **SHAPE),
    "falcon_7b": FalconConfig(num_layers=2, num_heads=4, num_kv_heads=1, **SHAPE),
    "falcon_40b": FalconConfig(
        num_layers=2, num_heads=4, num_kv_heads=2, shared_norm=False, **SHAPE
    ),
}
WORKLOAD = Workload(8, 32, 16)


@pytest.fixture(autouse=True)
def nothing_told_yet(monkeypatch) -> None:
    monkeypatch.setattr(attend, "_told", set())


def make_program(config: ModelConfig, lora: LoRA | None = None, quantization: str | None = None):
    module = Transformer(config, lora, quantization=quantization)
    kind = EncoderDecoderModel if config.has_encoder else DecoderOnlyModel
    mesh = PjitPartitioner(data=2, fsdp=2, model=2)
    return Program(kind(module, optimizer_def=AdamW()), mesh, Trainer(num_microbatches=2))


def check(function, *arguments) -> None:
    exported = jax.export.export(function, platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS and exported.nr_devices == 8
    assert exported.mlir_module().count("stablehlo.dot_general") > 4


@pytest.mark.parametrize("family", CONFIGS)
def test_a_train_step_lowers(family: str) -> None:
    program = make_program(CONFIGS[family])
    lengths = program.model.features.limits({"inputs": 32, "targets": 16})
    check(program.train_step, *train_arguments(program, WORKLOAD.rows, lengths, 1))


@pytest.mark.parametrize("family", CONFIGS)
def test_decoding_lowers(family: str) -> None:
    check(*decoding_call(make_program(CONFIGS[family]), WORKLOAD, 1))


@pytest.mark.slow(but="llama-None")
@pytest.mark.parametrize(
    ("family", "quantization"), [("llama", None), *((family, "nf4") for family in CONFIGS)]
)
def test_a_step_and_decoding_with_adapters_lower(family: str, quantization: str | None) -> None:
    program = make_program(CONFIGS[family], LoRA(4), quantization)
    lengths = program.model.features.limits({"inputs": 32, "targets": 16})
    check(program.train_step, *train_arguments(program, WORKLOAD.rows, lengths, 1))
    check(*decoding_call(program, WORKLOAD, 1))


@pytest.mark.slow(but="llama-nf4")
@pytest.mark.parametrize("quantization", [None, "nf4"])
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_many_adapters_over_one_base_lower(family: str, quantization: str | None) -> None:
    program = make_program(CONFIGS[family], LoRA(4), quantization)
    lengths = program.model.features.limits({"inputs": 32, "targets": 16})
    arguments = train_arguments(program, WORKLOAD.rows, lengths, 3)
    check(ExpertProgram(program, 3).train_step, *arguments)
    decode, params, prompts, adapters = decoding_call(program, WORKLOAD, 3)
    assert adapters.shape == (WORKLOAD.rows,)  # rows of any adapter in a batch
    check(decode, params, prompts, adapters)


@pytest.mark.slow(but="llama")
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_scores_of_targets_lower(family: str) -> None:
    program = make_program(CONFIGS[family])
    lengths = program.model.features.limits({"inputs": 32, "targets": 16})
    _, batch, *_ = train_arguments(program, WORKLOAD.rows, lengths, 1)
    scorer = Scorer(program.model, program.partitioner, WORKLOAD.rows, 32)
    check(scorer._score, program.abstract_params(), batch, None)
    if family == "llama":  # as many prefixes as rows divide over the mesh
        prefixes = Prefixes(np.ones((4, 128), np.int32), np.full(4, 9), np.zeros(8, int), None)
        check(scorer._score, program.abstract_params(), batch, None, prefixes, 176)


@pytest.mark.slow(but="llama-Sampling")
@pytest.mark.parametrize("method", [Beam(num_beams=2), Sampling()], ids=["Beam", "Sampling"])
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_beams_and_samples_lower(family: str, method: Method) -> None:
    program = make_program(CONFIGS[family])
    _, params, prompts, _ = decoding_call(program, WORKLOAD, 1)

    def decode(params: Any, prompts: jax.Array) -> jax.Array:
        lengths = jnp.full(len(prompts), WORKLOAD.input_length)
        limit, ids = WORKLOAD.target_length, OutputIds(eos=(1,), num_valid=128)
        with program.partitioner.activate():
            generator = program.model.generator
            return decode_batch(generator, params, prompts, lengths, limit, ids, method)

    check(jax.jit(decode), params, prompts)


@pytest.fixture
def mesh_of_gpus(monkeypatch) -> None:
    """The mesh passes for GPUs. Until it compiles, JAX wants nothing of cuDNN but its version."""
    monkeypatch.setattr(PjitPartitioner, "platform", "gpu")
    monkeypatch.setattr(jax_cudnn, "check_cudnn_version", lambda: 91000)


def train_step_for_cuda(program: Program, experts: int = 1) -> str:
    step = program.train_step if experts == 1 else ExpertProgram(program, experts).train_step
    lengths = program.model.features.limits({"inputs": 32, "targets": 16})
    arguments = train_arguments(program, WORKLOAD.rows, lengths, experts)
    return step.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.usefixtures("mesh_of_gpus")
@pytest.mark.parametrize(("remat_policy", "experts"), [("none", 1), ("balanced", 1), ("none", 2)])
def test_a_train_step_for_gpus_calls_cudnn(capsys, remat_policy: str, experts: int) -> None:
    program = make_program(dataclasses.replace(CONFIGS["llama"], remat_policy=remat_policy))
    text = train_step_for_cuda(program, experts)
    # The layers are a loop's body, and its backward pass computes the forward pass again.
    calls = re.findall(r"custom_call @__cudnn\$fmha(\w+)", text)
    assert sorted(calls) == [*["ScaleBiasSoftmax"] * 2, "ScaleBiasSoftmaxBackward"], calls
    # Each device's own rows and heads: 8 rows of each model in 2 microbatches on 4 devices, 4 heads
    # on 2. Several models' rows are one batch.
    query, key = (f"tensor<{experts}x48x{heads}x16xbf16>" for heads in (2, 1))
    assert re.search(rf"cudnn\$fmha.*{query}, {key}, {key}", text)
    assert "attention: cuDNN's attention" in capsys.readouterr().err


@pytest.mark.usefixtures("mesh_of_gpus")
def test_adapters_that_train_together_call_cudnn_once_for_all() -> None:
    text = train_step_for_cuda(make_program(CONFIGS["llama"], LoRA(4), "nf4"), experts=3)
    calls = re.findall(r"custom_call @__cudnn\$fmha(\w+)", text)
    assert sorted(calls) == [*["ScaleBiasSoftmax"] * 2, "ScaleBiasSoftmaxBackward"], calls
    assert re.search(r"cudnn\$fmha.*tensor<3x48x2x16xbf16>", text)


@pytest.mark.usefixtures("mesh_of_gpus")
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"dtype": "float32"}, "heads of 16 in float32 (Unsupported dtype"),
        (
            {"head_dim": 12},
            "heads of 12 in bfloat16 (The head dim must be <= 128 and a multiple of",
        ),
    ],
)
def test_what_cudnn_does_not_take_stays_in_xla(capsys, changed, reason: str) -> None:
    program = make_program(dataclasses.replace(CONFIGS["llama"], **changed))
    assert "cudnn" not in train_step_for_cuda(program)
    said = capsys.readouterr().err
    assert f"cuDNN's attention does not take 48 positions with {reason}" in said
