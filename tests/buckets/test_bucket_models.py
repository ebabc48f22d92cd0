"""Models in a bucket: loaded, saved, converted, inspected and given adapters as on a local disk."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from mixtures.vocabularies import bundled_vocabulary
from t5x_ext import Model, convert, files
from t5x_ext import inspect_checkpoint as inspect
from t5x_ext.checkpoints import open_source, peft, trees
from t5x_ext.checkpoints.fingerprints import fingerprint_base
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.network import T5Config, Transformer
from t5x_ext.partitioning import PjitPartitioner

pytestmark = pytest.mark.slow
SHAPE = {"vocab_size": 768, "emb_dim": 32, "num_heads": 2, "head_dim": 16, "mlp_dim": 48}
CONFIGS: dict[str, ModelConfig] = {
    "t5": T5Config(**SHAPE, num_encoder_layers=1, num_decoder_layers=1),
    "llama": LlamaConfig(**SHAPE, num_layers=2, num_kv_heads=1),
}
PROMPTS = ["Is it a cat?", "a red box"]


def make(family: str) -> Model:
    network = Transformer(CONFIGS[family])
    partitioner = PjitPartitioner(devices=jax.devices()[:1])
    params = network.init(jax.random.key(0))
    return Model(CONFIGS[family], params, bundled_vocabulary(), partitioner)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, where a bucket's name taken for a local one would show."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("family", "layout"), [("t5", "t5x_ext"), ("t5", "hf"), ("t5", "t5x"), ("llama", "hf")]
)
def test_a_model_goes_to_a_bucket_and_comes_back(
    family: str, layout: str, bucket: str, here: Path
) -> None:
    model = make(family)
    model.save(f"{bucket}/saved", layout)
    loaded = Model.load(f"{bucket}/saved")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)
    assert loaded.generate(PROMPTS, 4) == model.generate(PROMPTS, 4)
    assert not list(here.iterdir())


def test_what_is_converted_from_bucket_to_bucket_is_what_a_disk_gives(
    bucket: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("llama").save(f"{bucket}/own")
    for place in (bucket, str(here)):
        assert convert.main(["--to", "hf", f"{bucket}/own", f"{place}/hf"]) == 0
        assert convert.main(["--to", "t5x_ext", f"{place}/hf", f"{place}/again"]) == 0
    names = sorted(path.name for path in (here / "hf").iterdir())
    assert files.names_in(f"{bucket}/hf") == names
    assert files.names_in(bucket) == ["again", "hf", "own"]  # nothing unfinished
    sources = [open_source(path) for path in (f"{bucket}/again", str(here / "again"))]
    assert sources[0].digest == sources[1].digest
    capsys.readouterr()
    shown = []
    for place in (bucket, str(here)):
        assert inspect.main([f"{place}/hf", "--json"]) == 0
        shown.append(json.loads(capsys.readouterr().out.replace(place, "PLACE")))
    assert shown[0] == shown[1] and shown[0]["kind"] == "hf"


def test_an_adapter_in_a_bucket_is_that_of_a_disk(bucket: str, here: Path) -> None:
    base, lora = make("llama"), LoRA(rank=2)
    base.save(f"{bucket}/base")
    tree = Transformer(base.config, lora).trainable
    flat = jax.tree.map(lambda spec: spec.shape, tree, is_leaf=lambda x: hasattr(x, "axes"))
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        flat,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    fingerprint = fingerprint_base(open_source(f"{bucket}/base"))
    for place in (f"{bucket}/adapter", str(here / "adapter")):
        stored = peft.StoredAdapter(lora, params, f"{bucket}/base", fingerprint)
        peft.write(place, base.config, stored)
    assert files.names_in(f"{bucket}/adapter") == files.names_in(here / "adapter")
    found = peft.read(f"{bucket}/adapter", base.config)
    assert trees.named_leaves(found.params).keys() == trees.named_leaves(params).keys()
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    models = [
        Model.load(f"{bucket}/base", adapter=place)
        for place in (f"{bucket}/adapter", str(here / "adapter"))
    ]
    answers = [model.generate_tokens([[5, 9, 3]], 6) for model in models]
    assert answers[0] == answers[1]
    plain = dataclasses.replace(base).token_logits([[5, 9, 3]])[0]
    assert np.abs(models[0].token_logits([[5, 9, 3]])[0] - plain).max() > 1e-3
