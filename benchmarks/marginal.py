"""Decodes a small LLaMA with five contexts an answer, and by contrast, beside plain decoding.

    python benchmarks/marginal.py [--repeats 3] [--rows 8] [--new_tokens 64] [--model DIR]

Cases: `k=1`, one prompt an answer; `k=5`, five prompts that share one, mixed token by token;
`contrast, one batch`, expert (with an adapter of rank 8) and amateur as rows of one batch over one
set of weights; `contrast, two models`, two sets of weights side by side, without adapters. Prompts
have 128 tokens, no answer ends before the limit. Without --model, random weights of SmolLM2-135M's
width and a third of its depth. All run in turn; the fastest of each counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from t5x_ext import Model
from t5x_ext.decoding import Contrastive
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.network import Transformer
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner

CONFIG = LlamaConfig(
    vocab_size=49152,
    emb_dim=576,
    num_layers=10,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    mlp_dim=1536,
    logits_via_embedding=True,
)
PROMPT_LENGTH, NUM_CONTEXTS = 128, 5
LORA = LoRA(rank=8)


def race(cases: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The least seconds of each case, in turn, after a first run that compiles."""
    best = dict.fromkeys(cases, float("inf"))
    for run in cases.values():
        run()
    for _ in range(repeats):
        for name, run in cases.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def with_adapter(base: Model) -> Model:
    """The model with one adapter of random A and B besides."""
    network = Transformer(base.config, LORA, 2)
    drawn = network.init(jax.random.key(1))

    def join(own: Params, mine: Params) -> Params:
        return {
            name: (join(own[name], mine[name]) if isinstance(value, dict) else mine[name])
            if name in mine
            else value
            for name, value in own.items()
        }

    return dataclasses.replace(
        base, params=join(drawn, base.params), adapters=("expert",), lora=LORA
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--new_tokens", type=int, default=64)
    parser.add_argument("--model", help="directory of a decoder-only model without adapters")
    args = parser.parse_args()
    if args.model:
        base = Model.load(args.model)
    else:
        params = Transformer(CONFIG).init(jax.random.key(0))
        base = Model(CONFIG, params, None, PjitPartitioner())
    adapted = with_adapter(base)
    rng = np.random.default_rng(0)
    shape = args.rows, NUM_CONTEXTS, PROMPT_LENGTH
    contexts = rng.integers(3, base.config.vocab_size - 1, shape).tolist()
    single = [group[0] for group in contexts]
    weights = [[1 / NUM_CONTEXTS] * NUM_CONTEXTS] * args.rows

    def decode(model: Model, prompts: list, **how: Any) -> Callable[[], Any]:
        return lambda: model.generate_tokens(
            prompts, args.new_tokens, eos_ids=[], batch_size=args.rows, **how
        )

    contrast = Contrastive()
    best = race(
        {
            "k=1": decode(base, single),
            "k=5": decode(base, contexts, weights=weights),
            "contrast, one batch": decode(adapted, single, adapter="expert", decoding=contrast),
            "contrast, two models": decode(base, single, amateur=base, decoding=contrast),
        },
        args.repeats,
    )
    for name, seconds in best.items():
        print(f"  {name:22} {seconds:8.2f} s {seconds / best['k=1']:6.2f}x", flush=True)


if __name__ == "__main__":
    main()
