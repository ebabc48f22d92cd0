"""Adapters merged into a base, combined or written for PEFT by `convert`, shown by `inspect`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from t5x_ext import Model, convert
from t5x_ext import inspect_checkpoint as inspect
from t5x_ext.checkpoints import load_params, open_source, peft, save_params, trees
from t5x_ext.checkpoints.adapters import open_adapter
from t5x_ext.checkpoints.comparing import compare_adapter
from t5x_ext.checkpoints.fingerprints import fingerprint_base
from t5x_ext.checkpoints.meta import ADAPTER, CONFIG, PROMPT, describe_adapter
from t5x_ext.errors import ConfigError
from t5x_ext.models import nf4
from t5x_ext.models.falcon import FalconConfig
from t5x_ext.models.families import config_to_json
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.merging import find_products
from t5x_ext.models.network import T5Config, Transformer
from t5x_ext.models.parameters import Params, map_specs
from t5x_ext.models.quantizing import quantize

_SIZES: dict[str, Any] = dict(vocab_size=40, emb_dim=64, num_heads=4, head_dim=16, mlp_dim=96)
CONFIGS = {
    "llama": LlamaConfig(**_SIZES, num_layers=2, num_kv_heads=2),
    "falcon": FalconConfig(**_SIZES, num_layers=2, num_kv_heads=1),
    "t5": T5Config(
        **_SIZES, num_encoder_layers=1, num_decoder_layers=2, mlp_activations=("gelu", "linear")
    ),
}
WITHOUT_Q = LoRA(rank=2, alpha=6.0, targets=["mlp/wo", "self_attention/out"])


def random_params(specs: Params, seed: int) -> Params:
    rng = np.random.default_rng(seed)
    return map_specs(lambda spec: 0.1 * rng.normal(size=spec.shape).astype(np.float32), specs)


def make(directory: Path, family: str, lora: LoRA | None = None) -> tuple[Path, Path, Params]:
    """A base, a directory of PEFT's over it, and the adapter's parameters."""
    config, lora = CONFIGS[family], lora or LoRA(rank=3)
    base, adapter = directory / "base", directory / "adapter"
    meta = {CONFIG: config_to_json(config)}
    save_params(str(base), random_params(Transformer(config).specs, 0), meta)
    params = random_params(Transformer(config, lora).trainable, 1)
    fingerprint = fingerprint_base(open_source(str(base)))
    stored = peft.StoredAdapter(lora, params, str(base), fingerprint, step=5)
    peft.write(str(adapter), config, stored)
    return base, adapter, params


def merged_kernel(
    base: Path, params: Params, lora: LoRA, name: str, layer: int, through_nf4: bool
) -> np.ndarray:
    """From the definition, in float64."""
    config = open_source(str(base)).config
    kernel = trees.named_leaves(load_params(str(base)))[f"{name}/kernel"][layer]
    if through_nf4:
        kernel = np.asarray(nf4.dequantize(quantize(kernel)))
    leaves = trees.named_leaves(params)
    shared_a = f"{name.rsplit('/', 1)[0]}/key/lora/a"
    a = leaves.get(f"{name}/lora/a", leaves.get(shared_a))[layer].astype(np.float64)
    return kernel + lora.scale_of(config.module_names(name)) * a @ leaves[f"{name}/lora/b"][layer]


@pytest.mark.slow(but="llama-original")
@pytest.mark.parametrize(
    ("family", "into"), [("llama", "original"), ("falcon", "dequantised"), ("t5", "original")]
)
def test_merged_kernels_and_logits_are_those_of_the_adapter_over_its_base(tmp_path, family, into):
    base, adapter, params = make(tmp_path, family)
    made = tmp_path / "made"
    summary = convert.convert(
        str(base), str(made), "t5x_ext", adapter=str(adapter), merge_into=into
    )
    found = trees.named_leaves(load_params(str(made)))
    for name in ("decoder/layers/self_attention/query", "decoder/layers/mlp/wo"):
        for layer in range(2):
            wanted = merged_kernel(base, params, LoRA(rank=3), name, layer, into == "dequantised")
            np.testing.assert_allclose(found[f"{name}/kernel"][layer], wanted, atol=1e-6)
    embedding = trees.named_leaves(load_params(str(base)))["token_embedder/embedding"]
    np.testing.assert_array_equal(found["token_embedder/embedding"], embedding)
    change = summary["merged"]["largest_change"]
    other = {"original": "dequantised", "dequantised": "original"}[into]
    assert change[into] < 1e-4 < 1e-2 < change[other]
    assert open_source(str(made)).step == 5


def test_a_merge_into_the_dequantised_base_decodes_100_rows_as_the_adapter_over_nf4(tmp_path):
    base, adapter, _ = make(tmp_path, "llama")
    rng = np.random.default_rng(5)
    prompts = [rng.integers(3, 40, rng.integers(2, 14)).tolist() for _ in range(100)]

    def decode(path: Path, **options: Any) -> list[list[int]]:
        model = Model.load(str(path), **options)
        return model.generate_tokens(prompts, max_new_tokens=8, eos_ids=[2], batch_size=50)

    over_nf4 = decode(base, adapter=str(adapter), quantization="nf4")
    for into in ("dequantised", "original"):
        options = dict(adapter=str(adapter), merge_into=into, verify=False)
        convert.convert(str(base), str(tmp_path / into), "t5x_ext", **options)
        rows = zip(decode(tmp_path / into), over_nf4, strict=True)
        different = sum(one != other for one, other in rows)
        assert different == 0 if into == "dequantised" else different > 0


def test_a_kernel_without_an_adapter_is_kept_or_dequantised_like_the_others(tmp_path):
    base, adapter, _ = make(tmp_path, "llama", WITHOUT_Q)
    name = "decoder/layers/self_attention/query/kernel"
    kernel = trees.named_leaves(load_params(str(base)))[name]
    for into, wanted in (("original", kernel), ("dequantised", nf4.dequantize(quantize(kernel)))):
        made = str(tmp_path / into)
        options = dict(adapter=str(adapter), merge_into=into, verify=False)
        summary = convert.convert(str(base), made, "hf", **options)
        assert summary["merged"]["largest_change"] is None
        np.testing.assert_array_equal(trees.named_leaves(load_params(made))[name], wanted)


def test_the_command_states_the_base_and_both_changes(tmp_path, capsys):
    base, adapter, _ = make(tmp_path, "llama", WITHOUT_Q)
    arguments = [str(base), str(tmp_path / "made"), "--to", "hf", "--adapter", str(adapter)]
    assert convert.main([*arguments, "--merge_into", "original"]) == 0
    out = capsys.readouterr().out
    assert "merged into the original base" in out and "every tensor compared" in out
    assert out.count("largest change of a logit against it over the ") == 2


def test_a_merged_model_names_the_prompt_of_its_adapter(tmp_path):
    config, lora = CONFIGS["llama"], LoRA(rank=2)
    meta = {CONFIG: config_to_json(config), PROMPT: "alpaca"}
    save_params(str(tmp_path / "base"), random_params(Transformer(config).specs, 0), meta)
    params = random_params(Transformer(config, lora).trainable, 1)
    options = dict(merge_into="original", verify=False)
    for tuned, wanted in (("tk.def", "tk.def"), (None, "alpaca")):
        adapter, made = (str(tmp_path / f"{kind}_{tuned}") for kind in ("adapter", "made"))
        peft.write(adapter, config, peft.StoredAdapter(lora, params, prompt=tuned))
        convert.convert(str(tmp_path / "base"), made, "t5x_ext", adapter=adapter, **options)
        assert open_source(made).meta[PROMPT] == wanted


def run_checkpoint(directory: Path, family: str, lora: LoRA) -> tuple[Path, Params]:
    """What a run with LoRA leaves."""
    config = CONFIGS[family]
    params = random_params(Transformer(config, lora).trainable, 2)
    meta = {CONFIG: config_to_json(config), "step": 9}
    meta[ADAPTER] = describe_adapter(lora, "/data/somewhere/base", "c" * 64, "nf4")
    meta[PROMPT] = "tk.def"
    save_params(str(directory), params, meta)
    return directory, params


@pytest.mark.parametrize("family", CONFIGS)
def test_a_run_with_lora_is_written_for_peft(tmp_path, family):
    lora = LoRA(rank=3, alpha=5.0)
    run, params = run_checkpoint(tmp_path / "run", family, lora)
    convert.convert(str(run), str(tmp_path / "made"), "peft")
    found = peft.read(tmp_path / "made", CONFIGS[family])
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert found[2:] == ("base", "c" * 64, 9, "tk.def", "nf4")
    assert found.lora.alpha == 5.0


def make_two(directory: Path, family: str) -> tuple[Path, list[str]]:
    """A base and two adapters over it, of other ranks, scales and targets: PEFT's, and a run's."""
    base, first, _ = make(directory, family)
    lora = LoRA(rank=2, alpha=6.0, targets=["mlp/wo", "self_attention/query"])
    config, fingerprint = CONFIGS[family], fingerprint_base(open_source(str(base)))
    params = random_params(Transformer(config, lora).trainable, 4)
    meta = {CONFIG: config_to_json(config), "step": 9, PROMPT: "alpaca"}
    meta[ADAPTER] = describe_adapter(lora, "/data/somewhere/base", fingerprint, None)
    save_params(str(directory / "run"), params, meta)
    return base, [str(first), str(directory / "run")]


def combined_delta(config: Any, path: str, kernel: str) -> np.ndarray | float:
    adapter = open_adapter(path, config)
    product = find_products(config, adapter.lora, adapter.params).get(kernel)
    return 0.0 if product is None else product.a.astype(np.float64) @ product.b


@pytest.mark.parametrize("family", CONFIGS)
def test_adapters_are_combined_with_weights_or_to_their_mean(tmp_path, capsys, family):
    base, paths = make_two(tmp_path, family)
    config = CONFIGS[family]
    for name, flags, weights in (
        ("mean", [], (0.5, 0.5)),
        ("sum", ["--weights=-0.25,2"], (-0.25, 2.0)),
    ):
        made = str(tmp_path / name)
        flags = ["--to", "peft", "--combine", ",".join(paths), *flags]
        assert convert.main([str(base), made, *flags]) == 0
        out = capsys.readouterr().out
        sums = " + ".join(f"{w:g} * {path}" for w, path in zip(weights, paths, strict=True))
        assert out.startswith(f"{sums} (combined, step 9)\n-> {made} (peft), every tensor compared")
        for part in ("self_attention/query", "mlp/wo", "self_attention/value"):
            kernel = f"decoder/layers/{part}/kernel"
            each = [combined_delta(config, path, kernel) for path in paths]
            wanted = weights[0] * each[0] + weights[1] * each[1]
            np.testing.assert_allclose(combined_delta(config, made, kernel), wanted, atol=1e-6)
    found = peft.read(made, config)
    assert found.base_path == "base" and found.step == 9
    assert found.base_fingerprint == fingerprint_base(open_source(str(base)))
    assert found.prompt is None and found.base_quantization is None  # one does not say


def test_a_combination_is_shown_used_and_merged_like_any_adapter(tmp_path, capsys):
    base, paths = make_two(tmp_path, "llama")
    made, weights = str(tmp_path / "made"), [0.5, 1.5]
    summary = convert.convert(str(base), made, "peft", combine=paths, weights=weights)
    assert summary["source"]["kind"] == "combined" and summary["verified"]
    assert inspect.main([made]) == 0
    out = capsys.readouterr().out
    assert "adapter of rank 5, alpha 5, on down_proj, gate_proj, k_proj, o_proj, q_proj" in out
    assert f"base base, fingerprint {fingerprint_base(open_source(str(base)))}" in out
    assert f"{summary['tensors']} tensors, {summary['parameters']:,} parameters" not in out
    assert f" {summary['parameters']:,} parameters, {summary['bytes']:,} bytes" in out
    model = Model.load(str(base), adapters={"mixed": made, "one": paths[0]})
    mixed, one = model.token_logits([[3, 5, 8]] * 2, adapter=["mixed", "one"])
    options = dict(adapter=made, merge_into="original", verify=False)
    convert.convert(str(base), str(tmp_path / "merged"), "hf", **options)
    (merged,) = Model.load(str(tmp_path / "merged")).token_logits([[3, 5, 8]])
    np.testing.assert_allclose(mixed, merged, atol=1e-5)
    assert np.abs(mixed - one).max() > 1e-3


def test_what_cannot_be_combined_is_refused_in_one_line_and_nothing_is_written(tmp_path):
    base, paths = make_two(tmp_path, "llama")
    changed = random_params(Transformer(CONFIGS["llama"]).specs, 3)
    save_params(str(tmp_path / "b2"), changed, {CONFIG: config_to_json(CONFIGS["llama"])})
    lora = LoRA(rank=1)
    drawn = random_params(Transformer(CONFIGS["llama"], lora).trainable, 5)
    prefix = str(tmp_path / "prefix")
    drawn_adapter = peft.StoredAdapter(lora, drawn)
    peft.write(prefix, CONFIGS["llama"], drawn_adapter, bidirectional=True)
    made, two = str(tmp_path / "made"), dict(combine=paths)
    for source, to, options, message in (
        (base, "peft", dict(combine=paths[:1]), f"combine: {paths[0]}; allowed: two adapters"),
        (base, "peft", two | dict(weights=[1.0]), "weights: 1 for 2 adapters; allowed: one for"),
        (base, "peft", two | dict(weights=[]), "weights: 0 for 2 adapters; allowed: one for"),
        (base, "peft", two | dict(weights=[1.0, np.nan]), "weights: nan; allowed: finite"),
        (base, "peft", dict(weights=[1.0, 1.0]), "--weights: without --combine; allowed"),
        (base, "hf", two, "--to hf: --combine writes an adapter; allowed: --to peft"),
        (base, "peft", two | dict(adapter=paths[0]), "--combine with --adapter or --merge_into"),
        (base, "hf", two | dict(merge_into="original"), "--combine with --adapter or --merge_int"),
        (base, "peft", two | dict(dtype="bfloat16"), "--dtype bfloat16: adapters are written in"),
        (paths[1], "peft", two, "run: holds an adapter itself; with --combine, allowed: a base"),
        (tmp_path / "b2", "peft", two, "an adapter of another base"),
        (base, "peft", dict(combine=[paths[0], str(base)]), "holds a whole model, not an adapter"),
        (base, "peft", dict(combine=[paths[0], prefix]), "prefix: tuned with inputs_bidirectiona"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            convert.convert(str(source), made, to, **options)
        assert "\n" not in str(error.value)
        assert not Path(made).exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--combine", "a,"], "argument --combine: 'a,'; allowed: paths with commas between them"),
        (
            ["--combine", "a,b", "--weights", "1,half"],
            "argument --weights: '1,half'; allowed: numbers with commas between them",
        ),
    ],
)
def test_lists_that_are_none_are_refused_before_anything_is_read(flags, message, capsys):
    with pytest.raises(SystemExit):
        convert.main(["base", "made", "--to", "peft", *flags])
    assert capsys.readouterr().err.splitlines()[-1].endswith(message)


def test_comparing_adapters_finds_one_wrong_bit(tmp_path):
    _, directory, _ = make(tmp_path, "falcon")
    adapter = open_adapter(str(directory), CONFIGS["falcon"])
    compare_adapter(adapter, epath.Path(directory), CONFIGS["falcon"])
    name = "decoder/layers/self_attention/value"
    b = trees.named_leaves(adapter.params)[f"{name}/lora/b"]
    b[1, 2, 3] = np.nextafter(b[1, 2, 3], 1)
    with pytest.raises(ConfigError, match=f"the adapter of {name}/kernel differs from"):
        compare_adapter(adapter, epath.Path(directory), CONFIGS["falcon"])


def test_an_adapter_that_comes_back_otherwise_is_not_kept(tmp_path, monkeypatch):
    run, _ = run_checkpoint(tmp_path / "run", "llama", WITHOUT_Q)
    read = peft.read

    def read_otherwise(directory: Any, config: Any) -> peft.StoredAdapter:
        found = read(directory, config)
        return found._replace(params=jax.tree.map(lambda leaf: leaf + 1, found.params))

    monkeypatch.setattr(peft, "read", read_otherwise)
    with pytest.raises(ConfigError, match="the adapter of decoder/.*/kernel differs from"):
        convert.convert(str(run), str(tmp_path / "made"), "peft")
    assert not (tmp_path / "made").exists()
    convert.convert(str(run), str(tmp_path / "made"), "peft", verify=False)
    assert (tmp_path / "made").is_dir()


def test_inspect_shows_rank_targets_base_and_what_is_trained(tmp_path, capsys):
    _, adapter, params = make(tmp_path, "llama", WITHOUT_Q)
    trained = sum(leaf.size for leaf in jax.tree.leaves(params))
    run, _ = run_checkpoint(tmp_path / "run", "llama", WITHOUT_Q)
    for path, targets in ((adapter, "down_proj, o_proj"), (run, "mlp/wo, self_attention/out")):
        assert inspect.main([str(path)]) == 0
        out = capsys.readouterr().out
        assert f"adapter of rank 2, alpha 6, on {targets}" in out
        assert "base" in out and "fingerprint " in out and f"{trained:,} parameters" in out
        assert ("base /data/somewhere/base in NF4" in out) == (path == run)
        assert ("prompt tk.def\n" in out) == (path == run)
    assert inspect.main([str(adapter), "--values"]) == 0
    assert re.search(r"^values sha256 [0-9a-f]{64}$", capsys.readouterr().out, re.MULTILINE)
    summary = json.loads(json.dumps(inspect.inspect(str(adapter))))
    assert summary["kind"] == "peft" and summary["adapter"]["base"] == "base"
    assert summary["step"] == 5


def test_what_cannot_be_merged_is_refused_in_one_line_and_nothing_is_written(tmp_path):
    base, adapter, _ = make(tmp_path, "llama", WITHOUT_Q)
    run, _ = run_checkpoint(tmp_path / "run", "llama", WITHOUT_Q)
    changed = random_params(Transformer(CONFIGS["llama"]).specs, 3)
    save_params(str(tmp_path / "b2"), changed, {CONFIG: config_to_json(CONFIGS["llama"])})
    made, given = str(tmp_path / "made"), dict(adapter=str(adapter), merge_into="original")
    for source, to, options, message in (
        (base, "hf", dict(adapter=str(adapter)), "allowed: both, and to merge into original or"),
        (base, "hf", dict(merge_into="original"), "--adapter None with --merge_into original"),
        (base, "peft", given, "--to peft: writes an adapter"),
        (base, "peft", {}, "holds a whole model; --to peft takes a run with LORA_RANK, or"),
        (run, "hf", given, "holds an adapter itself"),
        (run, "peft", dict(dtype="bfloat16"), "--dtype bfloat16: adapters are written in float32"),
        (tmp_path / "b2", "hf", given, "an adapter of another base"),
        (
            run,
            "hf",
            {},
            "holds an adapter, not a whole model; allowed: --to peft, or its base as SRC",
        ),
        (run, "t5x", {}, "holds an adapter, not a whole model"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            convert.convert(str(source), made, to, **options)
        assert "\n" not in str(error.value)
        assert not Path(made).exists()


def test_models_are_loaded_with_adapters_by_name_or_refuse_them_in_one_line(tmp_path):
    base, adapter, _ = make(tmp_path, "llama", WITHOUT_Q)
    run, _ = run_checkpoint(tmp_path / "run", "llama", WITHOUT_Q)
    for path, options, message in (
        (base, dict(adapters=[str(adapter)]), "Model.load: adapters: .*; allowed: directories by"),
        (base, dict(adapters={1: str(adapter)}), "Model.load: adapters: {1: .*; allowed: directo"),
        (
            base,
            dict(adapters={"a": None}),
            "Model.load: adapters\\['a'\\]: None; allowed: a direct",
        ),
        (base, dict(adapter={"a": adapter}), "Model.load: adapter: {'a': .*; allowed: a directory"),
        (
            run,
            dict(adapters={"a": str(adapter)}),
            "run: holds an adapter itself; with adapters, allowed: its base",
        ),
        (
            adapter,
            dict(adapters={"a": str(adapter)}),
            "adapter: an adapter in PEFT's layout, not a",
        ),
        (
            run,
            {},
            "run: the base of this adapter cannot be opened .*'/data/somewhere/base'.*ADAPTER",
        ),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            Model.load(str(path), **options)
        assert "\n" not in str(error.value)


def test_an_adapter_that_is_named_is_used_by_the_calls_that_name_it(tmp_path):
    """Also where its name is that of one loaded without a name."""
    base, adapter, _ = make(tmp_path, "llama", WITHOUT_Q)
    named = Model.load(str(base), adapters={"adapter": str(adapter)})
    alone = Model.load(str(base), adapter=adapter)
    bare, used = named.token_logits([[3, 5, 8]] * 2, adapter=[None, "adapter"])
    for model, wanted in ((named, bare), (alone, used)):
        (found,) = model.token_logits([[3, 5, 8]])
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert np.abs(bare - used).max() > 1e-3
