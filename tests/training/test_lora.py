"""Adapters learn, their base stays as it is, and many over one base are each as if alone."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_decoder_only_training import CONFIGS, assert_close, make_batches

from t5x_ext.checkpoints import trees
from t5x_ext.decoding.adapters import adapter_index
from t5x_ext.errors import ConfigError
from t5x_ext.models import DecoderOnlyModel, EncoderDecoderModel, parameters
from t5x_ext.models.adapter_rows import adapter_rows
from t5x_ext.models.lora import LoRA
from t5x_ext.models.merging import merge
from t5x_ext.models.network import T5Config, Transformer
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning.lowering import train_arguments
from t5x_ext.schedules import create_learning_rate_scheduler
from t5x_ext.training.experts import ExpertProgram, train_experts
from t5x_ext.training.optimizers import AdamW
from t5x_ext.training.step import sum_gradients
from t5x_ext.training.trainer import Program, Trainer, train_loop

T5 = T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    mlp_activations=("gelu", "linear"),
)
OF_RANK_4 = LoRA(4)
TRAINER = Trainer(learning_rate_fn=create_learning_rate_scheduler("constant", 1e-2))


def make_model(family: str, lora: LoRA | None = OF_RANK_4, **changes) -> DecoderOnlyModel:
    config = CONFIGS[family].replace(**changes)
    return DecoderOnlyModel(Transformer(config, lora), optimizer_def=AdamW())


def make_base(model: DecoderOnlyModel) -> dict:
    """Random parameters under the adapters; of several keys, as B = 0 hides faults."""
    return parameters.select(model.module.frozen, model.module.init(jax.random.key(0)))


def make_adapter(model: DecoderOnlyModel, seed: int = 1) -> dict:
    """An adapter with a B that is not zero."""
    drawn = model.module.init_trainable(jax.random.key(seed))
    keys = iter(jax.random.split(jax.random.key(seed), 99))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), drawn)


def first_batch(model: DecoderOnlyModel, size: int = 8) -> dict:
    return next(make_batches(model, size, pack=True))[0]


def train(model: DecoderOnlyModel, base: dict, steps: int, mesh=PjitPartitioner(), **trainer):
    """Tunes a fresh adapter; returns it and every loss."""
    rate = create_learning_rate_scheduler("constant", 1e-2)
    program = Program(model, mesh, Trainer(learning_rate_fn=rate, **trainer))
    losses: list[float] = []
    state = train_loop(
        program,
        program.init_state(jax.random.key(2)),
        make_batches(model, 8, pack=True),
        steps,
        jax.random.key(3),
        [lambda event: losses.append(float(event.metrics["loss"])) and None],
        frozen=base,
    )
    return state, losses


@pytest.mark.parametrize("family", CONFIGS)
def test_an_adapter_adds_its_scaled_product_and_merges_into_the_kernel(family: str) -> None:
    model = make_model(family, LoRA(4, alpha=6.0, rslora=True))
    base, adapter = make_base(model), make_adapter(model)
    whole, batch = parameters.join(base, adapter), first_batch(model)
    plain = make_model(family, None)
    fresh = parameters.join(base, model.module.init_trainable(jax.random.key(1)))
    np.testing.assert_array_equal(model.logits(fresh, batch), plain.logits(base, batch))
    merged = merge(model.config, model.module.lora, base, adapter)
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    layer = ("decoder", "layers", "mlp", "wo")
    at = lambda tree: [tree := tree[name] for name in layer][-1]  # noqa: E731
    lora = at(whole)["lora"]
    expected = at(base)["kernel"] + 6.0 / 2.0 * jnp.einsum("lir,lro->lio", lora["a"], lora["b"])
    assert_close(at(merged)["kernel"], expected, 1e-6)
    assert_close(plain.logits(merged, batch), model.logits(whole, batch))


def test_t5_has_adapters_in_encoder_and_decoder() -> None:
    named = trees.named_leaves(Transformer(T5, LoRA(4, targets=["q", "wo"])).trainable)
    modules = {name.removesuffix("/lora/b") for name in named if name.endswith("/b")}
    assert modules == {
        "encoder/layers/attention/query",
        "encoder/layers/mlp/wo",
        "decoder/layers/self_attention/query",
        "decoder/layers/encoder_decoder_attention/query",
        "decoder/layers/mlp/wo",
    }


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["v_proj", "mlp/wo"], {"value", "wo"}),
        (["query"], {"query"}),
        (r".*self_attn\.(q|k)_proj", {"query", "key"}),
    ],
)
def test_targets_are_suffixes_or_a_regex_of_our_names_or_hugging_faces(targets, expected) -> None:
    named = trees.named_leaves(Transformer(CONFIGS["llama"], LoRA(4, targets=targets)).trainable)
    assert {name.split("/")[-3] for name in named} == expected


def test_ranks_and_alphas_by_module() -> None:
    lora = LoRA(4, 8.0, rank_pattern={"mlp/wo": 2}, alpha_pattern={"down_proj": 16.0})
    named = trees.named_leaves(Transformer(CONFIGS["llama"], lora).trainable)
    widths = {name.split("/")[-3]: leaf.shape[1] for name, leaf in named.items() if "/b" in name}
    assert widths.pop("wo") == 2 and set(widths.values()) == {4}
    assert lora.scale_of(("decoder/layers/mlp/wo", "mlp/down_proj")) == 8.0
    assert lora.scale_of(("decoder/layers/self_attention/out",)) == 2.0


@pytest.mark.parametrize("family", ["mpt", "falcon_7b"])
def test_fused_projections_share_one_a(family: str) -> None:
    named = trees.named_leaves(make_model(family).module.trainable)
    attention = [n.split("self_attention/")[1] for n in named if "self_attention" in n]
    assert sorted(n for n in attention if not n.startswith("out")) == [
        "key/lora/a",
        "key/lora/b",
        "query/lora/b",
        "value/lora/b",
    ]


@pytest.mark.parametrize(
    ("family", "fused"),
    [("mpt", "Wqkv"), ("falcon_7b", "query_key_value"), ("falcon_40b", "query_key_value")],
)
@pytest.mark.parametrize(("field", "default", "value"), [("rank", 8, 4), ("alpha", 16.0, 32.0)])
def test_a_fused_projection_has_one_rank_and_one_alpha(family, fused, field, default, value):
    def trainable(pattern: str, targets="all"):
        lora = LoRA(8, targets=targets, **{f"{field}_pattern": {pattern: value}})
        return Transformer(CONFIGS[family], lora).trainable

    with pytest.raises(ConfigError) as raised:
        trainable("query")
    assert str(raised.value) == (
        f"LoRA.{field}_pattern: 'query' gives query {value} and key {default}, but they are one "
        f"tensor, {fused}, and share A; allowed: one {field} for all of it, as with the pattern "
        f"'{fused}'"
    )
    with pytest.raises(ConfigError, match=f"'.*/key' gives query {default} and key {value}, but"):
        trainable(".*/key")
    trainable(fused)
    trainable("query|key|value")
    trainable("query", targets=["query", "mlp/wi"])  # the other parts have no adapter


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoRA(0), "LoRA.rank: 0; allowed"),
        (lambda: LoRA(4, alpha=0.0), "LoRA.alpha: 0.0; allowed: numbers above 0"),
        (lambda: LoRA(4, dropout=1.0), "LoRA.dropout: 1.0; allowed"),
        (lambda: LoRA(4, targets=[]), r"LoRA.targets: \(\); allowed"),
        (
            lambda: Transformer(CONFIGS["llama"], LoRA(4, targets=["q_porj"])).specs,
            "LoRA.targets: 'q_porj' matches no linear layer of this model; allowed: 'all', or",
        ),
        (
            lambda: Transformer(CONFIGS["llama"], LoRA(4, rank_pattern={"Wqkv": 2})).specs,
            "LoRA.rank_pattern: 'Wqkv' matches no linear layer",
        ),
        (lambda: LoRA(4, targets=None), "LoRA.targets: None; allowed: 'all', names, or a regex"),
        (lambda: LoRA(4, targets=["q", 3]), r"LoRA.targets: \('q', 3\); allowed: 'all', names"),
        (
            lambda: Transformer(CONFIGS["llama"], LoRA(4, targets="query")).specs,
            r"LoRA.targets: 'query' matches .*, wo in a list \('query' is a regex for whole names",
        ),
        (lambda: LoRA(4, alpha_pattern={"q": 0}), r"LoRA.alpha_pattern\['q'\]: 0; allowed"),
        (
            lambda: LoRA(4, alpha_pattern={"(": 2.0}),
            r"LoRA.alpha_pattern: '\('; allowed: names, or a regular expression",
        ),
        (lambda: LoRA(4, targets="("), r"LoRA.targets: '\('; allowed: names, or a regular"),
        (lambda: adapter_index(("bio",), "bip", 2), "adapter: 'bip'; allowed: 'bio'"),
        (lambda: adapter_index(("bio",), ["bio"], 2), "adapter: 1 for 2 prompts; allowed: one for"),
    ],
)
def test_what_is_not_allowed_is_said_in_one_line(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_training_changes_adapters_alone_and_holds_slots_for_them_alone() -> None:
    model = make_model("llama", LoRA(4, dropout=0.1))
    base = make_base(model)
    before = jax.tree.map(np.array, base)
    state, losses = train(model, base, 30)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2
    jax.tree.map(np.testing.assert_array_equal, before, base)
    slots = {leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim}
    assert slots == {leaf.shape for leaf in jax.tree.leaves(state.params)}


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_no_gradient_of_a_frozen_kernel_is_formed(family: str) -> None:
    """No product of a step has a result of a kernel's shape; without adapters some have."""

    def products(lora: LoRA | None) -> int:
        if family == "t5":
            network = Transformer(T5.replace(mlp_dim=40), lora)
            model: Any = EncoderDecoderModel(network, optimizer_def=AdamW())
        else:
            model = make_model(family, lora, mlp_dim=40)
        params = model.module.init(jax.random.key(0))
        base = parameters.select(model.module.frozen, params)
        own = parameters.select(model.module.trainable, params)
        step = lambda p, b: sum_gradients(model, p, b, None, 1, base)[0]  # noqa: E731
        text = jax.jit(step).lower(own, first_batch(model)).as_text()
        return len(re.findall(r"dot_general.*-> tensor<(?:16x40|40x16)xf32>", text))

    assert products(LoRA(4)) == 0 and products(None) > 0


@pytest.mark.slow
def test_parts_of_a_batch_and_meshes_give_the_same_adapter() -> None:
    model = make_model("mpt")
    base = make_base(model)
    (alone, losses), *others = [
        train(model, base, 4, PjitPartitioner(devices=tuple(jax.devices()[:1]))),
        train(
            model, base, 4, PjitPartitioner(devices=tuple(jax.devices()[:1])), num_microbatches=2
        ),
        train(model, base, 4, PjitPartitioner(fsdp=2, model=2)),
    ]
    for state, found in others:
        np.testing.assert_allclose(found, losses, rtol=1e-4)
        assert_close(state.params, jax.tree.map(np.asarray, alone.params), 1e-3)


@pytest.mark.slow(but="3")
@pytest.mark.parametrize("count", [3, 16])
def test_adapters_tuned_together_equal_each_alone(count: int) -> None:
    model = make_model("llama", LoRA(2, dropout=0.1))
    base, device = make_base(model), tuple(jax.devices()[:1])
    program = Program(model, PjitPartitioner(devices=device), TRAINER)
    steps = [2 + index % 3 for index in range(count)]
    keys = [jax.random.key(10 + index) for index in range(count)]
    experts = ExpertProgram(program, count)
    batches = [make_batches(model, 4, pack=False, count=8 + i) for i in range(count)]
    together, _ = train_experts(
        experts, experts.start_adapters(jnp.stack(keys)), batches, steps, keys, base
    )
    for index in (0, 1, count - 1):
        alone = train_loop(
            program,
            program.init_state(keys[index]),
            make_batches(model, 4, pack=False, count=8 + index),
            steps[index],
            keys[index],
            frozen=base,
        )
        assert_close(jax.tree.map(lambda x: x[index], together), alone.params, 1e-5)  # noqa: B023


def test_the_base_of_many_adapters_is_one_argument_of_the_program() -> None:
    model = make_model("llama", LoRA(2))
    program = Program(model, PjitPartitioner(devices=tuple(jax.devices()[:1])), TRAINER)
    base = jax.tree.leaves(program.abstract_frozen())
    sizes = {}
    for count in (1, 8):
        lengths = {"inputs": 32, "targets": 32}
        arguments = train_arguments(program, 4, lengths, count)
        step = ExpertProgram(program, count).train_step if count > 1 else program.train_step
        memory = step.lower(*arguments).compile().memory_analysis()
        own = jax.tree.leaves(arguments[0])
        expected = sum(leaf.size * leaf.dtype.itemsize for leaf in [*base, *own])
        batch = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arguments[1]))
        sizes[count] = memory.argument_size_in_bytes - expected - batch
    # What is left are keys and flags: eight adapters bring no second copy of the base.
    assert all(0 <= size < 1024 for size in sizes.values()), sizes


@pytest.mark.slow
def test_adapters_take_less_memory_than_full_tuning_and_nf4_less_still() -> None:
    config = CONFIGS["llama"].replace(num_layers=6, emb_dim=128, mlp_dim=512)
    peaks = []
    for lora, quantization in ((None, None), (OF_RANK_4, None), (OF_RANK_4, "nf4")):
        module = Transformer(config, lora, quantization=quantization)
        model = DecoderOnlyModel(module, optimizer_def=AdamW())
        program = Program(model, PjitPartitioner(devices=tuple(jax.devices()[:1])), TRAINER)
        lengths = model.features.limits({"inputs": 32, "targets": 16})
        arguments = train_arguments(program, 4, lengths, 1)
        memory = program.train_step.lower(*arguments).compile().memory_analysis()
        # Results take the place of the state that is given in.
        peaks.append(memory.argument_size_in_bytes + memory.temp_size_in_bytes)
    assert peaks[0] > 1.2 * peaks[1] and peaks[1] > 1.2 * peaks[2], peaks


@pytest.mark.parametrize("family", CONFIGS)
def test_rows_of_several_adapters_and_of_none_equal_single_runs(family: str) -> None:
    single = make_model(family)
    base, adapters = make_base(single), [make_adapter(single, seed) for seed in (1, 2)]
    module = Transformer(CONFIGS[family], LoRA(4), num_adapters=3)
    none = jax.tree.map(jnp.zeros_like, adapters[0])
    stacked = jax.tree.map(lambda *x: jnp.stack(x, 1), none, *adapters)
    batch = first_batch(single, 4)
    rows = jnp.array([2, 0, 1, 2])
    with adapter_rows(rows):
        found = DecoderOnlyModel(module).logits(parameters.join(base, stacked), batch)
    for row, index in enumerate(rows):
        alone = single.logits(parameters.join(base, [none, *adapters][index]), batch)
        np.testing.assert_allclose(found[row], alone[row], atol=2e-5)
