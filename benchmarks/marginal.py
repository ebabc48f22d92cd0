"""Prompts that share an answer, and contrast, here and as a loop over Transformers with its cache.

    make smollm2
    python benchmarks/marginal.py [--cases marginal,contrast] [--rows 8] [--contexts 5]
                                  [--prompt_tokens 128] [--new_tokens 64] [--repeats 3]
                                  [--model downloads/smollm2]

marginal  --rows answers to one prompt each (k=1), and to --contexts prompts each (k=5) whose
          distributions are mixed token by token. Transformers: all prompts of all answers as one
          batch, and answer by answer.
contrast  --rows answers by what an expert (the model with an adapter of rank 8) finds likelier than
          its base. Here: as rows of one batch over one set of weights, and as two models, the
          expert's adapter merged. Transformers: two models, each with its own cache.

Greedy, float32, random prompts of one length, no answer ends before the limit. All contenders of a
case run in turn, --repeats times after a first run that compiles; the fastest of each counts. For a
quick look: `--rows 1 --prompt_tokens 16 --new_tokens 4 --repeats 1`.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from t5x_ext import Model, startup
from t5x_ext.decoding import Contrastive
from t5x_ext.models import merging
from t5x_ext.models.lora import LoRA
from t5x_ext.models.network import Transformer
from t5x_ext.models.parameters import Params, join
from t5x_ext.terminal import names_flag

LORA = LoRA(rank=8)
CONTRAST = Contrastive()  # the ratio of probabilities, on the expert's plausible tokens
Run = Callable[[], np.ndarray]  # decodes; int [rows, new_tokens]


def draw(vocab_size: int, *shape: int) -> np.ndarray:
    """Random tokens without the first few, among which the special ones are."""
    return np.random.default_rng(0).integers(3, vocab_size, shape)


# Here --------------------------------------------------------------------------------------------


def ours(model: Model, prompts: np.ndarray, new_tokens: int, **how: Any) -> Run:
    """Decodes all answers as one batch; `prompts` and `how` as of `Model.generate_tokens`."""

    def run() -> np.ndarray:
        rows = model.generate_tokens(
            prompts.tolist(), new_tokens, eos_ids=[], batch_size=len(prompts), **how
        )
        return np.array(rows)

    return run


def draw_adapter(base: Model) -> Params:
    """An adapter of random A and B: one that starts with B = 0, as tuning does, changes nothing."""
    adapter = Transformer(base.config, LORA).init_trainable(jax.random.key(0))
    leaves, tree = jax.tree.flatten(adapter)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [0.02 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def with_adapter(base: Model, adapter: Params) -> Model:
    """The model with an adapter named `expert` over the same weights; adapter 0 is none."""
    stacked = jax.tree.map(lambda x: jnp.stack([jnp.zeros_like(x), x], axis=1), adapter)
    params = join(base.params, stacked)
    return dataclasses.replace(base, params=params, adapters=("expert",), lora=LORA)


def with_merged(base: Model, adapter: Params) -> Model:
    """The model with the adapter in its kernels."""
    params = jax.jit(lambda *trees: merging.merge(base.config, LORA, *trees))(base.params, adapter)
    return dataclasses.replace(base, params=params)


# Transformers ------------------------------------------------------------------------------------


def load_theirs(path: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def mix(log_probs: torch.Tensor, num_contexts: int) -> torch.Tensor:
    """The logarithm of the even mixture: [B * C, V] -> [B, V]."""
    by_context = log_probs.unflatten(0, (-1, num_contexts))
    return by_context.logsumexp(1) - math.log(num_contexts)


def contrast(expert: torch.Tensor, amateur: torch.Tensor) -> torch.Tensor:
    """The ratio on what the expert finds plausible; log-probabilities [B, V]."""
    plausible = expert >= expert.amax(-1, keepdim=True) + math.log(CONTRAST.alpha)
    return torch.where(plausible, expert - amateur, -torch.inf)


@torch.inference_mode()
def loop(models: Sequence[Any], prompts: np.ndarray, new_tokens: int) -> np.ndarray:
    """Decodes one batch, a token at a time for all models.

    Args:
        models: one, or an expert and its amateur.
        prompts: int [B, C, L]; the C prompts of a row share its answer.
        new_tokens: of each answer.

    Returns:
        int [B, new_tokens].
    """
    num_contexts = prompts.shape[1]
    ids = torch.from_numpy(prompts).flatten(0, 1)
    caches: list[Any] = [None] * len(models)
    answer = []
    for _ in range(new_tokens):
        each = []
        for side, model in enumerate(models):
            # Of the prompt, too, only the last position's logits are needed.
            made = model(
                input_ids=ids, past_key_values=caches[side], use_cache=True, logits_to_keep=1
            )
            caches[side] = made.past_key_values
            each.append(mix(made.logits[:, -1].log_softmax(-1), num_contexts))
        scores = contrast(*each) if len(models) == 2 else each[0]
        answer.append(scores.argmax(-1))
        ids = answer[-1].repeat_interleave(num_contexts)[:, None]
    return torch.stack(answer, 1).numpy()


def theirs(models: Sequence[Any], prompts: np.ndarray, new_tokens: int, batch_size: int) -> Run:
    """Decodes all answers, `batch_size` at a time; `prompts` as of `loop`."""
    starts = range(0, len(prompts), batch_size)

    def run() -> np.ndarray:
        return np.concatenate(
            [loop(models, prompts[start : start + batch_size], new_tokens) for start in starts]
        )

    return run


# Cases -------------------------------------------------------------------------------------------


def make_marginal(args: argparse.Namespace) -> dict[str, Run]:
    """One prompt an answer and several, on both sides."""
    base, torch_base = Model.load(args.model), load_theirs(args.model)
    rows, k = args.rows, args.contexts
    several = draw(base.config.vocab_size, rows, k, args.prompt_tokens)
    weights = [[1 / k] * k] * rows
    one, new = several[:, 0], args.new_tokens
    return {
        f"t5x_ext k={k}": ours(base, several, new, weights=weights),
        "t5x_ext k=1": ours(base, one, new),
        f"transformers k={k}, one batch": theirs([torch_base], several, new, rows),
        f"transformers k={k}, answer by answer": theirs([torch_base], several, new, 1),
        "transformers k=1, one batch": theirs([torch_base], one[:, None], new, rows),
    }


def make_contrast(args: argparse.Namespace) -> dict[str, Run]:
    """Expert and amateur over one base, and as two models on both sides."""
    base = Model.load(args.model)
    adapter = draw_adapter(base)
    adapted, merged = with_adapter(base, adapter), with_merged(base, adapter)
    with tempfile.TemporaryDirectory() as directory:
        merged.save(f"{directory}/merged", layout="hf")
        sides = [load_theirs(f"{directory}/merged"), load_theirs(args.model)]
    prompts, new = draw(base.config.vocab_size, args.rows, args.prompt_tokens), args.new_tokens
    return {
        "t5x_ext, one batch": ours(adapted, prompts, new, adapter="expert", decoding=CONTRAST),
        "t5x_ext, two models": ours(merged, prompts, new, amateur=base, decoding=CONTRAST),
        "t5x_ext, expert alone": ours(adapted, prompts, new, adapter="expert"),
        "transformers, two models": theirs(sides, prompts[:, None], new, args.rows),
    }


CASES = {"marginal": make_marginal, "contrast": make_contrast}


def race(runs: dict[str, Run], repeats: int) -> None:
    """Prints the seconds of each, and how the first compares in time and answers."""
    results = {name: run() for name, run in runs.items()}  # compiles
    best = dict.fromkeys(runs, math.inf)
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - began)
    first = next(iter(runs))
    for name, secs in best.items():
        equal = (results[name] == results[first]).all(axis=1)
        print(
            f"  {name:36} {secs:8.2f} s   the first takes {best[first] / secs:5.2f} of it"
            f"   {equal.sum()} of {len(equal)} answers equal",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="downloads/smollm2", metavar="DIR")
    cases = list(CASES)
    parser.add_argument(
        "--cases", type=names_flag(cases), default=cases, metavar="LIST", help=",".join(cases)
    )
    for name, default in (
        ("rows", 8),
        ("contexts", 5),
        ("prompt_tokens", 128),
        ("new_tokens", 64),
        ("repeats", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    startup.keep_freed_memory()  # as our commands do
    print(f"torch threads {torch.get_num_threads()}, {jax.devices()}", flush=True)
    for case in args.cases:
        print(
            f"{case}, {args.rows} answers of {args.new_tokens} tokens to prompts of"
            f" {args.prompt_tokens}:",
            flush=True,
        )
        race(CASES[case](args), args.repeats)


if __name__ == "__main__":
    main()
