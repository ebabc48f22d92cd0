"""Networks of a user's own, NNX and Linen: those of docs/your_own_model.md, run by the commands."""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from mixtures.vocabularies import ByteVocabulary
from t5x_ext import eval as eval_script
from t5x_ext import gin_utils, infer, train
from t5x_ext.checkpoints import load_params
from t5x_ext.data.packing import lay_out
from t5x_ext.decoding.loop import decode_batch
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.predictions import read_predictions
from t5x_ext.models import DecoderOnlyModel, EncoderDecoderModel, parameters
from t5x_ext.models.blocks.parameter import specs_of
from t5x_ext.models.linen import LinenNetwork
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.network import Transformer
from t5x_ext.models.network_config import NetworkConfig
from t5x_ext.models.nnx_network import NNXNetwork
from t5x_ext.studies.cells import describe_model
from t5x_ext.training.optimizers import AdamW

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your_own_model.md"
KINDS = ("my_nnx", "my_linen")
CONFIG = NetworkConfig(vocab_size=24)
DATA = [
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 8}",
    "--gin.MIXTURE_OR_TASK_NAME='held_in'",
    "--gin.PROMPT='tk.def'",
    "--gin.BUDGET=2",
    "--gin.BATCH_SIZE=8",
]


@pytest.fixture(scope="module", autouse=True)
def examples(tmp_path_factory) -> Any:
    """The page's files, in a directory that Python finds modules in."""
    directory = tmp_path_factory.mktemp("examples")
    found = re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    for name, text in found:
        (directory / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SUPERNI_DIR", raising=False)
        patch.syspath_prepend(str(directory))
        yield directory
    for kind in KINDS:
        sys.modules.pop(kind, None)


def run_train(directory: Path, kind: str, model_dir: Path, steps: int) -> None:
    arguments = [f"--gin_file={directory / kind}.gin", "--gin_file=runs/train.gin", *DATA]
    arguments += [f"--gin.MODEL_DIR='{model_dir}'", f"--gin.TRAIN_STEPS={steps}"]
    arguments += ["--gin.STATS_PERIOD=1", "--gin.PACK=True", "--gin.LEARNING_RATE=1e-2"]
    assert train.main(arguments) == 0


@pytest.fixture(scope="module", params=KINDS)
def trained(request, examples: Path, tmp_path_factory) -> tuple[str, Path]:
    model_dir = tmp_path_factory.mktemp(request.param)
    run_train(examples, request.param, model_dir, 3)
    return request.param, model_dir


@pytest.mark.slow(but="my_nnx")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("setting", "what"), [("LORA_RANK=4", "adapters"), ("QUANTIZATION='nf4'", "kernels in four b")]
)
def test_what_a_network_does_not_take_is_refused(
    kind: str, setting: str, what: str, examples: Path, capsys
) -> None:
    name, _, value = setting.partition("=")
    files = [f"--gin_file={examples / kind}.gin", "--gin_file=runs/train.gin"]
    assert train.main([*files, *DATA, f"--gin.{setting}", "--gin.MODEL_DIR='not made'"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: --gin.{name}: {name} = {value}, but the run's model has another network than "
        f"network.Transformer, which alone takes {what}"
    )
    assert line.endswith("; allowed: None")


def test_a_plan_of_another_command_is_not_judged_by_its_network(examples: Path) -> None:
    files = ["models/t5_1_1_tiny.gin", "runs/eval.gin"]
    values = ["CHECKPOINT_PATH = 'x'", "EVAL_OUTPUT_DIR = 'x'", "MIXTURE_OR_TASK_NAME = 'held_in'"]
    values += ["TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 8}", "QUANTIZATION = 'nf4'"]
    arguments = tuple(inspect.signature(train.train).parameters)
    gin_utils.parse(files, values, command=train.train, given=arguments)  # as `plan` does
    gin_utils.parse(files, values, command=eval_script.evaluate)
    own = [str(examples / "my_nnx.gin"), "runs/eval.gin"]
    with pytest.raises(ConfigError, match="--gin.QUANTIZATION: QUANTIZATION = 'nf4', but the run"):
        gin_utils.parse(own, values, command=eval_script.evaluate)


def test_a_resumed_run_equals_an_unbroken_one(trained, examples: Path, tmp_path: Path) -> None:
    kind, unbroken = trained
    lines = map(json.loads, (unbroken / "metrics.jsonl").read_text().splitlines())
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == 3 and losses[2] < losses[0]
    for steps in (1, 3):
        run_train(examples, kind, tmp_path, steps)
    whole, parts = (load_params(str(d / "checkpoint_3")) for d in (unbroken, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_eval_and_infer_give_the_same_predictions(trained, examples: Path, tmp_path: Path) -> None:
    kind, model_dir = trained
    common = [f"--gin_file={examples / kind}.gin", *DATA, "--gin.SPLIT='validation'"]
    common += [f"--gin.CHECKPOINT_PATH='{model_dir}'"]
    scored, inferred = tmp_path / "eval", tmp_path / "infer"
    output = f"--gin.EVAL_OUTPUT_DIR='{scored}'"
    assert eval_script.main([*common, "--gin_file=runs/eval.gin", output]) == 0
    output = f"--gin.INFER_OUTPUT_DIR='{inferred}'"
    assert infer.main([*common, "--gin_file=runs/infer.gin", output]) == 0
    texts = [
        [row.prediction for row in read_predictions(d / "predictions.jsonl")]
        for d in (scored, inferred)
    ]
    assert texts[0] == texts[1] and len(texts[0]) > 0


def own_model(kind: str, bidirectional: bool = False) -> Any:
    """A page's network with 24 ids."""
    if kind == "my_nnx":
        import my_nnx

        network = NNXNetwork(my_nnx.MyNetwork, CONFIG)
        return DecoderOnlyModel(network, inputs_bidirectional_attention=bidirectional)
    import my_linen

    return EncoderDecoderModel(LinenNetwork(my_linen.MyNetwork(CONFIG.vocab_size), CONFIG))


def test_a_module_s_own_settings_determine_results() -> None:
    """They change no shape: stored cells and half-written answers have to tell them apart."""

    class Stated(nnx.Module):
        def __init__(self, config, *, rngs, scale=1.0, activation=nnx.gelu):
            self.table = nnx.Embed(config.vocab_size, 4, rngs=rngs)
            self.scale, self.activation = scale, activation

        def hidden_states(self, batch, dropout_key): ...

        def output(self): ...

    class Scaled(nn.Module):
        scale: float = 1.0
        activation: Any = nn.gelu

        @nn.compact
        def __call__(self, decoder_input_tokens):
            return self.scale * self.activation(nn.Embed(24, 24)(decoder_input_tokens))

    def nnx_network(**settings: Any) -> Any:
        return NNXNetwork(functools.partial(Stated, **settings), CONFIG)

    def linen_network(**settings: Any) -> Any:
        return LinenNetwork(Scaled(**settings), CONFIG)

    def described(network: Any) -> Any:
        return describe_model(DecoderOnlyModel(network, ByteVocabulary(), AdamW()))

    for make in (nnx_network, linen_network):
        assert make().fingerprint == make(scale=1.0).fingerprint
        plain, *others = make(), make(scale=2.0), make(activation=nnx.relu)
        for other in others:
            assert parameters.param_axes(other.specs) == parameters.param_axes(plain.specs)
            assert described(plain) != described(other)
            assert described(plain) | {"network": other.fingerprint} == described(other)


def random_prompts(key: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 [3, 7] and their lengths: a whole row, a short one, a single token."""
    drawn = np.random.default_rng(key).integers(2, 24, (3, 7)).astype(np.int32)
    lengths = np.array([7, 3, 1], np.int32)
    return np.where(np.arange(7) < lengths[:, None], drawn, 0), lengths


@pytest.mark.slow(but="my_linen-False")
@pytest.mark.parametrize(
    ("kind", "bidirectional"), [("my_nnx", False), ("my_nnx", True), ("my_linen", False)]
)
def test_greedy_tokens_are_the_best_under_teacher_forcing(kind: str, bidirectional: bool) -> None:
    model = own_model(kind, bidirectional)
    # Larger than at the start, where a tied embedding has every token follow itself.
    params = jax.tree.map(lambda x: 3 * x, jax.jit(model.init_params)(jax.random.key(0)))
    params = jax.tree.map(lambda x: x + 0.3 * np.sin(np.arange(x.size).reshape(x.shape)), params)
    prompts, lengths = random_prompts(0)
    tokens = np.asarray(greedy(model, params, prompts, lengths))
    for prompt, length, output in zip(prompts, lengths, tokens, strict=True):
        end = int(np.argmax(output == 1)) + 1 if (output == 1).any() else len(output)
        batch, first = forced(model, prompt[:length], output[:end])
        scores = np.asarray(jax.jit(model.logits)(params, batch))[0, first : first + end]
        np.testing.assert_array_equal(scores.argmax(-1), output[:end])
    assert len(np.unique(tokens)) > 2


def greedy(model: Any, params: Any, prompts: np.ndarray, lengths: np.ndarray) -> jax.Array:
    ids = OutputIds(eos=(1,), num_valid=24)
    return jax.jit(lambda p: decode_batch(model.generator, p, prompts, lengths, 6, ids))(params)


def forced(model: Any, prompt: np.ndarray, output: np.ndarray) -> tuple[Any, int]:
    """The batch of one example as training has it, and where its output is scored from."""
    features = model.features
    sides = features.sides(np.array([len(prompt)]), np.array([len(output)]))
    lengths = features.row_lengths(*(int(side[0]) for side in sides))
    layout = lay_out(np.zeros(1, np.int32), *sides)
    batch = features.build([prompt], [output], layout, lengths)
    return jax.tree.map(jnp.asarray, batch), len(prompt) - 1 if features.joined else 0


def test_a_module_with_start_and_step_decodes_from_its_cache() -> None:
    config = LlamaConfig(
        vocab_size=24, emb_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=32
    )

    def build(config: Any, *, rngs: nnx.Rngs) -> Any:
        module = config.build()
        drawn = parameters.init_params(specs_of(module), rngs.params())
        return nnx.merge(nnx.split(module)[0], drawn)

    own: Any = DecoderOnlyModel(NNXNetwork(build, config))  # type: ignore[arg-type]
    family = DecoderOnlyModel(Transformer(config))
    assert type(own.generator) is type(family.generator)
    assert parameters.param_axes(own.specs) == parameters.param_axes(family.specs)
    params = jax.jit(own.init_params)(jax.random.key(1))
    prompts, lengths = random_prompts(1)
    tokens = [greedy(model, params, prompts, lengths) for model in (own, family)]
    np.testing.assert_array_equal(*tokens)


def test_specs_have_the_axes_that_modules_state() -> None:
    specs = own_model("my_linen").specs
    assert specs["embedding"].axes == ("vocab", "embed")
    assert specs["Block_0"]["Dense_0"]["kernel"].axes == (None, None)

    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, decoder_input_tokens):
            init = nn.with_logical_partitioning(nn.initializers.ones, ("vocab", "embed"))
            return nn.Embed(24, 24, embedding_init=init)(decoder_input_tokens)

    boxed = LinenNetwork(Boxed(), CONFIG)
    assert boxed.specs["Embed_0"]["embedding"].axes == ("vocab", "embed")
    drawn = boxed.init(jax.random.key(0))
    np.testing.assert_array_equal(drawn["Embed_0"]["embedding"], np.ones((24, 24)))
    batch = {"decoder_input_tokens": jnp.zeros((2, 3), jnp.int32)}
    assert boxed.bind(drawn).hidden_states(batch, None).shape == (2, 3, 24)

    class Stating(nnx.Module):
        def __init__(self, config, *, rngs):
            drawn = jax.random.normal(rngs.params(), (config.vocab_size, 4))
            self.tables = nnx.List([nnx.Param(drawn, axes=("vocab", "embed"))])

        def hidden_states(self, batch, dropout_key): ...

        def output(self): ...

    stating = NNXNetwork(Stating, CONFIG)
    assert stating.specs["tables"]["0"].axes == ("vocab", "embed")
    drawn = stating.init(jax.random.key(0))["tables"]["0"]
    np.testing.assert_array_equal(stating.bind({"tables": {"0": drawn}}).tables[0][...], drawn)


def test_what_cannot_be_trained_is_refused_by_name() -> None:
    class Bare(nnx.Module):
        def __init__(self, config, *, rngs):
            self.out = nnx.Linear(2, 2, rngs=rngs)

    class Dropping(Bare):
        def __init__(self, config, *, rngs):
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def hidden_states(self, batch, dropout_key): ...

        def output(self): ...

    class Normed(nn.Module):
        @nn.compact
        def __call__(self, decoder_input_tokens):
            return nn.BatchNorm(use_running_average=True)(jnp.ones((1, 8, 24)))

    with pytest.raises(ConfigError, match=r"NNXNetwork.build: Bare has no method 'hidden_states'"):
        _ = NNXNetwork(Bare, CONFIG).specs
    with pytest.raises(ConfigError, match=r"NNXNetwork.build: 'drop/rngs/.*allowed: parameters"):
        _ = NNXNetwork(Dropping, CONFIG).specs
    with pytest.raises(ConfigError, match=r"LinenNetwork.module: Normed has a .* 'batch_stats'"):
        _ = LinenNetwork(Normed(), CONFIG).specs
    with pytest.raises(ConfigError, match=r"Transformer.config: NetworkConfig does not build"):
        _ = Transformer(CONFIG).specs
    with pytest.raises(ConfigError, match=r"NetworkConfig.vocab_size: 0; allowed: 1 to"):
        NetworkConfig(vocab_size=0)
