"""Decoder-only decoding: equal to teacher forcing, alone and in any batch, on every family."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from mixtures.vocabularies import bundled_vocabulary
from t5x_ext import Model
from t5x_ext.decoding import Beam, Greedy, Sampling
from t5x_ext.errors import ConfigError
from t5x_ext.models.falcon import FalconConfig
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.mpt import MptConfig
from t5x_ext.models.network import T5Config, Transformer
from t5x_ext.partitioning import PjitPartitioner

SHAPE = {"vocab_size": 64, "emb_dim": 48, "num_layers": 2, "head_dim": 8, "mlp_dim": 64}
CONFIGS = {
    "llama": LlamaConfig(num_heads=6, num_kv_heads=2, **SHAPE),
    "llama_3": LlamaConfig(
        num_heads=6, num_kv_heads=6, rope_scaling_factor=8.0, rope_original_length=16, **SHAPE
    ),
    "mpt": MptConfig(num_heads=6, num_kv_heads=6, clip_qkv=1.0, **SHAPE),
    "falcon_7b": FalconConfig(num_heads=6, num_kv_heads=1, **SHAPE),
    "falcon_40b": FalconConfig(num_heads=6, num_kv_heads=3, shared_norm=False, **SHAPE),
}
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(0, 64, n).tolist() for n in (5, 1, 9, 3, 14, 2, 7)]
EOS = (1, 7)


def make(family: str, partitioner: PjitPartitioner | None = None) -> Model:
    network = Transformer(CONFIGS[family])
    # Sharper than random weights are, so that rows end at different places.
    params = jax.tree.map(lambda x: x * (2.0 if x.ndim > 1 else 1), network.init(jax.random.key(0)))
    partitioner = partitioner or PjitPartitioner(devices=jax.devices()[:1])
    return Model(CONFIGS[family], params, None, partitioner)


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Model:
    return make(request.param)


@pytest.mark.slow(but="llama_3")
def test_greedy_tokens_are_the_best_of_teacher_forcing(model: Model) -> None:
    outputs = model.generate_tokens(PROMPTS, 12, eos_ids=EOS)
    whole = [prompt + output for prompt, output in zip(PROMPTS, outputs, strict=True)]
    for prompt, output, logits in zip(PROMPTS, outputs, model.token_logits(whole), strict=True):
        best = logits.argmax(axis=-1)[len(prompt) - 1 :]
        assert best[: len(output)].tolist() == output
        assert len(output) == 12 or best[len(output)] in EOS


@pytest.mark.slow(but="falcon_7b-3")
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_row_does_not_depend_on_its_batch(model: Model, batch_size: int) -> None:
    for method in (None, Beam(num_beams=3, style="hf"), Sampling(temperature=1.5, num_samples=2)):
        expected = model.generate_tokens(PROMPTS, 10, method, EOS)
        assert model.generate_tokens(PROMPTS, 10, method, EOS, batch_size) == expected


@pytest.mark.slow(but="falcon_7b")
def test_logits_do_not_depend_on_the_rows_beside(model: Model) -> None:
    together = model.token_logits(PROMPTS)
    for prompt, logits in zip(PROMPTS, together, strict=True):
        (alone,) = model.token_logits([prompt], batch_size=1)
        assert alone.shape == (len(prompt), 64) and alone.dtype == np.float32
        np.testing.assert_allclose(logits, alone, atol=2e-5 * np.abs(alone).max())


@pytest.mark.parametrize("family", ["llama", "mpt"])
def test_a_mesh_decodes_as_one_device(family: str) -> None:
    expected = make(family).generate_tokens(PROMPTS, 10, eos_ids=EOS)
    model = make(family, PjitPartitioner(data=2, fsdp=2, model=2))
    assert model.generate_tokens(PROMPTS, 10, eos_ids=EOS) == expected


def test_without_an_eos_rows_go_on_to_the_limit() -> None:
    assert {len(row) for row in make("llama").generate_tokens(PROMPTS, 9)} == {9}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[]], "row 0 is not a list of token ids"),
        ([[1], [64]], "row 1 has id 64; allowed: 0 to 63"),
        ([[1, -2]], "row 0 has id -2"),
        ([["a"]], "row 0 is not a list of token ids"),
    ],
)
def test_wrong_ids_are_one_line(rows, message: str) -> None:
    model = make("llama")
    for call in (model.token_logits, model.generate_tokens):
        with pytest.raises(ConfigError, match=message):
            call(rows)


def test_a_text_without_a_token_is_one_line_that_numbers_it() -> None:
    """As without a BOS; such a row would pass for filler of its batch."""
    config = CONFIGS["llama"].replace(vocab_size=bundled_vocabulary().vocab_size)
    one = PjitPartitioner(devices=jax.devices()[:1])
    model = Model(config, {}, bundled_vocabulary(), one)
    assert len(model._described.features.prompt_tokens(model.vocabulary, "")) == 0
    for call in (
        lambda prompts: model.generate(prompts),
        lambda prompts: model.generate_outputs(prompts, 4),
        lambda prompts: model.score(prompts, ["yes"] * 3),
    ):
        with pytest.raises(
            ConfigError, match="^Model: prompt 1 has no token, .*allowed: 1"
        ) as raised:
            call(["a", "", "b"])
        assert "\n" not in str(raised.value)


def test_a_score_is_held_to_the_context() -> None:
    config = CONFIGS["llama"].replace(vocab_size=bundled_vocabulary().vocab_size, max_length=8)
    one = PjitPartitioner(devices=jax.devices()[:1])
    model = Model(config, {}, bundled_vocabulary(), one)
    with pytest.raises(
        ConfigError,
        match=r"^Model: a prompt of \d+ tokens and \d+ of its answer; allowed: 8 in all",
    ):
        model.score(["Is it a cat?"], ["It is a red box, and no cat."])


def test_a_forced_end_needs_an_id_that_is_one() -> None:
    for method in (Greedy(forced_eos=True), Beam(num_beams=2, style="hf", forced_eos=True)):
        with pytest.raises(ConfigError, match=r"forced_eos: True; allowed: False where no id ends"):
            make("llama").generate_tokens(PROMPTS, 4, method)
    ends = make("llama").generate_outputs(PROMPTS, 4, Greedy(forced_eos=True), EOS)
    assert {output.finish for output in ends} == {"eos"}


def test_calls_with_text_need_a_vocabulary_and_token_logits_a_decoder_alone() -> None:
    with pytest.raises(ConfigError, match="has no vocabulary"):
        make("llama").generate(["x"])
    config = T5Config(vocab_size=64, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32)
    t5 = Model(config, {}, None, PjitPartitioner())
    with pytest.raises(ConfigError, match="a t5 model reads prompts in its encoder"):
        t5.token_logits([[1]])
