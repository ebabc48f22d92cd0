"""SmolLM2 out of its GGUF file: the tokens, log-probabilities and answers of transformers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixtures.vocabularies import open_vocabulary
from t5x_ext.checkpoints import load_params, open_source
from t5x_ext.decoding.loop import decode_batch
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.models.decoder_only import DecoderOnlyModel
from t5x_ext.models.network import Transformer

pytestmark = pytest.mark.smollm2

REPO = Path(__file__).resolve().parents[2]
DIRECTORY = Path(os.environ.get("T5X_EXT_SMOLLM2", REPO / "downloads" / "smollm2"))
SUPERNI = REPO.parent / "shared" / "superni"
NEW_TOKENS = 48
INSTRUCTIONS = (
    "What is the capital of France?",
    "Name three fruits.",
    "Write one sentence about the sea.",
    "Is 17 a prime number?",
    "Give the opposite of 'cold'.",
    "Translate 'good morning' into French.",
    "Which is larger, the sun or the moon?",
    "List the days of the week.",
    "What do bees make?",
    "Say hello.",
)
ALPACA = "### Instruction:\n{}\n\n### Response:\n"


@pytest.fixture(scope="module")
def twin():
    """The model and tokenizer of transformers."""
    if not (DIRECTORY / "config.json").is_file():
        pytest.skip(f"SmolLM2 not found at {DIRECTORY}: run `make smollm2`, or set T5X_EXT_SMOLLM2")
    pytest.importorskip("torch").set_num_threads(1)  # its threads spin on few cores
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(DIRECTORY)
    return transformers.AutoModelForCausalLM.from_pretrained(DIRECTORY).eval(), tokenizer


@pytest.fixture(scope="module")
def ours(twin):
    """Our model and its parameters."""
    model = DecoderOnlyModel(module=Transformer(open_source(str(DIRECTORY)).config))
    return model, load_params(str(DIRECTORY))


def prompts(tokenizer) -> list[list[int]]:
    """Twenty: each instruction as a chat and in Alpaca's form."""
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in INSTRUCTIONS
    ]
    return chats + [tokenizer(ALPACA.format(text))["input_ids"] for text in INSTRUCTIONS]


def test_answers_are_those_of_transformers_alone_and_in_a_batch(twin, ours) -> None:
    import torch

    reference, tokenizer = twin
    model, params = ours
    rows = prompts(tokenizer)
    eos = tokenizer.eos_token_id
    wanted = []
    for row in rows:
        made = reference.generate(
            torch.tensor([row]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=eos
        )
        wanted.append([token for token in made[0, len(row) :].tolist() if token != eos])
    ids = OutputIds(eos=(eos,), num_valid=model.module.config.vocab_size)
    decode = jax.jit(
        lambda params, x, n: decode_batch(model.generator, params, x, n, NEW_TOKENS, ids)
    )
    width = max(map(len, rows))
    padded = np.array([row + [0] * (width - len(row)) for row in rows], np.int32)
    lengths = np.array([len(row) for row in rows], np.int32)

    def answers(x: np.ndarray, n: np.ndarray) -> list[list[int]]:
        found = np.asarray(decode(params, x, n)).tolist()
        return [row[: row.index(eos)] if eos in row else row for row in found]

    assert answers(padded, lengths) == wanted
    for index in (0, len(rows) - 1):
        one = slice(index, index + 1)
        assert answers(padded[one, : lengths[index]], lengths[one]) == wanted[one]
    assert "Paris" in tokenizer.decode(wanted[0])


def test_log_probabilities_are_those_of_transformers(twin, ours) -> None:
    import torch

    reference, tokenizer = twin
    model, params = ours
    row = prompts(tokenizer)[0]
    tokens = jnp.array([row])
    batch = {"decoder_input_tokens": tokens, "decoder_segment_ids": jnp.ones_like(tokens)}
    found = np.asarray(jax.nn.log_softmax(model.logits(params, batch)))[0]
    with torch.no_grad():
        wanted = reference(torch.tensor([row])).logits.log_softmax(-1)[0].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def real_texts() -> list[str]:
    """A thousand inputs of the benchmark's tasks."""
    files = sorted(SUPERNI.rglob("*.json"))
    if not files:
        pytest.skip(f"SuperNI tasks not found at {SUPERNI}")
    texts = [
        instance["input"]
        for file in files
        for task in [json.loads(file.read_text())]
        if isinstance(task, dict)
        for instance in task.get("Instances", [])[:20]
    ][:1000]
    assert len(texts) == 1000
    return texts


def test_real_texts_have_the_ids_of_transformers_and_come_back(twin, real_texts) -> None:
    _, tokenizer = twin
    vocabulary = open_vocabulary(str(DIRECTORY))
    assert vocabulary.prefix_ids == () and vocabulary.eos_ids == (tokenizer.eos_token_id,)
    for text in real_texts:
        ids = vocabulary.encode(text)
        assert ids == tokenizer(text)["input_ids"]
        assert vocabulary.decode(ids) == text


def test_chats_have_the_text_and_ids_of_transformers(twin, real_texts) -> None:
    _, tokenizer = twin
    vocabulary = open_vocabulary(str(DIRECTORY))
    for text in (*INSTRUCTIONS, *real_texts[::50]):
        chat = [{"role": "user", "content": text}]
        rendered = vocabulary.chat_template.render(chat)
        wanted = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert vocabulary.encode(rendered) == wanted


def test_a_row_has_the_log_probabilities_it_has_in_a_batch_of_16(twin, ours) -> None:
    _, tokenizer = twin
    model, params = ours
    rows = prompts(tokenizer)[:16]
    width = max(map(len, rows))
    tokens = jnp.array([row + [0] * (width - len(row)) for row in rows])
    segments = jnp.array([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    batch = {"decoder_input_tokens": tokens, "decoder_segment_ids": segments}
    together = np.asarray(jax.nn.log_softmax(model.logits(params, batch)))
    for index in (0, 7, 15):
        alone = {"decoder_input_tokens": jnp.array([rows[index]])}
        alone["decoder_segment_ids"] = jnp.ones_like(alone["decoder_input_tokens"])
        found = np.asarray(jax.nn.log_softmax(model.logits(params, alone)))[0]
        # Products of another shape are summed in another order.
        np.testing.assert_allclose(together[index, : len(found)], found, atol=1e-3, rtol=0)
