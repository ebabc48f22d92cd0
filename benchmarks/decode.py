"""Decodes with T5 1.1 small here and in transformers' generate, side by side.

    python benchmarks/decode.py [--cases greedy16,greedy64,beam16,queue] [--repeats 3]
                                [--data_dir RELEASE]

fp32, random weights, the same in both. Prompts have 256 tokens and outputs 64 (EOS is banned before
the last), but in the case `queue`: 256 test prompts of the tasks in --data_dir (the bundled suite
if not given) of their own lengths, limit 128 tokens, of which 1 in 20 takes 32 to 128 and the
others 1 to 5, the same rows in both.

Both sides run in turn, `--repeats` times after a first run that compiles, and the fastest counts:
other work on the machine can only slow a run down. Where there is much of it, compare CPU seconds
on one core (`taskset -c 0 python benchmarks/decode.py`): two threads that wait for each other there
take many times what they need. transformers gets batches of 16 in the queue,
in the order given and (`sorted`) the longest first, which spares it padding.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import LogitsProcessor, T5Config, T5ForConditionalGeneration

from mixtures.prompts import get_prompt
from mixtures.records import rows
from mixtures.release import Release, data_dir
from mixtures.splits import split_instances
from t5x_ext.checkpoints import load_params
from t5x_ext.checkpoints.hugging_face import open_hf
from t5x_ext.data.records import Example
from t5x_ext.decoding import Beam, Greedy, Method
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.methods import first_argmax
from t5x_ext.models import EncoderDecoderModel, network
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.terminal import names_flag

SMALL = dict(
    vocab_size=32128,
    d_model=512,
    d_kv=64,
    d_ff=1024,
    num_layers=8,
    num_decoder_layers=8,
    num_heads=6,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
    decoder_start_token_id=0,
)
FIXED = {
    "greedy16": (16, Greedy(min_length=63), {}),
    "greedy64": (64, Greedy(min_length=63), {}),
    "beam16": (
        16,
        Beam(num_beams=4, length_penalty=1.0, style="hf", min_length=63),
        {"num_beams": 4},
    ),
}
QUEUE_SIZE, QUEUE_BATCH, QUEUE_LIMIT = 256, 16, 128
# English text in T5's vocabulary.
CHARACTERS_PER_TOKEN = 4.2
EOS_ID = 1


class Vocabulary:
    """As many ids as the embedding has rows, so that both sides choose among the same."""

    vocab_size = SMALL["vocab_size"]
    eos_id = EOS_ID


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenLengths(Greedy):
    """Greedy, with EOS where `lengths` says and nowhere else.

    Attributes:
      lengths: tokens of each prompt's output, EOS included.
    """

    lengths: tuple[int, ...]

    def choose(self, scores: jax.Array, numbers: jax.Array, index: jax.Array) -> jax.Array:
        ends = jnp.asarray(self.lengths)[numbers][:, None] == index + 1
        going_on = first_argmax(scores.at[..., EOS_ID].set(-jnp.inf))
        return jnp.where(ends, EOS_ID, going_on)


class GivenLengthsProcessor(LogitsProcessor):
    """The same for transformers, for the rows of one batch."""

    def __init__(self, lengths: np.ndarray):
        self._lengths = torch.from_numpy(lengths)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ends = self._lengths == input_ids.shape[1]
        scores[:, EOS_ID] = torch.where(ends, torch.inf, -torch.inf)
        return scores


def make_models() -> tuple[T5ForConditionalGeneration, EncoderDecoderModel, Params]:
    """A random model of transformers, and the same opened here."""
    torch.manual_seed(0)
    torch_model = T5ForConditionalGeneration(T5Config(**SMALL)).eval()
    # transformers 5 ties the output of every new model.
    output = 0.05 * torch.randn_like(torch_model.shared.weight)
    torch_model.lm_head.weight = torch.nn.Parameter(output)
    with tempfile.TemporaryDirectory() as directory:
        torch_model.save_pretrained(directory)
        model = EncoderDecoderModel(
            network.Transformer(open_hf(directory).config), Vocabulary(), Vocabulary()
        )
        params = jax.tree.map(jnp.asarray, load_params(directory))
    return torch_model, model, params


def to_examples(prompts: list[np.ndarray]) -> list[Example]:
    return [Example(str(i), "", "", p, (), "", (), False) for i, p in enumerate(prompts)]


def decode_ours(decoder: Decoder, params: Params, examples: list[Example]) -> np.ndarray:
    tokens = np.zeros((len(examples), decoder.max_decode_length), np.int32)
    for indices, found in decoder.decode_tokens(params, examples):
        tokens[indices] = found
    return tokens


def decode_theirs(
    model: T5ForConditionalGeneration,
    prompts: list[np.ndarray],
    batch_size: int,
    limit: int,
    lengths: np.ndarray | None = None,
    **settings: object,
) -> np.ndarray:
    tokens = np.zeros((len(prompts), limit), np.int32)
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        ids = torch.zeros((len(batch), max(map(len, batch))), dtype=torch.long)
        for row, prompt in zip(ids, batch, strict=True):
            row[: len(prompt)] = torch.from_numpy(prompt)
        processors = (
            [] if lengths is None else [GivenLengthsProcessor(lengths[start : start + batch_size])]
        )
        with torch.inference_mode():
            made = model.generate(
                input_ids=ids,
                attention_mask=(ids > 0).long(),
                do_sample=False,
                max_new_tokens=limit,
                logits_processor=processors,
                **settings,
            )
        tokens[start : start + len(batch), : made.shape[1] - 1] = made[:, 1:].numpy()
    return tokens


def race(runs: dict[str, Callable[[], Any]], repeats: int) -> None:
    """Prints the least seconds of each run, in turn, and how many rows equal the first's."""
    results = {name: run() for name, run in runs.items()}  # compiles
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            clocks = time.perf_counter(), time.process_time()
            run()
            spent[name].append((time.perf_counter() - clocks[0], time.process_time() - clocks[1]))
    best = {name: np.min(times, axis=0) for name, times in spent.items()}
    first = next(iter(runs))
    for name, (wall, cpu) in best.items():
        same = ""
        if results[name].shape == results[first].shape:
            equal = (results[name] == results[first]).all(axis=1)
            same = f"   {equal.sum()} of {len(equal)} rows equal"
        ratio = wall / best[first][0], cpu / best[first][1]
        print(
            f"  {name:16} {wall:8.2f} s {ratio[0]:5.2f}x, CPU {cpu:8.2f} s {ratio[1]:5.2f}x{same}",
            flush=True,
        )


def run_fixed(name: str, repeats: int) -> None:
    batch_size, method, settings = FIXED[name]
    torch_model, model, params = make_models()
    rng = np.random.default_rng(0)
    prompts = [
        np.append(rng.integers(3, 32000, 255), EOS_ID).astype(np.int32) for _ in range(batch_size)
    ]
    decoder = make_decoder(model, batch_size, 256, 64, method)
    examples = to_examples(prompts)
    inputs = jnp.asarray(np.stack(prompts))
    encode = jax.jit(lambda params: model.module.bind(params).encode(inputs, inputs // inputs))
    print(f"{name}: {batch_size} prompts of 256 tokens, 64 new tokens", flush=True)
    race(
        {
            "t5x_ext": lambda: decode_ours(decoder, params, examples),
            "transformers": lambda: decode_theirs(
                torch_model, prompts, batch_size, 64, min_new_tokens=63, **settings
            ),
            "encoder alone": lambda: encode(params).block_until_ready(),
        },
        repeats,
    )


def make_decoder(
    model: EncoderDecoderModel, batch_size: int, length: int, limit: int, method: Method
) -> Decoder:
    return Decoder(model, PjitPartitioner(), batch_size, length, limit, method)


def read_queue(path: str | None) -> list[np.ndarray]:
    """Random tokens, as many as test prompts have in T5's vocabulary, cut at 1,024."""
    release = Release(data_dir(path))
    records = [release.task(name) for name in release.names("test")]
    instances = [
        row for record in records for row in rows(record, split_instances(record, "test").test)
    ]
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(instances), QUEUE_SIZE, replace=False)
    prompt = get_prompt("tk.def_pos2")
    texts = [prompt.render(instances[index]) for index in chosen]
    counts = [min(1024, round(len(text) / CHARACTERS_PER_TOKEN)) for text in texts]
    return [np.append(rng.integers(3, 32000, n - 1), EOS_ID).astype(np.int32) for n in counts]


def run_queue(repeats: int, path: str | None) -> None:
    torch_model, model, params = make_models()
    prompts = read_queue(path)
    rng = np.random.default_rng(1)
    is_long = rng.random(QUEUE_SIZE) < 0.05
    lengths = np.where(
        is_long, rng.integers(32, QUEUE_LIMIT + 1, QUEUE_SIZE), rng.integers(1, 6, QUEUE_SIZE)
    )
    order = np.argsort([-len(prompt) for prompt in prompts], kind="stable")
    method = GivenLengths(lengths=tuple(lengths.tolist()))
    decoders = {
        "t5x_ext": make_decoder(model, QUEUE_BATCH, 1024, QUEUE_LIMIT, method),
        "without stages": dataclasses.replace(
            make_decoder(model, QUEUE_BATCH, 1024, QUEUE_LIMIT, method), first_stage=None
        ),
    }
    examples = to_examples(prompts)
    sizes = np.array([len(prompt) for prompt in prompts])
    print(
        f"queue: {QUEUE_SIZE} prompts of {sizes.min()} to {sizes.max()} tokens (mean "
        f"{sizes.mean():.0f}), {is_long.sum()} outputs of more than 5 tokens",
        flush=True,
    )

    def theirs(order: np.ndarray) -> np.ndarray:
        chosen = [prompts[i] for i in order]
        tokens = np.zeros((QUEUE_SIZE, QUEUE_LIMIT), np.int32)
        tokens[order] = decode_theirs(torch_model, chosen, QUEUE_BATCH, QUEUE_LIMIT, lengths[order])
        return tokens

    race(
        {
            **{
                name: lambda decoder=decoder: decode_ours(decoder, params, examples)
                for name, decoder in decoders.items()
            },
            "transformers": lambda: theirs(np.arange(QUEUE_SIZE)),
            "the same, sorted": lambda: theirs(order),
        },
        repeats,
    )
    for name, decoder in decoders.items():
        print(f"  {name}: {len(decoder.programs.shapes)} compiled loops")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases = [*FIXED, "queue"]
    parser.add_argument(
        "--cases", type=names_flag(cases), default=cases, metavar="LIST", help=",".join(cases)
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data_dir")
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    print(f"torch threads {torch.get_num_threads()}, {jax.devices()}", flush=True)
    for case in args.cases:
        if case == "queue":
            run_queue(args.repeats, args.data_dir)
        else:
            run_fixed(case, args.repeats)


if __name__ == "__main__":
    main()
