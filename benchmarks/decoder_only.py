"""SmolLM2 here and in transformers, side by side: training, decoding, prefill; fp32 and bf16.

    make smollm2
    python benchmarks/decoder_only.py [--cases train,packed,greedy,queue,prefill] [--repeats 2]
                                      [--dtypes float32,bfloat16] [--model downloads/smollm2]
    python benchmarks/decoder_only.py --cases writing [--sets jfleg,asset,...] [--data DIR]

train     full rows of --length tokens, AdamW: tokens a second.
packed    --examples of uneven lengths, as instructions have them; here packed into rows, there
          padded to the longest of each batch.
greedy    --rows prompts of 64 tokens, --new_tokens each.
queue     --queue prompts of 8 to 256 tokens; 1 answer in 20 takes up to --new_tokens, the others 1
          to 5, the same rows in both. transformers gets them sorted, which spares it padding.
prefill   --prefill_rows prompts of 512 tokens, one new token each.
writing   the first --writing_rows test rows of every set, written as Alpaca's prompts, greedily and
          with the model's own ends, --writing_tokens at most; batches of --rows. The sets lie in
          DIR/writing, or WRITING_DIR; without either the bundled suite's tasks can be named.
          Prompts are sorted for both, which spares transformers padding; and the same here with
          every prompt read whole. Not among the defaults.
shots     --shots_tasks tasks of --shots_rows prompts, which begin with the same 400 tokens, as
          definitions and examples do, and have 8 to 64 of their own; 16 new tokens, batches of 16;
          and the same here with every prompt read whole. Not among the defaults.
one       a call of `Model.generate_tokens` for one prompt, of 60 tokens with 64 new ones and of
          1,000 with 16. Not among the defaults.
options   --options_questions questions of 200 to 300 tokens, four answers of 1 to 8 tokens to each,
          scored: answers a second, batches of 16; and the same here with every prompt read whole.
          transformers gets the rows sorted, and computes scores of the answers alone. Not among the
          defaults.

Both sides do a case in turn, --repeats times after a first run that compiles; the fastest counts.
bf16 is computing in bfloat16 over float32 parameters in training (autocast there), and bfloat16
parameters in decoding. With the defaults a quarter of an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import AutoModelForCausalLM, LogitsProcessor

import mixtures
from mixtures.vocabularies import open_vocabulary
from mixtures.writing.sets import SETS, TASKS
from t5x_ext import Model, schedules, startup
from t5x_ext.checkpoints import load_params, open_source
from t5x_ext.configs import SuperNIConfig
from t5x_ext.data import datasets
from t5x_ext.data.features import DecoderOnlyFeatures
from t5x_ext.data.opening import load_examples
from t5x_ext.data.packing import lay_out, pack_rows
from t5x_ext.data.records import Example
from t5x_ext.decoding import Greedy
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.likelihood import Scorer, to_example
from t5x_ext.decoding.methods import first_argmax
from t5x_ext.decoding.requests import Request
from t5x_ext.models import DecoderOnlyModel
from t5x_ext.models.network import Transformer
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.terminal import names_flag
from t5x_ext.training.optimizers import AdamW
from t5x_ext.training.trainer import Program, Trainer

LEARNING_RATE = 1e-5
EOS_ID = 2
# Of the paper's ten, those whose files may be had without asking for a licence.
PAPER_SETS = [
    "jfleg",
    "iterater_fluency",
    "iterater_clarity",
    "iterater_coherence",
    "turkcorpus",
    "asset",
    "wnc_sample",
    "stsb",
]
Prompts = list[np.ndarray]


class Vocabulary:
    """As many ids as the embedding has rows, so that both sides choose among the same."""

    vocab_size = 49152
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
        return jnp.where(ends, EOS_ID, first_argmax(scores.at[..., EOS_ID].set(-jnp.inf)))


class GivenLengthsProcessor(LogitsProcessor):
    """The same for transformers, for the rows of one batch."""

    def __init__(self, prompt_length: int, lengths: np.ndarray):
        self._ends = torch.from_numpy(prompt_length + lengths - 1)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ends = self._ends == input_ids.shape[1]
        scores[:, EOS_ID] = torch.where(ends, torch.inf, -torch.inf)
        return scores


def draw(lengths: Sequence[int], seed: int = 0) -> Prompts:
    """Random tokens, of which none ends a text."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, Vocabulary.vocab_size, n).astype(np.int32) for n in lengths]


# Training ---------------------------------------------------------------------------------------


def our_network(path: str, dtype: str) -> Transformer:
    """Layers written out in float32, which CPUs run faster, as docs/gpu.md says."""
    config = open_source(path).config
    return Transformer(config.replace(dtype=dtype, scan_layers=dtype != "float32"))


def our_training(path: str, dtype: str, rows: Prompts, limit: int, batch_size: int) -> Callable:
    """Trains on all rows once, packed into rows of `limit` tokens."""
    model = DecoderOnlyModel(our_network(path, dtype), optimizer_def=AdamW())
    one_device = PjitPartitioner(devices=tuple(jax.devices()[:1]))
    rate = schedules.create_learning_rate_scheduler("constant", LEARNING_RATE)
    program = Program(model, one_device, Trainer(learning_rate_fn=rate))
    # Placed as the step leaves them, so that it is compiled once.
    places = jax.tree.map(lambda leaf: leaf.sharding, program.abstract_params())
    state = program.state_from_params(jax.device_put(load_params(path), places))
    lengths = np.array([len(row) - 1 for row in rows])  # the last token is only predicted
    layout = lay_out(pack_rows(lengths, lengths, limit, limit), lengths, lengths)
    order = layout.items.astype(int)
    prompts, targets = [rows[i][:1] for i in order], [rows[i][1:] for i in order]
    whole = model.features.build(prompts, targets, layout, {"inputs": limit, "targets": limit})
    empty = -len(whole["decoder_input_tokens"]) % batch_size
    whole = {name: np.pad(x, ((0, empty), (0, 0))) for name, x in whole.items()}
    steps = len(whole["decoder_input_tokens"]) // batch_size
    batches = [
        {name: x[i * batch_size :][:batch_size] for name, x in whole.items()} for i in range(steps)
    ]

    def run() -> None:
        nonlocal state
        for batch in batches:
            placed = {name: one_device.put_whole(x) for name, x in batch.items()}
            state, _ = program.train_step(state, placed, jax.random.key(0))
        jax.block_until_ready(state)

    return run


def their_training(path: str, dtype: str, rows: Prompts, batch_size: int) -> Callable:
    """Trains on all rows once, each batch padded to its longest row."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).train()
    adamw = torch.optim.AdamW(model.parameters(), LEARNING_RATE, fused=True)
    batches = [padded(rows[i : i + batch_size], "right") for i in range(0, len(rows), batch_size)]

    def run() -> None:
        for ids, mask in batches:
            labels = ids.masked_fill(mask == 0, -100)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            adamw.zero_grad()
            loss.backward()
            adamw.step()

    return run


def train(args: argparse.Namespace, dtype: str, packed: bool) -> None:
    """Prints tokens a second of both."""
    if packed:
        rng = np.random.default_rng(1)
        drawn = rng.lognormal(np.log(args.length / 12), 0.9, args.examples)
        lengths = np.clip(drawn.astype(int), 4, args.length).tolist()
    else:
        lengths = [args.length + 1] * args.rows
    rows = draw(lengths)
    runs = {
        "t5x_ext": our_training(args.model, dtype, rows, args.length, args.rows),
        "transformers": their_training(args.model, dtype, rows, args.rows),
    }
    race(runs, args.repeats, sum(lengths) - len(lengths))


# Decoding ---------------------------------------------------------------------------------------


def padded(rows: Prompts, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask."""
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(ids.shape[1] - len(row), None)
        ids[index, place] = torch.from_numpy(row.astype(np.int64))
        mask[index, place] = 1
    return ids, mask


def our_decoding(
    path: str,
    dtype: str,
    prompts: Prompts,
    batch_size: int,
    limit: int,
    method: Greedy,
    share_prefixes: bool | None = None,
) -> Callable:
    """Decodes all prompts; gives their tokens, 0 behind their ends."""
    model = DecoderOnlyModel(our_network(path, dtype), Vocabulary())
    longest = -(-max(map(len, prompts)) // 64) * 64
    sizes = batch_size, longest, limit
    decoder = Decoder(model, PjitPartitioner(), *sizes, method, share_prefixes=share_prefixes)
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), load_params(path))
    requests = [Request((prompt,), number) for number, prompt in enumerate(prompts)]

    def run() -> np.ndarray:
        tokens = np.zeros((len(prompts), limit), np.int32)
        for finished in decoder.decode_requests(params, requests):
            tokens[finished.places] = finished.outputs[:, 0]
        return tokens

    return run


def their_decoding(
    path: str, dtype: str, prompts: Prompts, batch_size: int, limit: int, lengths: np.ndarray | None
) -> Callable:
    """The same, batches in the order given, padded on the left; without lengths to its own ends."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()

    def run() -> np.ndarray:
        tokens = np.zeros((len(prompts), limit), np.int32)
        for start in range(0, len(prompts), batch_size):
            ids, mask = padded(prompts[start : start + batch_size], "left")
            ends = []
            if lengths is not None:
                given = lengths[start : start + batch_size]
                ends.append(GivenLengthsProcessor(ids.shape[1], given))
            with torch.inference_mode():
                made = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    do_sample=False,
                    max_new_tokens=limit,
                    eos_token_id=EOS_ID,
                    pad_token_id=0,
                    logits_processor=ends,
                )
            new = made[:, ids.shape[1] :].numpy()
            tokens[start : start + len(new), : new.shape[1]] = new
        return tokens

    return run


def decode(args: argparse.Namespace, dtype: str, case: str) -> None:
    """Prints prompts a second of both, and how many rows are equal."""
    rng = np.random.default_rng(1)
    if case == "queue":
        sizes = np.sort(np.clip(rng.lognormal(4, 0.8, args.queue).astype(int), 8, 256))[::-1]
        is_long = rng.random(args.queue) < 0.05
        lengths = np.where(is_long, rng.integers(6, args.new_tokens + 1, args.queue), 0)
        lengths = np.where(is_long, lengths, rng.integers(1, 6, args.queue))
        batch_size, limit = args.rows, args.new_tokens
    else:
        batch_size, size, limit = {
            "greedy": (args.rows, 64, args.new_tokens),
            "prefill": (args.prefill_rows, 512, 1),
        }[case]
        sizes, lengths = np.full(batch_size, size), np.full(batch_size, limit)
    prompts = draw(sizes.tolist())
    method = GivenLengths(lengths=tuple(lengths.tolist()))
    settings = args.model, dtype, prompts, batch_size, limit
    runs = {
        "t5x_ext": our_decoding(*settings, method),
        "transformers": their_decoding(*settings, lengths),
    }
    race(runs, args.repeats, len(prompts))


def follow_shots(args: argparse.Namespace, dtype: str) -> None:
    """Prints prompts a second of both, and here with prefixes read again for every row."""
    rng = np.random.default_rng(2)
    prompts = []
    for task, shots in enumerate(draw([400] * args.shots_tasks)):
        own = draw(rng.integers(8, 65, args.shots_rows).tolist(), seed=task + 1)
        prompts += [np.concatenate([shots, one]) for one in own]
    limit = 16
    lengths = np.full(len(prompts), limit)
    settings = args.model, dtype, prompts, 16, limit
    method = GivenLengths(lengths=tuple(lengths.tolist()))
    runs = {
        "t5x_ext": our_decoding(*settings, method),
        "prompts read whole": our_decoding(*settings, method, share_prefixes=False),
        "transformers": their_decoding(*settings, lengths),
    }
    race(runs, args.repeats, len(prompts))


def answer_one(args: argparse.Namespace, dtype: str) -> None:
    """Prints answers a second of a call for one prompt, a short one and a long one."""
    model = Model.load(args.model, dtype=dtype)
    for size, limit in ((60, 64), (1000, 16)):
        print(f"  {size} tokens, {limit} new:")
        prompts, lengths = draw([size]), np.array([limit])
        runs = {
            "t5x_ext": our_call(model, prompts, limit),
            "transformers": their_decoding(args.model, dtype, prompts, 1, limit, lengths),
        }
        race(runs, args.repeats, len(prompts))


def our_call(model: Model, prompts: Prompts, limit: int) -> Callable:
    """Decodes all prompts, `limit` tokens each, as a user would."""
    method = GivenLengths(lengths=(limit,) * len(prompts))

    def run() -> np.ndarray:
        made = model.generate_tokens(prompts, limit, method, eos_ids=[EOS_ID])
        return np.array([[*tokens, EOS_ID] for tokens in made])

    return run


def write(args: argparse.Namespace, dtype: str) -> None:
    """Prints prompts of writing sets a second of both, and how many answers are equal."""
    superni_cfg = SuperNIConfig(data_dir=args.data)
    datasets.set_context(superni_cfg, open_vocabulary(args.model), DecoderOnlyFeatures())
    lengths = {"inputs": 512 - args.writing_tokens, "targets": args.writing_tokens}
    prompts = []
    for name in args.sets:
        examples = load_examples(mixtures.resolve(f"writing.{name}"), "test", lengths)
        prompts += [np.asarray(each.inputs, np.int32) for each in examples[: args.writing_rows]]
    prompts.sort(key=len, reverse=True)
    settings = args.model, dtype, prompts, args.rows, args.writing_tokens
    runs = {
        "t5x_ext": our_decoding(*settings, Greedy()),
        "prompts read whole": our_decoding(*settings, Greedy(), share_prefixes=False),
        "transformers": their_decoding(*settings, None),
    }
    race(runs, args.repeats, len(prompts))


# Scoring ----------------------------------------------------------------------------------------


def our_scoring(
    path: str, dtype: str, rows: list[Example], batch_size: int, share_prefixes: bool | None = None
) -> Callable:
    """The log-probability of each answer."""
    model = DecoderOnlyModel(our_network(path, dtype), Vocabulary())
    longest = max(len(row.inputs) for row in rows)
    scorer = Scorer(model, PjitPartitioner(), batch_size, longest, share_prefixes)
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), load_params(path))
    return lambda: scorer.log_likelihoods(params, rows)


def their_scoring(path: str, dtype: str, rows: list[Example], batch_size: int) -> Callable:
    """The same, longest rows first."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
    whole = [np.concatenate([row.inputs, row.targets[0]]) for row in rows]
    order = sorted(range(len(rows)), key=lambda place: -len(whole[place]))

    def run() -> np.ndarray:
        found = np.zeros(len(rows), np.float32)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            ids, mask = padded([whole[place] for place in places], "left")
            kept = max(len(rows[place].targets[0]) for place in places) + 1
            with torch.inference_mode():
                logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=kept).logits
                scores = logits[:, :-1].float().log_softmax(-1)
            of_ids = scores.gather(-1, ids[:, 1 - kept :, None])[..., 0].numpy()
            for row, place in enumerate(places):
                found[place] = of_ids[row, -len(rows[place].targets[0]) :].sum()
        return found

    return run


def score_options(args: argparse.Namespace, dtype: str) -> None:
    """Prints answers a second of both, and here with prompts read again for every answer."""
    rng = np.random.default_rng(3)
    rows = []
    lengths = rng.integers(200, 301, args.options_questions).tolist()
    for number, prompt in enumerate(draw(lengths)):
        answers = draw(rng.integers(1, 9, 4).tolist(), seed=number + 1)
        rows += [to_example(prompt, answer) for answer in answers]
    settings = args.model, dtype, rows, 16
    runs = {
        "t5x_ext": our_scoring(*settings),
        "prompts read whole": our_scoring(*settings, share_prefixes=False),
        "transformers": their_scoring(*settings),
    }
    race(runs, args.repeats, len(rows))


def race(runs: dict[str, Callable[[], Any]], repeats: int, count: int) -> None:
    """Prints how much of `count` each does a second, and against the first."""
    results = {name: run() for name, run in runs.items()}  # compiles
    best = dict.fromkeys(runs, np.inf)
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - began)
    ours, *others = best
    for theirs in others:
        rows = ""
        one, other = results[ours], results[theirs]
        if isinstance(one, np.ndarray) and one.ndim == 1:
            rows = f"   log-probabilities differ by {np.abs(one - other).max():.1e} at most"
        elif isinstance(one, np.ndarray):
            equal = (one == other).all(axis=1)
            rows = f"   {equal.sum()} of {len(equal)} rows equal"
        print(
            f"  {ours} {count / best[ours]:9.2f}/s   {theirs} {count / best[theirs]:9.2f}/s   "
            f"{best[theirs] / best[ours]:5.2f}x{rows}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases = ["train", "packed", "greedy", "queue", "prefill"]
    sets = [each.name for each in SETS.values() if "test" in each.splits]
    dtypes = ["float32", "bfloat16"]
    parser.add_argument("--model", default="downloads/smollm2", metavar="DIR")
    for flag, names, default in (
        ("--cases", [*cases, "writing", "shots", "one", "options"], cases),
        ("--dtypes", dtypes, dtypes),
        ("--sets", [*sets, *TASKS], PAPER_SETS),
    ):
        parser.add_argument(
            flag, type=names_flag(names), default=default, metavar="LIST", help=",".join(names)
        )
    parser.add_argument("--data", metavar="DIR", help="its folder `writing` has the sets")
    for name, default in (
        ("repeats", 2),
        ("rows", 4),
        ("length", 256),
        ("examples", 32),
        ("new_tokens", 32),
        ("queue", 64),
        ("prefill_rows", 16),
        ("writing_rows", 40),
        ("writing_tokens", 128),
        ("shots_tasks", 2),
        ("shots_rows", 16),
        ("options_questions", 16),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    startup.keep_freed_memory()  # as our commands do
    print(f"torch threads {torch.get_num_threads()}, {jax.devices()}", flush=True)
    for dtype in args.dtypes:
        for case in args.cases:
            units = {"train": "tokens", "packed": "tokens", "options": "answers"}
            unit = units.get(case, "prompts")
            print(f"{case}, {dtype}, {unit}:", flush=True)
            if case in ("train", "packed"):
                train(args, dtype, case == "packed")
            elif case == "writing":
                write(args, dtype)
            elif case == "shots":
                follow_shots(args, dtype)
            elif case == "one":
                answer_one(args, dtype)
            elif case == "options":
                score_options(args, dtype)
            else:
                decode(args, dtype, case)


if __name__ == "__main__":
    main()
