"""Combined adapters add the weighted sum of what theirs add and keep what all say of their base."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from test_peft_directories import MODELS, logits, random_adapter

from t5x_ext.checkpoints.adapters import Adapter, stack
from t5x_ext.checkpoints.combining import combine
from t5x_ext.checkpoints.trees import named_leaves, nest
from t5x_ext.errors import ConfigError
from t5x_ext.models.lora import LoRA
from t5x_ext.models.merging import find_products
from t5x_ext.models.network import Transformer
from t5x_ext.models.parameters import Params, join, map_specs

# Of other ranks, alphas, scales and targets; what a family stores fused is told by its name.
FUSED = {"llama": "q_proj", "mpt": "Wqkv", "falcon_7b": "query_key_value"}
FUSED |= {"falcon_40b": "query_key_value", "t5": "self_attention/query"}


def loras(family: str) -> list[LoRA]:
    fused = FUSED[family]
    return [
        LoRA(rank=3, alpha=5.0, dropout=0.1),
        LoRA(rank=2, alpha=7.0, targets=[fused, "mlp/wo"], rslora=True, dropout=0.1),
        LoRA(rank=4, rank_pattern={fused: 1}, alpha_pattern={"mlp/wo": 3.0}),
    ]


def adapters_of(family: str, kinds: list[LoRA], **facts: Any) -> list[Adapter]:
    made = []
    for seed, lora in enumerate(kinds):
        own = {name: values[seed] for name, values in facts.items()}
        params = random_adapter(MODELS[family], lora, seed)
        made.append(Adapter(f"adapter{seed}", lora, params, **own))
    return made


def deltas(family: str, adapter: Adapter) -> dict[str, np.ndarray]:
    """What it adds to each kernel, in float64."""
    products = find_products(MODELS[family], adapter.lora, adapter.params)
    return {n: p.a.astype(np.float64) @ p.b.astype(np.float64) for n, p in products.items()}


def random_base(family: str) -> Params:
    rng = np.random.default_rng(9)
    specs = Transformer(MODELS[family]).specs
    return map_specs(lambda spec: 0.1 * rng.normal(size=spec.shape).astype(np.float32), specs)


def small(adapter: Adapter) -> Adapter:
    """So that activations stay near those of the base."""
    return dataclasses.replace(adapter, params=jax.tree.map(lambda x: 0.1 * x, adapter.params))


WEIGHTS = [0.5, -0.25, 2.0]


@pytest.mark.parametrize("family", MODELS)
def test_it_adds_the_weighted_sum_to_every_kernel(family: str) -> None:
    adapters = adapters_of(family, loras(family))
    found = deltas(family, combine(adapters, WEIGHTS, MODELS[family]))
    each = [deltas(family, adapter) for adapter in adapters]
    assert found.keys() == each[0].keys() and each[1].keys() < each[0].keys()
    for name, delta in found.items():
        wanted = sum(w * own[name] for w, own in zip(WEIGHTS, each, strict=True) if name in own)
        scale = max(np.abs(own[name]).max() for own in each if name in own)
        np.testing.assert_allclose(delta / scale, wanted / scale, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "mpt", "falcon_40b"])
def test_logits_are_those_of_the_weighted_sum_merged_into_the_base(family: str) -> None:
    config, base, ids = MODELS[family], random_base(family), [3, 5, 8, 13, 21, 34]
    adapters = [small(adapter) for adapter in adapters_of(family, loras(family))]
    combined = combine(adapters, WEIGHTS, config)
    found = logits(config, join(base, combined.params), ids, combined.lora)
    kernels = named_leaves(base)
    for weight, adapter in zip(WEIGHTS, adapters, strict=True):
        for name, delta in deltas(family, adapter).items():
            kernels[name] = kernels[name] + weight * delta
    merged = nest({name: np.float32(leaf) for name, leaf in kernels.items()})
    np.testing.assert_allclose(found, logits(config, merged, ids), atol=1e-5)
    assert np.abs(found - logits(config, base, ids)).max() > 0.05


@pytest.mark.parametrize("family", ["llama", "mpt"])
def test_weights_of_one_and_zero_are_the_first_alone(family: str) -> None:
    config, base, ids = MODELS[family], random_base(family), [3, 5, 8, 13, 21, 34]
    first, second = (small(adapter) for adapter in adapters_of(family, loras(family)[:2]))
    combined = combine([first, second], [1, 0], config)
    found = logits(config, join(base, combined.params), ids, combined.lora)
    wanted = logits(config, join(base, first.params), ids, first.lora)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    other = logits(config, join(base, second.params), ids, second.lora)
    assert np.abs(other - wanted).max() > 0.01


def test_the_rank_of_a_module_is_the_sum_of_theirs_that_have_it() -> None:
    combined = combine(adapters_of("mpt", loras("mpt")), WEIGHTS, MODELS["mpt"])
    widths = {
        name.rsplit("/lora/")[0].split("layers/")[1]: leaf.shape[-2]
        for name, leaf in named_leaves(combined.params).items()
        if name.endswith("/b")
    }
    attention = {f"self_attention/{part}": 6 for part in ("query", "key", "value")}
    assert widths == attention | {"self_attention/out": 7, "mlp/wi": 7, "mlp/wo": 9}
    assert combined.lora.rank == 9
    config = MODELS["mpt"]
    for name in widths:
        assert combined.lora.scale_of(config.module_names(f"decoder/layers/{name}")) == 1.0


def test_adapters_of_different_parts_of_a_fused_tensor_share_one_a() -> None:
    """A of one that has the query alone lies elsewhere in its tree than A of the result."""
    kinds = [LoRA(rank=2, targets=["query"]), LoRA(rank=3, targets=["key", "value"])]
    adapters = adapters_of("mpt", kinds)
    found = deltas("mpt", combine(adapters, [0.5, 0.5], MODELS["mpt"]))
    each = [deltas("mpt", adapter) for adapter in adapters]
    assert found.keys() == each[0].keys() | each[1].keys() and len(found) == 3
    for name, delta in found.items():
        (wanted,) = (own[name] for own in each if name in own)
        np.testing.assert_allclose(delta, 0.5 * wanted, atol=1e-5)


def test_a_combination_is_combined_and_stacked_like_any_adapter() -> None:
    adapters, config = adapters_of("llama", loras("llama")), MODELS["llama"]
    once = combine(adapters[:2], [0.5, 0.5], config)
    again = deltas("llama", combine([once, adapters[2]], [1.0, 2.0], config))
    wanted = deltas("llama", combine(adapters, [0.5, 0.5, 2.0], config))
    for name, delta in again.items():
        np.testing.assert_allclose(delta, wanted[name], atol=1e-4)
    lora, params = stack([once, adapters[2]], config)
    assert lora.rank == 5
    leaf = named_leaves(params)["decoder/layers/self_attention/query/lora/b"]
    own = named_leaves(once.params)["decoder/layers/self_attention/query/lora/b"]
    np.testing.assert_array_equal(leaf[:, 1], own)


def test_it_keeps_what_all_say_of_base_prompt_and_kernels() -> None:
    config, kinds = MODELS["llama"], loras("llama")[:2]
    known = adapters_of(
        "llama",
        kinds,
        base_path=[None, "/x/base"],
        base_fingerprint=[None, "a" * 64],
        step=[3, 8],
        prompt=["alpaca", "alpaca"],
        base_quantization=["nf4", "nf4"],
    )
    found = combine(known, [0.5, 0.25], config)
    assert found.path == "0.5 * adapter0 + 0.25 * adapter1" and found.step == 8
    assert (found.base_path, found.base_fingerprint) == ("/x/base", "a" * 64)
    assert (found.prompt, found.base_quantization, found.lora.dropout) == ("alpaca", "nf4", 0.1)
    facts = dict(prompt="tk.def", base_quantization="none")
    changed = dataclasses.replace(known[1], **facts, lora=dataclasses.replace(kinds[1], dropout=0))
    found = combine([known[0], changed], [0.5, 0.25], config)
    assert (found.prompt, found.base_quantization, found.lora.dropout) == (None, None, 0.0)


@pytest.mark.parametrize(
    ("count", "weights", "message"),
    [
        (1, [1.0], "combine: adapter0; allowed: two adapters or more"),
        (0, [], "combine: none; allowed: two adapters or more"),
        (2, [1.0], "weights: 1 for 2 adapters; allowed: one for each"),
        (2, [1.0, 0.5, 0.5], "weights: 3 for 2 adapters; allowed: one for each"),
        (2, [1.0, float("nan")], "weights: nan; allowed: finite numbers"),
        (2, [float("inf"), 1.0], "weights: inf; allowed: finite numbers"),
        (2, [1.0, 1e300], "adapter1: 1e\\+300 times its decoder/.* is not finite in float32"),
    ],
)
def test_what_cannot_be_combined_is_one_line(count: int, weights: list, message: str) -> None:
    adapters = adapters_of("llama", loras("llama")[:count])
    with pytest.raises(ConfigError, match=message) as error:
        combine(adapters, weights, MODELS["llama"])
    assert "\n" not in str(error.value)


def test_adapters_of_two_bases_are_not_combined() -> None:
    facts = dict(base_fingerprint=["a" * 64, None, "b" * 64], base_path=["/x", None, "/y"])
    adapters = adapters_of("llama", loras("llama"), **facts)
    message = (
        r"adapter2: an adapter of another base \(/y\): that one's fingerprint begins with "
        "bbbbbbbbbbbb, that of the base of adapter0 with aaaaaaaaaaaa"
    )
    with pytest.raises(ConfigError, match=message) as error:
        combine(adapters, WEIGHTS, MODELS["llama"])
    assert "\n" not in str(error.value)
