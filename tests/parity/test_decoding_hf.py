"""Tokens equal to those of transformers' generate, for greedy and beam search."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_twins import Twin, make_batch, make_twin

from t5x_ext.decoding import Beam, Greedy, Method
from t5x_ext.decoding.loop import decode_batch
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.decoding.sampling import filter_scores
from t5x_ext.models import EncoderDecoderModel
from t5x_ext.models.network import Transformer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

EOS = 1
LENGTH = 12


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    """A random model that often, but not always, finds EOS likely."""
    made = make_twin("lm_adapt", tmp_path_factory.mktemp("decoding"))
    with torch.no_grad():
        made.torch_model.lm_head.weight[EOS] *= 2.5
    kernel = jnp.asarray(made.params["decoder"]["logits_dense"]["kernel"])
    made.params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, EOS].multiply(2.5)
    return made


@pytest.fixture(scope="module")
def inputs(twin: Twin) -> np.ndarray:
    """Twenty prompts, padded."""
    vocab_size = twin.source.config.vocab_size
    batches = [make_batch(vocab_size, seed)["encoder_input_tokens"] for seed in range(4)]
    return np.concatenate(batches)


def generate(twin: Twin, inputs: np.ndarray, **settings) -> np.ndarray:
    """transformers' tokens, [B, LENGTH], zeros after EOS."""
    tokens = torch.from_numpy(inputs).long()
    settings = {"do_sample": False, "max_new_tokens": LENGTH} | settings
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about flags that a method does not use
        made = twin.torch_model.generate(
            input_ids=tokens, attention_mask=(tokens > 0).long(), **settings
        )
    made = made.numpy()[:, 1:]  # without the start token
    rows = np.zeros((len(made), LENGTH), np.int32)
    rows[:, : made.shape[1]] = made
    # After EOS, transformers fills with EOS in beam search and with 0 in greedy search.
    return np.where(np.cumsum(rows == EOS, axis=1) - (rows == EOS) > 0, 0, rows)


def decode(twin: Twin, inputs: np.ndarray, method: Method) -> np.ndarray:
    cfg = twin.source.config
    generator = EncoderDecoderModel(Transformer(cfg)).generator
    ids = OutputIds((EOS,), cfg.vocab_size)
    run = jax.jit(lambda params, x, n: decode_batch(generator, params, x, n, LENGTH, ids, method))
    return np.asarray(run(twin.params, inputs, (inputs > 0).sum(axis=1)))


def lengths(rows: np.ndarray) -> np.ndarray:
    return (rows != 0).sum(axis=1)


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({}, {}),
        ({"min_length": 5}, {"min_new_tokens": 5}),
        (
            {"forced_prefix": (7,), "forced_eos": True},
            {"forced_bos_token_id": 7, "forced_eos_token_id": EOS},
        ),
    ],
)
def test_greedy(twin, inputs, fields, settings) -> None:
    expected = generate(twin, inputs, **settings)
    assert len(set(lengths(expected))) > 2
    assert (decode(twin, inputs, Greedy(**fields)) == expected).all()


BEAMS = [
    dict(num_beams=1, length_penalty=1.0),
    dict(num_beams=2, length_penalty=1.0),
    dict(num_beams=4, length_penalty=0.0),
    dict(num_beams=4, length_penalty=1.0, early_stopping=True),
    dict(num_beams=4, length_penalty=0.5, early_stopping="never"),
    dict(num_beams=5, length_penalty=-1.0),
    dict(num_beams=3, length_penalty=0.6, min_length=4),
    dict(num_beams=3, length_penalty=1.5, forced_prefix=(7,), forced_eos=True),
]
NAMES = {"min_length": "min_new_tokens"}


@pytest.mark.slow(but="4-1.0-True")
@pytest.mark.parametrize("fields", BEAMS, ids=lambda fields: "-".join(map(str, fields.values())))
def test_beam(twin, inputs, fields) -> None:
    settings = {NAMES.get(name, name): value for name, value in fields.items()}
    if settings.pop("forced_prefix", None):
        settings |= {"forced_bos_token_id": 7}
        settings |= {"forced_eos_token_id": EOS} if settings.pop("forced_eos") else {}
    expected = generate(twin, inputs, **settings)
    assert len(set(lengths(expected))) > 1
    assert (decode(twin, inputs, Beam(style="hf", **fields)) == expected).all()


def test_filters_keep_what_transformers_keeps() -> None:
    """Temperature, then top-k, then top-p."""
    scores = np.random.default_rng(0).normal(size=(50, 300)).astype(np.float32) * 3
    for temperature, top_k, top_p in ((0.5, 0, 0.9), (1.0, 20, 1.0), (1.5, 40, 0.7), (1.0, 1, 0.2)):
        theirs = torch.from_numpy(scores / np.float32(temperature))
        if top_k:
            theirs = transformers.TopKLogitsWarper(top_k)(None, theirs)
        if top_p < 1:
            theirs = transformers.TopPLogitsWarper(top_p)(None, theirs)
        ours = filter_scores(scores / np.float32(temperature), top_k, top_p)
        assert (np.isfinite(ours) == np.isfinite(theirs.numpy())).all()
