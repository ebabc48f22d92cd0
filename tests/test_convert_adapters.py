"""Adapters merged into a base or written for PEFT by `convert`, and shown by `inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from t5x_ext import Model, convert
from t5x_ext import inspect_checkpoint as inspect
from t5x_ext.checkpoints import load_params, open_source, peft, save_params, trees
from t5x_ext.checkpoints.fingerprints import fingerprint_base
from t5x_ext.checkpoints.meta import ADAPTER, CONFIG, PROMPT, describe_adapter
from t5x_ext.errors import ConfigError
from t5x_ext.models import nf4
from t5x_ext.models.falcon import FalconConfig
from t5x_ext.models.families import config_to_json
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.lora import LoRA
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
    peft.write(str(adapter), config, lora, params, fingerprint, str(base), step=5)
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
        (base, "peft", {}, "holds a whole model; --to peft takes a run with LORA_RANK"),
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
