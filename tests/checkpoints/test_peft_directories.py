"""PEFT's directories: golden adapters, what its rules allow, and every defect in one line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from t5x_ext.checkpoints import load_params, open_source, peft, trees
from t5x_ext.checkpoints.adapters import Adapter, open_adapter, stack
from t5x_ext.checkpoints.hugging_face import safetensors_files
from t5x_ext.checkpoints.hugging_face.safetensors_files import TensorInfo
from t5x_ext.errors import ConfigError
from t5x_ext.models.decoder_only import DecoderOnlyModel
from t5x_ext.models.falcon import FalconConfig
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.merging import find_products
from t5x_ext.models.mpt import MptConfig
from t5x_ext.models.network import T5Config, Transformer
from t5x_ext.models.parameters import Params, count_params, join, map_specs

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "specialization" / "goldens"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_SIZES: dict[str, Any] = dict(vocab_size=50, emb_dim=24, num_heads=6, head_dim=4, mlp_dim=40)
MODELS = {
    "llama": LlamaConfig(**_SIZES, num_layers=3, num_kv_heads=2),
    "mpt": MptConfig(**_SIZES | dict(mlp_dim=48), num_layers=2, num_kv_heads=6),
    "falcon_7b": FalconConfig(**_SIZES, num_layers=2, num_kv_heads=1),
    "falcon_40b": FalconConfig(**_SIZES, num_layers=2, num_kv_heads=3, shared_norm=False),
    "t5": T5Config(
        **_SIZES,
        num_encoder_layers=2,
        num_decoder_layers=3,
        mlp_activations=("gelu", "linear"),
    ),
}


@pytest.fixture(scope="module")
def goldens() -> Path:
    if not GOLDENS.is_dir():
        pytest.skip(f"golden adapters not found at {GOLDENS}")
    return GOLDENS


def random_adapter(config, lora: LoRA, seed: int = 0) -> Params:
    """Neither A nor B is zero."""
    rng = np.random.default_rng(seed)
    specs = Transformer(config, lora).trainable
    return map_specs(lambda spec: rng.normal(size=spec.shape).astype(np.float32), specs)


def write_adapter(directory: Path, config, lora: LoRA, **options: Any) -> Path:
    adapter = peft.StoredAdapter(lora, random_adapter(config, lora), **options)
    peft.write(str(directory), config, adapter)
    return directory


def read_arrays(directory: Path) -> dict[str, np.ndarray]:
    stored = safetensors_files.read_header(epath.Path(directory) / WEIGHTS)
    return {name: tensor.whole() for name, tensor in stored.items()}


def write_arrays(directory: Path, arrays: dict[str, np.ndarray]) -> None:
    infos = [TensorInfo(name, array.shape, array.dtype) for name, array in arrays.items()]
    safetensors_files.write_file(
        epath.Path(directory) / WEIGHTS, infos, iter(arrays.values()), {"format": "pt"}
    )


def edit_config(directory: Path, **fields: Any) -> None:
    path = directory / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def logits(config, params, ids: list[int], lora: LoRA | None = None) -> np.ndarray:
    model = DecoderOnlyModel(module=Transformer(config, lora))
    rows = np.array([ids], np.int32)
    batch = {"decoder_input_tokens": rows, "decoder_segment_ids": np.ones_like(rows)}
    return np.asarray(jax.jit(model.logits)(params, batch))[0]


def delta_of(found: peft.StoredAdapter, config, module: str, layer: int) -> np.ndarray:
    """What an adapter adds to one layer's kernel, [in, out]; its A is its own."""
    leaves = trees.named_leaves(found.params)
    a, b = leaves[f"{module}/lora/a"][layer], leaves[f"{module}/lora/b"][layer]
    return found.lora.scale_of(config.module_names(module)) * a @ b


@pytest.mark.parametrize(
    "name", ["llama_biomedicine", "llama_finance", "llama_rslora", "mpt_biomedicine"]
)
def test_golden_adapters_have_the_golden_logits_and_counts(goldens, name) -> None:
    rows = map(json.loads, (goldens / "lora_forward.jsonl").read_text().splitlines())
    row = next(row for row in rows if row["adapter"] == name)
    base = str(goldens / "models" / row["model"])
    config, params = open_source(base).config, load_params(base)
    adapter = open_adapter(str(goldens / "adapters" / name), config)
    trainable = Transformer(config, adapter.lora).trainable
    assert count_params(trainable) == row["trainable_parameters"]
    found = logits(config, join(params, adapter.params), row["input_ids"], adapter.lora)
    np.testing.assert_allclose(found[-1], row["last_logits"], atol=1e-5, rtol=0)
    assert found.argmax(-1).tolist() == row["argmax_each_position"]
    bare = logits(config, params, row["input_ids"])
    np.testing.assert_allclose(bare[-1], row["base_last_logits"], atol=1e-5, rtol=0)


def test_fan_in_fan_out_changes_nothing_for_linear_layers(tmp_path) -> None:
    config = MODELS["llama"]
    plain = write_adapter(tmp_path / "plain", config, LoRA(rank=2))
    other = shutil.copytree(plain, tmp_path / "other")
    edit_config(other, fan_in_fan_out=True)
    found = [peft.read(directory, config).params for directory in (plain, other)]
    jax.tree.map(np.testing.assert_array_equal, *found)


LORAS = {
    "all": LoRA(rank=3, alpha=5.0),
    "some": LoRA(rank=2, targets=["self_attention/out", "mlp/wo"], dropout=0.1, rslora=True),
    "patterns": LoRA(
        rank=4,
        rank_pattern={"wo": 2, "self_attention/query": 3, "Wqkv": 3} | {"query_key_value": 3},
        alpha_pattern={"mlp/wo": 3.0},
    ),
}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("kind", LORAS)
def test_written_directories_come_back_to_the_bit(family, kind, tmp_path) -> None:
    config, lora = MODELS[family], LORAS[kind]
    if kind == "patterns" and "self_attention/query" not in lora.rank_pattern:
        pytest.skip("no such module")
    known = {n for m in _modules(config) for n in config.module_names(m)}
    ranks = {p: r for p, r in lora.rank_pattern.items() if any(n.endswith(p) for n in known)}
    lora = LoRA(**lora.describe() | {"rank_pattern": ranks})
    params = random_adapter(config, lora)
    options = dict(base_path="/data/me/base", step=7, prompt="alpaca", base_quantization="nf4")
    adapter = peft.StoredAdapter(lora, params, base_fingerprint="f" * 64, **options)
    peft.write(str(tmp_path / "out"), config, adapter)
    found = peft.read(tmp_path / "out", config)
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    for module in _modules(config):
        names = config.module_names(module)
        assert found.lora.matches(names) == lora.matches(names)
        if lora.matches(names):
            assert found.lora.scale_of(names) == lora.scale_of(names)
    assert (found.lora.dropout, found.lora.rslora) == (lora.dropout, lora.rslora)
    assert found[2:] == ("base", "f" * 64, 7, "alpaca", "nf4")
    assert "/" not in (tmp_path / "out" / CONFIG).read_text()


def _modules(config) -> list[str]:
    specs = trees.named_leaves(
        jax.tree.map(
            lambda spec: spec.axes[0],
            Transformer(config, LoRA()).trainable,
            is_leaf=lambda x: hasattr(x, "axes"),
        )
    )
    return sorted(name.removesuffix("/lora/b") for name in specs if name.endswith("/lora/b"))


def test_fused_projections_have_one_a_and_their_rows_of_b(tmp_path) -> None:
    for family in ("mpt", "falcon_7b", "falcon_40b"):
        config = MODELS[family]
        directory = write_adapter(tmp_path / family, config, LoRA(rank=2))
        attention = peft.read(directory, config).params["decoder"]["layers"]["self_attention"]
        assert set(attention["key"]["lora"]) == {"a", "b"}
        assert set(attention["query"]["lora"]) == set(attention["value"]["lora"]) == {"b"}
        fused = next(n for n in read_arrays(directory) if "qkv" in n or "query_key" in n)
        rows = read_arrays(directory)[fused.replace("lora_A", "lora_B")].shape[0]
        assert rows == (config.num_heads + 2 * config.num_kv_heads) * config.head_dim


def test_a_target_of_one_fused_part_leaves_the_others_without_effect(tmp_path) -> None:
    config = MODELS["mpt"]
    lora = LoRA(rank=2, targets=["self_attention/query"])
    found = peft.read(write_adapter(tmp_path / "out", config, lora), config)
    attention = found.params["decoder"]["layers"]["self_attention"]
    assert not attention["key"]["lora"]["b"].any() and not attention["value"]["lora"]["b"].any()
    written = random_adapter(config, lora)["decoder"]["layers"]["self_attention"]["query"]["lora"]
    np.testing.assert_array_equal(attention["query"]["lora"]["b"], written["b"])
    np.testing.assert_array_equal(attention["key"]["lora"]["a"], written["a"])


def test_adapters_of_several_parts_of_a_fused_projection_keep_their_products_together() -> None:
    config = MODELS["mpt"]
    loras = [LoRA(2, targets=["query"]), LoRA(3), LoRA(4, targets=["value", "mlp/wi"])]
    alone = [random_adapter(config, lora, seed) for seed, lora in enumerate(loras)]
    adapters = [Adapter("memory", *each) for each in zip(loras, alone, strict=True)]
    common, together = stack(adapters, config)
    for index, (lora, adapter) in enumerate(zip(loras, alone, strict=True), 1):
        own = jax.tree.map(lambda leaf, index=index: leaf[:, index], together)
        found = find_products(config, common, own)
        for name, wanted in find_products(config, lora, adapter).items():
            a, b = found.pop(name)
            np.testing.assert_allclose(a @ b, wanted.a @ wanted.b, rtol=1e-5, atol=1e-5)
        assert not any(product.b.any() for product in found.values())


def test_layers_may_lack_an_adapter_or_have_another_rank_and_scale(tmp_path) -> None:
    """Deltas of each layer are PEFT's, however we hold them; those of absent layers are zero."""
    config, rng = MODELS["llama"], np.random.default_rng(0)
    directory = write_adapter(tmp_path / "out", config, LoRA(rank=2, targets=["q_proj"]))
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    ranks, alphas = {0: 2, 2: 5}, {0: 3.0, 2: 7.0}
    arrays = {}
    for layer, rank in ranks.items():
        arrays[name.format(layer, "A")] = rng.normal(size=(rank, 24)).astype(np.float32)
        arrays[name.format(layer, "B")] = rng.normal(size=(24, rank)).astype(np.float32)
    write_arrays(directory, arrays)
    edit_config(
        directory,
        lora_alpha=3,
        layers_to_transform=[0, 2],
        rank_pattern={"layers.2.self_attn.q_proj": 5},
        alpha_pattern={r"model\.layers\.2\..*q_proj": 7.0},
    )
    found = peft.read(directory, config)
    for layer in range(3):
        wanted = np.zeros((24, 24))
        if layer in ranks:
            a, b = (arrays[name.format(layer, part)] for part in "AB")
            wanted = (alphas[layer] / ranks[layer] * b @ a).T
        ours = delta_of(found, config, "decoder/layers/self_attention/query", layer)
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("targets", "exclude", "count"),
    [
        (r".*\.(q|v)_proj", None, 2),
        (r"model\.layers\.[01]\.mlp\..*", "up_proj", 2),
        ("all-linear", r".*self_attn.*", 3),
        (["q_proj", "mlp.up_proj"], ["self_attn.q_proj"], 1),
    ],
)
def test_targets_are_suffixes_or_a_regular_expression(targets, exclude, count, tmp_path) -> None:
    """As PEFT picks them; tensors of others would be unused."""
    config = MODELS["llama"]
    directory = write_adapter(tmp_path / "out", config, LoRA(rank=2))
    regex = exclude if isinstance(exclude, str) and "*" in exclude else rf".*{exclude}"
    asked = {
        "target_modules": targets,
        "exclude_modules": exclude if exclude != "up_proj" else regex,
    }
    edit_config(directory, **asked)
    kept = {
        name: array
        for name, array in read_arrays(directory).items()
        if _is_asked(name.removeprefix("base_model.model.").rsplit(".", 2)[0], **asked)
    }
    write_arrays(directory, kept)
    found = peft.read(directory, config)
    assert len(trees.named_leaves(found.params)) == 2 * count


def _is_asked(module: str, target_modules: Any, exclude_modules: Any) -> bool:
    def listed(names: Any) -> bool:
        if isinstance(names, str):
            return names == "all-linear" or bool(re.fullmatch(names, module))
        return any(module.endswith(f".{name}") for name in names or ())

    return listed(target_modules) and not listed(exclude_modules)


FIELDS = [
    ({"use_dora": True}, "use_dora is True, which is not supported"),
    ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
    ({"bias": "all"}, "bias is 'all', which is not supported; allowed: 'none'"),
    ({"peft_type": "LOHA"}, "peft_type is 'LOHA', which is not supported; allowed: 'LORA'"),
    ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16'"),
    ({"loftq_config": {"loftq_bits": 4}}, "loftq_config is"),
    ({"a_field_of_tomorrow": 3}, "a_field_of_tomorrow is 3, which is not supported"),
    ({"r": 0}, "r is 0; allowed: an integer > 0"),
    ({"lora_alpha": "much"}, "lora_alpha is 'much'; allowed: a number > 0"),
    ({"lora_alpha": 10**400}, "lora_alpha is 10{400}; allowed: a number > 0"),
    ({"lora_dropout": 2}, "lora_dropout is 2"),
    ({"rank_pattern": {"q_proj": 0}}, "rank_pattern: q_proj is 0"),
    ({"rank_pattern": [4]}, "rank_pattern is"),
    ({"alpha_pattern": {"(": 2}}, "alpha_pattern has '\\('; allowed: a regular expression"),
    ({"target_modules": "("}, "target_modules has '\\('; allowed: a regular expression"),
    ({"target_modules": []}, r"target_modules is \[\]"),
    ({"target_modules": ["c_attn"]}, "c_attn match no linear layer of this llama model; allowed"),
    ({"layers_to_transform": "all"}, "layers_to_transform is 'all'"),
    ({"r": 3}, r"42 of another shape: .*lora_A.weight is \[2, 24\], not \[3, 24\]"),
]


@pytest.mark.parametrize(("fields", "message"), FIELDS, ids=lambda x: str(x)[:40])
def test_what_is_not_honoured_is_refused_by_name(fields, message, tmp_path) -> None:
    directory = write_adapter(tmp_path / "out", MODELS["llama"], LoRA(rank=2))
    edit_config(directory, **fields)
    _refused(directory, MODELS["llama"], message)


def _refused(directory: Path, config, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        open_adapter(str(directory), config)
    assert "\n" not in str(error.value) and str(directory) in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base": ""}, "t5x_ext.json: base is ''; allowed: an object"),
        ({"base": None}, "t5x_ext.json: base is None; allowed: an object"),
        ({"base": {"sha256": True}}, "base.sha256 is True; allowed: a text, or null"),
        ({"base": {"quantization": 4}}, "base.quantization is 4; allowed: a text, or null"),
        ({"step": "3"}, "t5x_ext.json: step: '3'; allowed: 0 and more"),
        ({"inputs_bidirectional_attention": "no"}, "_attention is 'no'; allowed: true, false, n"),
    ],
)
def test_a_damaged_file_of_ours_is_refused(fields: dict, message: str, tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "out", MODELS["llama"], LoRA(rank=2))
    (directory / "t5x_ext.json").write_text(json.dumps(fields))
    _refused(directory, MODELS["llama"], message)
    with pytest.raises(ConfigError, match=message):
        peft.open_source(directory)


def test_json_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "out", MODELS["llama"], LoRA(rank=2))
    (directory / "adapter_config.json").write_text("[" * 100_000)
    _refused(directory, MODELS["llama"], "adapter_config.json: is not JSON")


def test_missing_unused_and_damaged_tensors_are_named(tmp_path) -> None:
    config = MODELS["llama"]
    directory = write_adapter(tmp_path / "out", config, LoRA(rank=2))
    arrays = read_arrays(directory)
    first = min(arrays)
    write_arrays(directory, {name: array for name, array in arrays.items() if name != first})
    _refused(directory, config, f"1 missing: {re.escape(first)}")
    write_arrays(directory, arrays | {"base_model.model.lm_head.lora_A.weight": arrays[first]})
    _refused(directory, config, r"1 unused by this model: base_model\.model\.lm_head\.lora_A")
    (directory / WEIGHTS).write_bytes((directory / WEIGHTS).read_bytes()[:-4])
    _refused(directory, config, "is truncated")
    (directory / WEIGHTS).unlink()
    _refused(directory, config, "has no adapter_model.safetensors; allowed")


def test_an_adapter_of_another_family_or_size_is_refused(tmp_path) -> None:
    mpt = write_adapter(tmp_path / "mpt", MODELS["mpt"], LoRA(rank=2, targets=["mlp/wi"]))
    _refused(mpt, MODELS["llama"], "an adapter for another family than llama: it has base_model.")
    t5 = write_adapter(tmp_path / "t5", MODELS["t5"], LoRA(rank=2, targets=["query"]))
    _refused(t5, MODELS["llama"], "target_modules q match no linear layer of this llama model")
    llama = write_adapter(tmp_path / "llama", MODELS["llama"], LoRA(rank=2))
    wider = MODELS["llama"].replace(emb_dim=32)
    _refused(llama, wider, r"of another shape: .*lora_A.weight is \[2, 24\], not \[2, 32\]")
    deeper = MODELS["llama"].replace(num_layers=4)
    _refused(llama, deeper, r"14 missing: base_model\.model\.model\.layers\.3")


def test_another_base_is_refused(tmp_path) -> None:
    config, lora = MODELS["llama"], LoRA(rank=2)
    write_adapter(tmp_path / "out", config, lora, base_fingerprint="a" * 64)
    adapter = open_adapter(str(tmp_path / "out"), config)
    adapter.check_base("a" * 64, "/base")
    with pytest.raises(
        ConfigError, match="an adapter of another base: .* begins with aaaaaaaaaaaa"
    ):
        adapter.check_base("b" * 64, "/other")


@pytest.mark.parametrize(
    ("tuned", "used", "line"),
    [
        ("nf4", None, "tuned over base in NF4, used over /base unquantised"),
        ("none", "nf4", "tuned over base unquantised, used over /base in NF4"),
        ("nf4", "nf4", None),
        ("none", None, None),
        (None, "nf4", None),  # PEFT itself does not say
    ],
)
def test_kernels_other_than_in_tuning_are_said_in_one_line(
    tmp_path, capsys, tuned, used, line
) -> None:
    config, lora = MODELS["llama"], LoRA(rank=2)
    options = dict(base_path="/x/base", base_quantization=tuned)
    adapter = open_adapter(str(write_adapter(tmp_path / "out", config, lora, **options)), config)
    adapter.warn_of_kernels(used, "/base")
    wanted = [] if line is None else [f"warning: {tmp_path / 'out'}: {line}"]
    assert capsys.readouterr().err.splitlines() == wanted


def test_another_prompt_than_in_tuning_is_said_in_one_line(tmp_path, capsys) -> None:
    config, lora = MODELS["llama"], LoRA(rank=2)
    directory = write_adapter(tmp_path / "out", config, lora, prompt="alpaca")
    adapter = open_adapter(str(directory), config)
    for prompt in ("alpaca", None, "tk.def"):
        adapter.warn_of_prompt(prompt)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"warning: {directory}: tuned with prompt 'alpaca', used with 'tk.def'"]


def test_parameters_of_another_lora_are_not_written(tmp_path) -> None:
    config = MODELS["llama"]
    params = random_adapter(config, LoRA(rank=2))
    with pytest.raises(ConfigError, match="of another shape"):
        peft.write(str(tmp_path / "out"), config, peft.StoredAdapter(LoRA(rank=3), params))
    assert not (tmp_path / "out").exists()
