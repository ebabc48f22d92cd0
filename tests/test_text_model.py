"""The Python API: any layout in, text and probabilities out, any layout back."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixtures.errors import DataError
from mixtures.vocabularies import bundled_vocabulary, byt5_vocabulary
from t5x_ext import Model
from t5x_ext.checkpoints import save_params
from t5x_ext.decoding import Beam, Sampling
from t5x_ext.errors import ConfigError
from t5x_ext.models import EncoderDecoderModel, network, parameters
from t5x_ext.partitioning import PjitPartitioner

PROMPTS = [
    "Definition: Say yes or no. input: Is it a cat? output: ",
    "a",
    "",
    "It was a red box. " * 9,
]
TARGETS = ["yes", "no", "a red box", "it"]
# More rows than the vocabulary's 768 ids, as T5 has 32128 rows for 32100 ids.
CONFIG = network.T5Config(
    vocab_size=896,
    emb_dim=32,
    num_heads=4,
    num_encoder_layers=2,
    num_decoder_layers=2,
    head_dim=8,
    mlp_dim=64,
    mlp_activations=("gelu", "linear"),
)
MODEL = EncoderDecoderModel(network.Transformer(CONFIG))


def random_model(config: network.T5Config = CONFIG, vocabulary=None, seed: int = 0) -> Model:
    """A model with random parameters, far enough from zero to prefer some tokens."""
    values = parameters.init_params(network.Transformer(config).specs, jax.random.key(seed))
    return Model(config, values, vocabulary or bundled_vocabulary(), PjitPartitioner())


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory) -> dict[str, Path]:
    """The model in each layout."""
    folder = tmp_path_factory.mktemp("saved")
    for layout in ("t5x_ext", "hf", "t5x"):
        model.save(str(folder / layout), layout)
    return {layout: folder / layout for layout in ("t5x_ext", "hf", "t5x")}


@pytest.mark.parametrize("layout", ["t5x_ext", "hf", "t5x"])
def test_every_layout_gives_the_same_model_back(layout, model, saved):
    loaded = Model.load(str(saved[layout]))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)
    assert dataclasses.replace(loaded.config, dropout_rate=0.1) == model.config
    assert loaded.vocabulary.fingerprint == model.vocabulary.fingerprint
    assert loaded.vocabulary.vocab_size == model.vocabulary.vocab_size


def test_transformers_generates_and_scores_the_same(model, saved):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(saved["hf"]))
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(str(saved["hf"])).eval()
    inputs = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    # Padding rows of the embedding have no token: neither side may produce one.
    unused = [[token] for token in range(model.vocabulary.vocab_size, CONFIG.vocab_size)]
    with torch.no_grad():
        answers = theirs.generate(
            **inputs, max_new_tokens=12, do_sample=False, num_beams=1, bad_words_ids=unused
        )
        labels = tokenizer(TARGETS, return_tensors="pt", padding=True).input_ids
        logits = theirs(**inputs, labels=labels).logits.log_softmax(-1)
        chosen = logits.gather(-1, labels[..., None])[..., 0]
        expected = (chosen * (labels != 0)).sum(-1).numpy()
    decoded = [model.vocabulary.decode(row[1:].tolist()) for row in answers]
    ours = model.generate(PROMPTS, max_new_tokens=12)
    assert ours == decoded and len(set(ours)) > 1
    np.testing.assert_allclose(model.score(PROMPTS, TARGETS), expected, atol=2e-4)


def test_padding_rows_of_the_embedding_are_never_generated(model):
    """T5 has 32128 rows for 32100 ids. Here those rows are made the most probable ones by far."""
    kernel, size = model.params["decoder"]["logits_dense"]["kernel"], model.vocabulary.vocab_size
    # One of these columns fits the hidden state, the other its opposite.
    loud = 100 * jnp.stack([kernel[:, 5], -kernel[:, 5]], axis=1)
    kernel = kernel.at[:, size : size + 2].set(loud)
    decoder = {**model.params["decoder"], "logits_dense": {"kernel": kernel}}
    changed = dataclasses.replace(model, params={**model.params, "decoder": decoder})
    prompt = MODEL.features.prompt_tokens(model.vocabulary, PROMPTS[0])[None]
    batch = {
        "encoder_input_tokens": prompt,
        "encoder_segment_ids": np.ones_like(prompt),
        "decoder_input_tokens": np.zeros((1, 1), np.int32),
        "decoder_segment_ids": np.ones((1, 1), np.int32),
    }
    assert MODEL.logits(changed.params, batch).argmax() >= size
    assert changed.generate(PROMPTS, 12) == model.generate(PROMPTS, 12)


@pytest.mark.slow
def test_answers_and_scores_do_not_depend_on_the_batch_or_the_mesh(model, saved):
    answers, scores = model.generate(PROMPTS, 12), model.score(PROMPTS, TARGETS)
    assert scores.shape == (4,) and scores.dtype == np.float32 and np.all(scores < 0)
    one_device = PjitPartitioner(devices=jax.devices()[:1])
    for batch_size, partitioner in ((3, PjitPartitioner(fsdp=4)), (1, one_device)):
        loaded = Model.load(str(saved["hf"]), partitioner=partitioner)
        assert loaded.generate(PROMPTS, 12, batch_size) == answers
        again = loaded.score(PROMPTS, TARGETS, batch_size)
        np.testing.assert_allclose(again, scores, rtol=1e-5)
    assert model.generate([]) == [] and model.score([], []).shape == (0,)


def test_other_ways_of_decoding(model, saved):
    sampled = model.generate(PROMPTS, 12, decoding=Sampling(temperature=2.0, seed=1))
    assert sampled == model.generate(PROMPTS, 12, 1, decoding=Sampling(temperature=2.0, seed=1))
    assert sampled != model.generate(PROMPTS, 12, decoding=Sampling(temperature=2.0, seed=2))
    beams = model.generate(PROMPTS, 12, decoding=Beam(num_beams=4))
    greedy = model.generate(PROMPTS, 12)
    assert beams != greedy
    # What a wider search finds is at least as probable, up to the reward for length.
    gain = model.score(PROMPTS, beams) - model.score(PROMPTS, greedy)
    assert gain.mean() > 0


@pytest.mark.slow
def test_score_is_the_sum_over_the_tokens_of_the_target(model):
    """Each token's probability, read off one long forward pass."""
    inputs = MODEL.features.prompt_tokens(model.vocabulary, PROMPTS[0])
    target = MODEL.features.target_tokens(model.vocabulary, TARGETS[0])
    batch = {
        "encoder_input_tokens": inputs[None],
        "encoder_segment_ids": np.ones_like(inputs)[None],
        "decoder_segment_ids": np.ones_like(target)[None],
        "decoder_input_tokens": np.concatenate([[0], target[:-1]])[None],
    }
    logits = MODEL.logits(model.params, batch)[0]
    expected = jax.nn.log_softmax(logits)[np.arange(len(target)), target].sum()
    np.testing.assert_allclose(model.score(PROMPTS[:1], TARGETS[:1])[0], expected, rtol=1e-5)


def test_dtype_is_that_of_parameters_and_computation(saved, model):
    half = Model.load(str(saved["hf"]), dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype("bfloat16")}
    assert half.config.dtype == "bfloat16"
    np.testing.assert_allclose(
        half.score(PROMPTS, TARGETS), model.score(PROMPTS, TARGETS), rtol=0.02
    )
    with pytest.raises(ConfigError, match="dtype: 'float16'; allowed: float32, bfloat16"):
        Model.load(str(saved["hf"]), dtype="float16")


def test_a_long_prompt_is_cut_with_a_warning(model):
    long = "It was a red box. " * 9
    with pytest.warns(UserWarning, match="1 of 2 prompts have more than max_input_tokens=16") as w:
        cut, other = model.score([long, "a"], ["yes", "yes"], max_input_tokens=16)
    assert len(w) == 1 and w[0].filename == __file__
    kept = model.vocabulary.decode(model.vocabulary.encode(long)[:15])
    expected = model.score([kept, "a"], ["yes", "yes"])
    np.testing.assert_allclose([cut, other], expected, rtol=1e-5)


@pytest.mark.slow
def test_byt5_travels_with_its_bytes(tmp_path):
    config = dataclasses.replace(CONFIG, vocab_size=384, num_encoder_layers=3)
    model = random_model(config, byt5_vocabulary())
    for layout in ("hf", "t5x_ext"):
        model.save(str(tmp_path / layout), layout)
        loaded = Model.load(str(tmp_path / layout))
        assert loaded.vocabulary == byt5_vocabulary()
        jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)
    assert model.score(["ä{}\n"], ["\n"]) != model.score(["ä{}\n"], [" "])


def test_mistakes_are_one_line(model, saved, tmp_path):
    def load_without(**meta: object) -> Model:
        path = tmp_path / f"params{len(list(tmp_path.iterdir()))}"
        save_params(str(path), model.params, {"step": 3, **meta})
        return Model.load(str(path))

    stated = {"t5_config": dataclasses.asdict(CONFIG)}
    for mistake, message in (
        (lambda: Model.load(str(tmp_path / "none")), "no such directory"),
        (lambda: load_without(), "does not state its model's shape"),
        (lambda: load_without(**stated).generate(["x"]), "give Model.load vocabulary"),
        (lambda: Model.load(str(saved["hf"]), vocabulary="none.model"), "file not found"),
        (lambda: model.generate("one text"), "allowed: a list of texts"),
        (
            lambda: model.generate([{"role": "user", "content": "x"}]),
            "prompts is one chat; allowed: a list of texts or chats",
        ),
        (lambda: model.score(["a", "b"], ["c"]), "1 targets for 2 prompts"),
        (lambda: model.save(str(tmp_path / "x"), "torch"), "allowed: t5x_ext, hf, t5x"),
        (lambda: model.save(str(saved["hf"]), "hf"), str(saved["hf"])),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            mistake()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_a_vocabulary_may_be_given_by_path(model, saved):
    path = bundled_vocabulary().path
    for given in (path, Path(path)):
        loaded = Model.load(str(saved["t5x_ext"]), vocabulary=given)
        assert loaded.vocabulary.fingerprint == model.vocabulary.fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": None}, "path: None; allowed: a path"),
        ({"path": "https://huggingface.co/a/b"}, "path: 'https://.*allowed: a local path, or gs:"),
        ({"adapter": 5}, "Model.load: adapter: 5; allowed: a directory"),
        ({"adapter": "xx://a"}, "path: 'xx://a'; allowed: a local path, or gs:"),
        ({"adapters": "runs/law"}, "adapters: 'runs/law'; allowed: directories by name"),
        ({"adapters": {1: "runs/law"}}, "adapters: {1: 'runs/law'}; allowed: directories by name"),
        ({"adapters": {"law": None}}, r"adapters\['law'\]: None; allowed: a directory"),
        ({"vocabulary": 5}, "Model.load: vocabulary: 5; allowed: a path or a vocabulary"),
        ({"dtype": None}, "Model.load: dtype: None; allowed: float32, bfloat16$"),
    ],
)
def test_arguments_of_other_types_are_refused(saved, arguments: dict, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        Model.load(**{"path": str(saved["hf"])} | arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_neither_tensorflow_nor_seqio_is_imported(saved):
    code = (
        "import sys, t5x_ext\n"
        "assert 'jax' not in sys.modules\n"
        f"model = t5x_ext.Model.load({str(saved['hf'])!r})\n"
        "print(len(model.generate(['a', 'b'], 4)))\n"
        "print([m for m in ('tensorflow', 'seqio', 'torch', 'transformers') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.split("\n")[:2] == ["2", "[]"]


WRONG_TEXTS = {
    "none": (None, "is NoneType"),
    "number": (7, "is int"),
    "bytes": (b"a", "is bytes"),
    "one text": ("a", "is str"),
    "numbers": ([1], r"\[0\] is int"),
    "none inside": (["a", None], r"\[1\] is NoneType"),
    "surrogate": (["a\ud800"], r"\[0\] has half of a surrogate pair"),
}


@pytest.mark.parametrize("case", WRONG_TEXTS)
def test_what_is_no_list_of_texts_is_refused(model, case: str) -> None:
    given, message = WRONG_TEXTS[case]
    with pytest.raises(ConfigError, match=f"Model: prompts ?{message}"):
        model.generate(given)
    with pytest.raises(ConfigError, match=f"Model: targets ?{message}"):
        model.score(["a", "b"], given)


@pytest.mark.parametrize("value", [0, -1, 1.5, None, 1 << 70, True])
@pytest.mark.parametrize("name", ["max_new_tokens", "batch_size", "max_input_tokens"])
def test_counts_out_of_range_are_refused(model, name: str, value) -> None:
    if name == "max_input_tokens" and value is None:
        pytest.skip("None cuts no prompt")
    with pytest.raises(ConfigError, match=f"Model.*: {name}: .*; allowed: 1 to 1,048,576"):
        model.generate(["a"], **{name: value})


@pytest.mark.parametrize("decoding", ["beam", Beam, 4, False])
def test_decoding_is_a_method(model, decoding) -> None:
    with pytest.raises(ConfigError, match="Model: decoding: .*; allowed: Greedy"):
        model.generate(["a"], decoding=decoding)


def test_prompts_may_be_a_generator(model) -> None:
    texts = ["a", "b"]
    assert model.generate((text for text in texts), 4) == model.generate(texts, 4)
    scores = model.score(iter(texts), (target for target in ("x", "y")))
    np.testing.assert_array_equal(scores, model.score(texts, ["x", "y"]))
