"""Decoder-only models of transformers, in and out: the same tensors, logits and tokens."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_only_twins import VARIANTS, greedy_tokens, make_model, make_pairs, save, token_logits

from t5x_ext.checkpoints import load_params, open_source
from t5x_ext.checkpoints.hugging_face import write_hf
from t5x_ext.convert import convert
from t5x_ext.decoding.loop import decode_batch
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.models.decoder_only import DecoderOnlyModel
from t5x_ext.models.network import Transformer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "specialization" / "goldens"


def our_logits(directory: Path, rows: list[list[int]]) -> list[np.ndarray]:
    """Logits of every token, the rows padded to one batch."""
    model = DecoderOnlyModel(module=Transformer(open_source(str(directory)).config))
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    segments = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        segments[index, : len(row)] = 1
    batch = {"decoder_input_tokens": jnp.array(ids), "decoder_segment_ids": jnp.array(segments)}
    logits = np.asarray(model.logits(load_params(str(directory)), batch))
    return [values[: len(row)] for values, row in zip(logits, rows, strict=True)]


def our_greedy_tokens(directory: Path, prompts: list[list[int]], count: int) -> list[list[int]]:
    """New tokens of each prompt, decoded as one batch with a cache; none ends a row."""
    config = open_source(str(directory)).config
    generator = DecoderOnlyModel(module=Transformer(config)).generator
    ids = OutputIds(eos=(-1,), num_valid=config.vocab_size)
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    padded = np.zeros((len(prompts), lengths.max()), np.int32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    decode = jax.jit(lambda params, x, n: decode_batch(generator, params, x, n, count, ids))
    return np.asarray(decode(load_params(str(directory)), padded, lengths)).tolist()


@pytest.fixture(scope="module", params=list(VARIANTS))
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A random model of transformers, and the directory it was saved in."""
    model = make_model(request.param)
    return model, save(model, tmp_path_factory.mktemp(request.param))


def test_logits_are_those_of_transformers(twin) -> None:
    model, directory = twin
    rows = [pair.prompt + pair.response for pair in make_pairs(model.config.vocab_size)]
    for ours, theirs in zip(our_logits(directory, rows), token_logits(model, rows), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_64_greedy_tokens_are_those_of_transformers(twin) -> None:
    model, directory = twin
    prompts = [pair.prompt for pair in make_pairs(model.config.vocab_size)][:3]
    assert our_greedy_tokens(directory, prompts, 64) == greedy_tokens(model, prompts, 64)


@pytest.mark.parametrize("sharded", [False, True])
def test_there_and_back_every_tensor_keeps_its_bits(twin, sharded, tmp_path) -> None:
    """transformers -> ours on disk -> transformers; and the model still computes the same."""
    model, directory = twin
    if sharded:
        directory = save(model, tmp_path / "sharded", sharded=True)
    convert(str(directory), str(tmp_path / "ours"), "t5x_ext")
    write_hf(
        open_source(str(tmp_path / "ours")),
        str(tmp_path / "back"),
        max_file_bytes=20_000 if sharded else 1 << 40,
    )
    assert (tmp_path / "back" / "model.safetensors.index.json").is_file() == sharded
    back, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    before, after = model.state_dict(), back.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    rows = [pair.prompt for pair in make_pairs(model.config.vocab_size)]
    for one, other in zip(token_logits(model, rows), token_logits(back, rows), strict=True):
        np.testing.assert_array_equal(one, other)
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(back.config, token) == getattr(model.config, token)


@pytest.mark.parametrize("family", ["llama", "mpt"])
def test_golden_models_have_the_golden_logits(family: str) -> None:
    if not (GOLDENS / "forward.jsonl").is_file():
        pytest.skip(f"goldens of decoder-only models not found at {GOLDENS}")
    rows = map(json.loads, (GOLDENS / "forward.jsonl").read_text().splitlines())
    rows = [row for row in rows if row["model"] == family]
    assert len(rows) == 3
    found = our_logits(GOLDENS / "models" / family, [row["input_ids"] for row in rows])
    for row, logits in zip(rows, found, strict=True):
        np.testing.assert_allclose(logits[-1], row["last_logits"], atol=1e-5, rtol=0)
        assert logits.argmax(-1).tolist() == row["argmax_each_position"]
