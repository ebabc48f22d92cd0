"""Every model file has the shape of the published weights it names, parameter for parameter.

The counts are of the files on Hugging Face's hub (the tables of T5X's own documentation round
them). Nothing is allocated: shapes alone are counted, here and in PyTorch.
"""

from __future__ import annotations

import re
from pathlib import Path

import gin
import pytest

import gin_configs
from t5x_ext import gin_utils
from t5x_ext.models import network, parameters

MODELS = Path(gin_configs.__file__).parent / "models"

# What config.json of each published model says: d_model, num_heads, d_kv, d_ff, num_layers,
# num_decoder_layers.
SHAPES = {
    "t5_1_0": {
        "small": (512, 8, 64, 2048, 6, 6),
        "base": (768, 12, 64, 3072, 12, 12),
        "large": (1024, 16, 64, 4096, 24, 24),
        "3b": (1024, 32, 128, 16384, 24, 24),
        "11b": (1024, 128, 128, 65536, 24, 24),
    },
    "t5_1_1": {
        "small": (512, 6, 64, 1024, 8, 8),
        "base": (768, 12, 64, 2048, 12, 12),
        "large": (1024, 16, 64, 2816, 24, 24),
        "xl": (2048, 32, 64, 5120, 24, 24),
        "xxl": (4096, 64, 64, 10240, 24, 24),
    },
    "byt5": {
        "small": (1472, 6, 64, 3584, 12, 4),
        "base": (1536, 12, 64, 3968, 18, 6),
        "large": (1536, 16, 64, 3840, 36, 12),
        "xl": (2560, 32, 64, 6720, 36, 12),
        "xxl": (4672, 64, 64, 12352, 36, 12),
    },
}
for alias in ("t5_1_1_lm100k", "flan_t5", "mt5"):
    SHAPES[alias] = SHAPES["t5_1_1"]
SHAPES["tk_instruct"] = {
    "3b_def_pos": SHAPES["t5_1_1"]["xl"],
    "11b_def_pos": SHAPES["t5_1_1"]["xxl"],
}
VOCAB_SIZES = {"mt5": 250112, "byt5": 384}
PUBLISHED = {f"{family}_{size}": family for family, sizes in SHAPES.items() for size in sizes}

# Counted by others from the downloaded files.
COUNTS = {
    "t5_1_0_small": 60_506_624,
    "t5_1_0_base": 222_903_552,
    "t5_1_0_large": 737_668_096,
    "t5_1_0_3b": 2_851_598_336,
    "t5_1_0_11b": 11_307_321_344,
    "t5_1_1_small": 76_961_152,
    "t5_1_1_base": 247_577_856,
    "t5_1_1_large": 783_150_080,
    "t5_1_1_xl": 2_849_757_184,
    "t5_1_1_xxl": 11_135_332_352,
    "flan_t5_xl": 2_849_757_184,
    "tk_instruct_3b_def_pos": 2_849_757_184,
    "mt5_small": 300_176_768,
    "mt5_base": 582_401_280,
    "byt5_small": 299_637_760,
    "byt5_base": 581_653_248,
}


@pytest.fixture(autouse=True)
def _fresh_gin():
    yield
    gin.clear_config()


def configured(model: str) -> network.T5Config:
    """The T5Config that a model file binds."""
    gin_utils.parse([f"models/{model}.gin"], [])
    return gin.get_configurable(network.T5Config)()


def hugging_face_config(model: str) -> dict[str, object]:
    """The config.json of the published model."""
    family = PUBLISHED[model]
    size = model.removeprefix(f"{family}_")
    names = ("d_model", "num_heads", "d_kv", "d_ff", "num_layers", "num_decoder_layers")
    is_first = family == "t5_1_0"
    return {
        **dict(zip(names, SHAPES[family][size], strict=True)),
        "vocab_size": VOCAB_SIZES.get(family, 32128),
        "feed_forward_proj": "relu" if is_first else "gated-gelu",
        "tie_word_embeddings": is_first,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
    }


def count(config: dict[str, object]) -> int:
    """Parameters of a T5 with this config.json, by hand."""
    d, joined = config["d_model"], config["num_heads"] * config["d_kv"]
    attention = 4 * d * joined + d  # query, key, value, out, and the norm before them
    gated = config["feed_forward_proj"] == "gated-gelu"
    feed_forward = (3 if gated else 2) * d * config["d_ff"] + d
    encoder = config["num_layers"] * (attention + feed_forward)
    decoder = config["num_decoder_layers"] * (2 * attention + feed_forward)
    tables = 1 if config["tie_word_embeddings"] else 2
    positions = config["relative_attention_num_buckets"] * config["num_heads"]
    return tables * config["vocab_size"] * d + encoder + decoder + 2 * (d + positions)


def test_every_model_file_but_the_miniature_is_a_published_one():
    decoder_only = ("llama", "mpt", "falcon", "smollm2")
    files = {path.stem for path in MODELS.glob("*.gin") if not path.stem.startswith(decoder_only)}
    assert files == {*PUBLISHED, "t5_1_1_tiny"}


@pytest.mark.parametrize("model", PUBLISHED)
def test_parameters_are_those_of_the_published_model(model):
    config = configured(model)
    ours = parameters.count_params(network.Transformer(config).specs)
    expected = hugging_face_config(model)
    assert ours == count(expected) == COUNTS.get(model, ours)
    assert (config.emb_dim, config.num_heads, config.head_dim, config.mlp_dim) == tuple(
        expected[name] for name in ("d_model", "num_heads", "d_kv", "d_ff")
    )
    assert config.num_encoder_layers == expected["num_layers"]
    assert config.num_decoder_layers == expected["num_decoder_layers"]
    assert config.vocab_size == expected["vocab_size"]
    assert config.logits_via_embedding == expected["tie_word_embeddings"]


@pytest.mark.parametrize("model", PUBLISHED)
def test_first_lines_state_the_count_and_the_weights(model):
    title, weights, *_ = (MODELS / f"{model}.gin").read_text().splitlines()
    assert f": {count(hugging_face_config(model)):,} parameters" in title
    name = re.fullmatch(r"# Weights: INITIAL_CHECKPOINT_PATH .*= a copy of (\S+)\.", weights)[1]
    organisation = {"t5_1_0": "google-t5", "tk_instruct": "allenai"}.get(PUBLISHED[model], "google")
    size = model.removeprefix(f"{PUBLISHED[model]}_").split("_")[0]
    assert name.startswith(f"{organisation}/") and f"-{size}" in name


@pytest.mark.parametrize("model", ["t5_1_0_11b", "t5_1_1_xl", "mt5_xxl", "byt5_large"])
def test_transformers_counts_the_same(model):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = hugging_face_config(model)
    with torch.device("meta"):
        theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**config))
    # By name: version 5 ties the output of every new model, whatever its config says.
    counts = {name: p.numel() for name, p in theirs.named_parameters(remove_duplicate=False)}
    once = set(counts) - {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    if config["tie_word_embeddings"]:
        once.remove("lm_head.weight")
    ours = parameters.count_params(network.Transformer(configured(model)).specs)
    assert sum(counts[name] for name in once) == ours
