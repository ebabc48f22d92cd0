"""The oracle of decoder-only models is sound: it agrees with goldens, itself and saved files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from decoder_only_twins import (
    EOS,
    VARIANTS,
    adamw_losses,
    greedy_tokens,
    loss_and_gradients,
    make_config,
    make_model,
    make_pairs,
    response_loss,
    save,
    token_logits,
    with_gradients_as_weights,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=list(VARIANTS))
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(variant: str):
    return make_model(variant)


@pytest.fixture(scope="module")
def goldens() -> Path:
    """Numbers of independent code, or a skip that says which directory was looked for."""
    path = REPO.parent / "shared" / "specialization" / "goldens"
    if not (path / "forward.jsonl").is_file():
        pytest.skip(f"goldens of decoder-only models not found at {path}")
    return path


@pytest.mark.parametrize("family", ["llama", "mpt"])
def test_a_golden_model_built_from_its_sizes_has_the_golden_logits(goldens, family) -> None:
    """The weights fit the config that we make, name by name, and the logits are the goldens'."""
    from safetensors.torch import load_file

    stated = json.loads((goldens / "models" / family / "config.json").read_text())
    if family == "llama":
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps")
        names += ("num_attention_heads", "num_key_value_heads", "rope_parameters")
    else:
        names = ("d_model", "n_layers", "n_heads", "max_seq_len", "layer_norm_epsilon")
    settings = {name: stated[name] for name in ("vocab_size", "tie_word_embeddings", *names)}
    built = transformers.AutoModelForCausalLM.from_config(make_config(family, **settings)).eval()
    weights = load_file(goldens / "models" / family / "model.safetensors")
    missing, unexpected = built.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}  # a tied head is not stored
    loaded = transformers.AutoModelForCausalLM.from_pretrained(goldens / "models" / family).eval()

    rows = map(json.loads, (goldens / "forward.jsonl").read_text().splitlines())
    rows = [row for row in rows if row["model"] == family]
    assert len(rows) == 3
    inputs = [row["input_ids"] for row in rows]
    for made in (built, loaded):
        for padding in ("right", "left"):
            found = token_logits(made, inputs, padding)
            for row, logits in zip(rows, found, strict=True):
                np.testing.assert_allclose(logits[-1], row["last_logits"], atol=1e-5, rtol=0)
                assert logits.argmax(-1).tolist() == row["argmax_each_position"]


def test_padding_changes_no_logits(variant, model) -> None:
    """On either side; so the oracle's masks and positions are those of each row alone."""
    rows = [pair.prompt + pair.response for pair in make_pairs(model.config.vocab_size)]
    alone = [token_logits(model, [row])[0] for row in rows]
    for padding in ("right", "left"):
        for one, other in zip(alone, token_logits(model, rows, padding), strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(other, one, atol=1e-4, rtol=0)
    assert np.std(alone[0]) > 0.3  # or equal logits would show little


def test_the_loss_is_the_mean_over_response_tokens(variant, model) -> None:
    pairs = make_pairs(model.config.vocab_size)
    terms = []
    for pair in pairs:
        logits = token_logits(model, [pair.prompt + pair.response])[0].astype(np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        start = len(pair.prompt) - 1
        terms += [log_probs[start + i, token] for i, token in enumerate(pair.response)]
    loss, gradients = loss_and_gradients(model, pairs)
    assert loss == pytest.approx(-np.mean(terms), abs=1e-4)
    assert all(np.abs(gradient).max() > 1e-4 for gradient in gradients.values())


def test_gradients_are_those_of_finite_differences(variant) -> None:
    """Along the gradient itself, where the loss falls by the gradient's squared norm."""
    changed = make_model(variant)
    pairs = make_pairs(changed.config.vocab_size)
    _, gradients = loss_and_gradients(changed, pairs)
    squares = sum(float(np.square(g, dtype=np.float64).sum()) for g in gradients.values())
    changed, losses = changed.double(), []
    start = [p.detach().clone() for p in changed.parameters()]
    step = 1e-4 / squares**0.5
    for sign in (1, -1):
        with torch.no_grad():
            for p, before, gradient in zip(
                changed.parameters(), start, gradients.values(), strict=True
            ):
                p.copy_(before + sign * step * torch.from_numpy(gradient))
            losses.append(response_loss(changed, pairs).item())
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(squares, rel=1e-3)


def test_64_greedy_tokens_are_the_best_of_teacher_forcing(variant, model) -> None:
    """Generated with a cache, judged without; no choice is so close that rounding decides it."""
    prompts = [pair.prompt for pair in make_pairs(model.config.vocab_size)][:3]
    answers = greedy_tokens(model, prompts, 64)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert len(answer) == 64
        logits = token_logits(model, [prompt + answer])[0][len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == answer
        best = np.sort(logits, axis=-1)
        assert (best[:, -1] - best[:, -2]).min() > 1e-4
    assert len({token for answer in answers for token in answer}) > 10  # not one over and over


def test_an_answer_ends_before_its_eos(model) -> None:
    prompts = [pair.prompt for pair in make_pairs(model.config.vocab_size)]
    whole = greedy_tokens(model, prompts, 16)
    end = whole[0][9]
    for full, cut in zip(whole, greedy_tokens(model, prompts, 16, eos_id=end), strict=True):
        assert cut == (full[: full.index(end)] if end in full else full)


def test_ten_adamw_steps_learn(variant) -> None:
    changed = make_model(variant)
    batches = [make_pairs(changed.config.vocab_size, seed % 2) for seed in range(10)]
    losses = adamw_losses(changed, batches, 1e-3, 0.01)
    assert losses[8] < losses[0] - 0.1 and losses[9] < losses[1] - 0.1


@pytest.mark.parametrize("sharded", [False, True])
def test_saved_directories_give_the_same_model(variant, model, sharded, tmp_path) -> None:
    save(model, tmp_path, sharded)
    assert (tmp_path / "model.safetensors.index.json").is_file() == sharded
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == sharded
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_gradients_are_saved_under_the_names_of_weights(variant, model, tmp_path) -> None:
    _, gradients = loss_and_gradients(model, make_pairs(model.config.vocab_size))
    save(with_gradients_as_weights(model), tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert gradients.keys() == {name for name, _ in loaded.named_parameters()}
    for name, weight in loaded.named_parameters():
        np.testing.assert_array_equal(weight.detach().numpy(), gradients[name])


def test_clipping_and_rope_scaling_matter() -> None:
    """Without them the logits differ; the variants would test nothing otherwise."""
    rows = [[EOS, *range(3, 90)]]
    for variant, change in (
        ("mpt_clip", lambda m: [setattr(b.attn, "clip_qkv", None) for b in m.transformer.blocks]),
        (
            "llama3_rope",
            lambda m: m.model.rotary_emb.inv_freq.copy_(10_000 ** -(torch.arange(8) / 8)),
        ),
    ):
        changed = make_model(variant)
        before = token_logits(changed, rows)[0]
        change(changed)
        assert np.abs(token_logits(changed, rows)[0] - before).max() > 0.1, variant
