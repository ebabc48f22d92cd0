"""Random models of transformers, one of each family, and the same weights opened by us.

The weights are far larger than T5's initial ones, norm scales are not one, and no two of a
model's sizes are equal: a transposed, misplaced or skipped tensor cannot go unnoticed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t5x_ext.checkpoints.params import load_params, open_source
from t5x_ext.checkpoints.sources import Source
from t5x_ext.models.parameters import Params

# Shapes as each family has them, in small: 1.0 is tied and ReLU; ByT5's encoder is three times as
# deep as its decoder; in mT5-small and LM-adapted small models heads * d_kv is not d_model.
FAMILIES: dict[str, dict[str, Any]] = {
    "t5_1_0": dict(vocab_size=96, d_model=32, d_kv=8, d_ff=80, num_layers=2, num_heads=5),
    "t5_1_1": dict(
        vocab_size=104,
        d_model=24,
        d_kv=10,
        d_ff=40,
        num_layers=1,
        num_heads=3,
        num_decoder_layers=3,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    ),
    "lm_adapt": dict(
        vocab_size=112,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=6,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    ),
    "mt5": dict(vocab_size=250, d_model=32, d_kv=16, d_ff=56, num_layers=2, num_heads=3),
    "byt5": dict(
        vocab_size=384,
        d_model=40,
        d_kv=8,
        d_ff=72,
        num_layers=3,
        num_decoder_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    ),
    "umt5": dict(
        vocab_size=270,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=5,
    ),
    "umt5_tied": dict(vocab_size=260, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3),
}
_TIED = ("t5_1_0", "umt5_tied")


@dataclasses.dataclass(frozen=True)
class Twin:
    """A model in transformers and the same one here.

    Attributes:
      torch_model: in evaluation mode.
      directory: where transformers saved it.
      source: that directory, opened.
      params: all of its parameters.
    """

    torch_model: Any
    directory: Path
    source: Source
    params: Params


def make_twin(family: str, directory: Path) -> Twin:
    """Makes a random model of a family, saves it and opens what was saved."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # its threads spin, and the models are tiny
    transformers = pytest.importorskip("transformers")
    kind = {"mt5": "MT5", "umt5": "UMT5", "umt5_tied": "UMT5"}.get(family, "T5")
    config_cls = getattr(transformers, f"{kind}Config")
    config = config_cls(decoder_start_token_id=0, **FAMILIES[family])
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    generator = torch.Generator().manual_seed(sorted(FAMILIES).index(family))
    if family not in _TIED:  # transformers 5 makes every new model tied
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    if family == "umt5":  # and scales the output of every umt5, which Google's are not
        model.config.tie_word_embeddings = False
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "layer_norm" in name:
                weight.copy_(1.0 + 0.3 * noise)
            elif "relative_attention_bias" in name:
                weight.copy_(noise)
            elif name == "shared.weight":
                # Small against what the layers add, or a tied model repeats its last token.
                weight.copy_(0.2 * noise)
            else:
                weight.copy_(noise * weight.shape[1] ** -0.5)
            if ".q." in name:
                weight.mul_(config.d_kv**-0.5)  # attention is not scaled
    model.save_pretrained(directory)
    return Twin(model, directory, open_source(str(directory)), load_params(str(directory)))


def make_batch(vocab_size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Five pairs of random length, padded; the prompts reach beyond the last position bucket."""
    rng = np.random.default_rng(seed)

    def padded(lengths: list[int]) -> np.ndarray:
        rows = np.zeros((len(lengths), max(lengths)), np.int32)
        for row, length in zip(rows, lengths, strict=True):
            row[:length] = np.append(rng.integers(2, vocab_size, length - 1), 1)
        return rows

    inputs = padded([150, *rng.integers(2, 150, 3).tolist(), 1])
    targets = padded([21, *rng.integers(2, 21, 3).tolist(), 1])
    return {
        "encoder_input_tokens": inputs,
        "encoder_segment_ids": (inputs > 0).astype(np.int32),
        "decoder_segment_ids": (targets > 0).astype(np.int32),
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": (targets > 0).astype(np.float32),
    }
