"""Random decoder-only models of transformers, and what transformers computes with them.

No two of a model's sizes are equal and norm scales are not one, so that a transposed, misplaced or
skipped tensor cannot go unnoticed. Rows are lists of ids without padding; what comes back has none
either. Everything is float32 on the host.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BOS, EOS = 1, 2
# Wavelengths of heads of 16: one is kept, some lie between the two limits, the rest are stretched.
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=10_000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
LLAMA = dict(
    vocab_size=103,
    hidden_size=48,
    intermediate_size=88,
    num_hidden_layers=2,
    num_attention_heads=6,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    attention_bias=False,
)
MPT = dict(
    vocab_size=107,
    d_model=48,
    n_layers=2,
    n_heads=4,
    max_seq_len=256,
    no_bias=True,
    learned_pos_emb=False,
)
FALCON = dict(
    vocab_size=109,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=6,
    max_position_embeddings=256,
    bias=False,
    alibi=False,
    parallel_attn=True,
)
# Variant -> family and its config in transformers' names. The names say what differs.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama_mha": ("llama", LLAMA | dict(num_key_value_heads=6)),
    "llama_gqa_tied": (
        "llama",
        LLAMA
        | dict(
            num_key_value_heads=2,
            tie_word_embeddings=True,
            rope_parameters=dict(rope_type="default", rope_theta=100_000.0),
        ),
    ),
    # Heads that do not add up to the width.
    "llama_mqa": ("llama", LLAMA | dict(num_key_value_heads=1, head_dim=10)),
    "llama3_rope": (
        "llama",
        LLAMA | dict(num_key_value_heads=3, head_dim=16, rope_parameters=LLAMA3_ROPE),
    ),
    "mistral": (
        "mistral",
        {name: value for name, value in LLAMA.items() if name != "attention_bias"}
        | dict(num_key_value_heads=2, sliding_window=None),
    ),
    "mpt": ("mpt", MPT),
    "mpt_6_heads": ("mpt", MPT | dict(n_heads=6)),
    "mpt_clip": ("mpt", MPT | dict(attn_config=dict(clip_qkv=8.0))),
    "falcon_7b": ("falcon", FALCON | dict(multi_query=True)),
    "falcon_7b_untied": ("falcon", FALCON | dict(multi_query=True, tie_word_embeddings=False)),
    "falcon_40b": ("falcon", FALCON | dict(new_decoder_architecture=True, num_kv_heads=2)),
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """A prompt and the response to it: ids, the response's EOS included."""

    prompt: list[int]
    response: list[int]


def make_config(family: str, **settings: Any) -> Any:
    """A config of transformers."""
    transformers = pytest.importorskip("transformers")
    classes = {
        "llama": transformers.LlamaConfig,
        "mistral": transformers.MistralConfig,
        "mpt": transformers.MptConfig,
        "falcon": transformers.FalconConfig,
    }
    ids = dict(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=None)
    return classes[family](**(ids | settings))


def make_model(variant: str, seed: int = 0) -> Any:
    """A random model of a variant, in evaluation mode; the same for the same seed."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)  # its threads spin, and the models are tiny
    family, settings = VARIANTS[variant]
    model = transformers.AutoModelForCausalLM.from_config(make_config(family, **settings)).eval()
    generator = torch.Generator().manual_seed(1000 * seed + sorted(VARIANTS).index(variant))
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_(0.1 * noise if name.endswith("bias") else 1.0 + 0.3 * noise)
            elif weight is embedding:
                # Small against what the layers add, or a tied model repeats its last token.
                weight.copy_(0.2 * noise)
            else:
                # Twice what keeps the size of activations: else rows repeat a few tokens for ever.
                weight.copy_(noise * 2.0 * weight.shape[1] ** -0.5)
            if "Wqkv" in name and model.config.attn_config.clip_qkv:
                weight.mul_(_scales_that_clip(weight.shape[0], model.config.n_heads))
    return model


def _scales_that_clip(rows: int, heads: int) -> Any:
    """[rows, 1]: some queries, keys and values pass 8, and scores stay as large as without.

    Queries of the first head and keys of the second are four times as large, their counterparts a
    quarter; all values are three times as large.
    """
    import torch

    width = rows // 3 // heads
    scales = torch.ones(3, heads, width)
    scales[0, 0], scales[1, 0] = 4.0, 1 / 4
    scales[0, 1], scales[1, 1] = 1 / 4, 4.0
    scales[2] = 3.0
    return scales.reshape(rows, 1)


def save(model: Any, directory: Path, sharded: bool = False) -> Path:
    """Saves as transformers does: one file, or several of about 20 kB with an index."""
    model.save_pretrained(directory, **(dict(max_shard_size="20KB") if sharded else {}))
    return directory


def make_pairs(vocab_size: int, seed: int = 0) -> list[Pair]:
    """Five pairs of random length; one prompt is BOS alone, one response EOS alone."""
    rng = np.random.default_rng(seed)

    def ids(count: int) -> list[int]:
        return rng.integers(3, vocab_size, count).tolist()

    lengths = [(90, 7), (0, 11), (33, 0), *rng.integers(1, 40, (2, 2)).tolist()]
    return [Pair([BOS, *ids(n)], [*ids(m), EOS]) for n, m in lengths]


def token_logits(model: Any, rows: Sequence[Sequence[int]], padding: str = "right") -> list[Any]:
    """Logits of every token of rows that are padded to one batch.

    Args:
      model: of transformers.
      rows: ids.
      padding: the side of a row that padding stands on, 'right' or 'left'.

    Returns:
      float32 [length, vocab_size] for each row.
    """
    import torch

    batch = _padded(rows, padding)
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits
    return [
        values[kept.bool()].numpy()
        for values, kept in zip(logits, batch["attention_mask"], strict=True)
    ]


def _padded(rows: Sequence[Sequence[int]], padding: str) -> dict[str, Any]:
    """`input_ids`, `attention_mask` and `position_ids`; padding is an id that rows use as well."""
    import torch

    shape = (len(rows), max(map(len, rows)))
    ids, mask = torch.full(shape, EOS), torch.zeros(shape, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if padding == "right" else slice(shape[1] - len(row), None)
        ids[index, place] = torch.tensor(row)
        mask[index, place] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return dict(input_ids=ids, attention_mask=mask, position_ids=positions)


def response_loss(model: Any, pairs: Sequence[Pair]) -> Any:
    """transformers' own loss: the mean over response tokens, each row's EOS among them."""
    batch = _padded([pair.prompt + pair.response for pair in pairs], "right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for index, pair in enumerate(pairs):
        labels[index, : len(pair.prompt)] = -100
    return model(**batch, labels=labels, use_cache=False).loss


def loss_and_gradients(model: Any, pairs: Sequence[Pair]) -> tuple[float, dict[str, Any]]:
    """The loss on responses, and its gradient by transformers' parameter names (tied ones once)."""
    model.zero_grad()
    loss = response_loss(model, pairs)
    loss.backward()
    return loss.item(), {name: p.grad.numpy().copy() for name, p in model.named_parameters()}


def with_gradients_as_weights(model: Any) -> Any:
    """A model to save whose weights are the gradients: they then take the way of weights."""
    import torch

    made = copy.deepcopy(model)
    with torch.no_grad():
        for into, weight in zip(made.parameters(), model.parameters(), strict=True):
            into.copy_(weight.grad)
    return made


def adamw_losses(
    model: Any, batches: Sequence[Sequence[Pair]], learning_rate: float, weight_decay: float
) -> list[float]:
    """The loss before each step of torch's AdamW, a batch a step; the model is changed."""
    import torch

    adamw = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay)
    losses = []
    for pairs in batches:
        loss = response_loss(model, pairs)
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        losses.append(loss.item())
    return losses


def greedy_tokens(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, eos_id: int | None = None
) -> list[list[int]]:
    """What transformers generates for each prompt alone, with its cache.

    Args:
      model: of transformers.
      prompts: ids.
      max_new_tokens: as many are generated where `eos_id` is None.
      eos_id: ends a row and is left out of it.
    """
    import torch
    from transformers import GenerationConfig

    # A separate config, so that nothing comes from the model's.
    model.generation_config = GenerationConfig()
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=eos_id, pad_token_id=EOS
    )
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            made = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
            )
        new = made[0, len(prompt) :].tolist()
        found.append(new[: new.index(eos_id)] if eos_id in new else new)
    return found
