"""Trains T5 1.1 with our step and with Hugging Face Transformers (torch), side by side.

    python benchmarks/train.py [--rounds 5]     # size small, fp32, on the CPU
    python benchmarks/train.py --device gpu     # size XL, bf16 over fp32 parameters, on one GPU
    python benchmarks/train.py --only joined    # one comparison: padded, superni or joined

Random weights, AdamW, a constant learning rate, dropout off on both sides. On the CPU each
contender has its own process; every round runs one step of each in turn, and a ratio compares
steps of one round, so what else the machine does hits all alike. Figures are medians over rounds;
tokens are those that are not padding. "memory kept" has KEEP_MEMORY set.

On a GPU the contenders run one after the other, and model FLOPs are those of the matrix products,
nothing recomputed, padding included.
"""

from __future__ import annotations

import argparse
import functools
import gc
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
import numpy as np
from train_data import VOCAB_SIZE, make_features, random_examples, superni_examples

from t5x_ext.data.records import Example
from t5x_ext.models.network import T5Config, Transformer

LEARNING_RATE = 1e-4

SMALL: dict[str, Any] = dict(
    emb_dim=512, num_heads=6, num_encoder_layers=8, num_decoder_layers=8, mlp_dim=1024
)
XL: dict[str, Any] = dict(
    emb_dim=2048, num_heads=32, num_encoder_layers=24, num_decoder_layers=24, mlp_dim=5120
)


# What `startup.keep_freed_memory` does for our process, in words for another's.
KEEP_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:"
    "glibc.malloc.trim_threshold=34359738368"
}

# Runs the train step on the batch of that number, to its end.
Step = Callable[[int], None]


class Contender(NamedTuple):
    """Something that trains.

    Attributes:
        make: prepares it, in the process that will run it.
        tokens: tokens in each batch, without padding.
        environment: variables of its process.
    """

    make: Callable[[], Step]
    tokens: Sequence[int]
    environment: dict[str, str] = {}


def our_config(size: dict[str, Any], dtype: str) -> T5Config:
    """T5 1.1 of that size, without dropout."""
    return T5Config(
        VOCAB_SIZE,
        **size,
        dtype=dtype,
        mlp_activations=("gelu", "linear"),
        dropout_rate=0.0,
        scan_layers=dtype != "float32",  # as docs/gpu.md has it for CPUs
    )


def ours(size: dict[str, Any], batches: Sequence[dict], dtype: str = "float32") -> Step:
    """Our train step, on one device."""
    from t5x_ext import schedules, startup
    from t5x_ext.models import EncoderDecoderModel
    from t5x_ext.partitioning import PjitPartitioner
    from t5x_ext.training.optimizers import AdamW
    from t5x_ext.training.trainer import Program, Trainer

    startup.keep_freed_memory()  # as our commands do
    model = EncoderDecoderModel(Transformer(our_config(size, dtype)), optimizer_def=AdamW())
    rate = schedules.create_learning_rate_scheduler("constant", LEARNING_RATE)
    program = Program(
        model,
        PjitPartitioner(devices=tuple(jax.devices()[:1])),
        Trainer(learning_rate_fn=rate),
    )
    key = jax.random.key(0)
    state = program.init_state(key)

    def step(number: int) -> None:
        nonlocal state
        batch = batches[number % len(batches)]
        placed = {name: program.partitioner.put_whole(rows) for name, rows in batch.items()}
        state, _ = program.train_step(state, placed, key)
        jax.block_until_ready(state)

    return step


def hugging_face(
    size: dict[str, Any],
    batches: Sequence[Sequence[Example]],
    lengths: dict[str, int] | None,
    device: str = "cpu",
) -> Step:
    """T5ForConditionalGeneration as a torch loop with fused AdamW; on a GPU with bf16 autocast.

    Args:
        size: the model, in T5X's words.
        batches: examples of each batch.
        lengths: pads all batches to these; None pads each to its longest, as its collators do.
        device: 'cpu' or 'cuda'.
    """
    import torch
    import transformers

    config = transformers.T5Config(
        vocab_size=VOCAB_SIZE,
        d_model=size["emb_dim"],
        d_kv=64,
        d_ff=size["mlp_dim"],
        num_layers=size["num_encoder_layers"],
        num_decoder_layers=size["num_decoder_layers"],
        num_heads=size["num_heads"],
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    with torch.device(device):
        # Its best attention (`sdpa`) is its default.
        model = transformers.T5ForConditionalGeneration(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0, fused=True)

    def pad(rows: Sequence[np.ndarray], length: int | None, filler: int) -> Any:
        padded = np.full((len(rows), length or max(map(len, rows))), filler, np.int64)
        for row, values in zip(padded, rows, strict=True):
            row[: len(values)] = values
        return torch.from_numpy(padded).to(device)

    lengths = lengths or {}

    def step(number: int) -> None:
        examples = batches[number % len(batches)]
        inputs = pad([e.inputs for e in examples], lengths.get("inputs"), 0)
        labels = pad([e.targets[0] for e in examples], lengths.get("targets"), -100)
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            loss = model(input_ids=inputs, attention_mask=inputs > 0, labels=labels).loss
        loss.backward()
        optimizer.step()
        loss.item()
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def our_contender(size: dict[str, Any], batches: Sequence[dict]) -> Contender:
    """Our step on these batches, on the CPU."""
    tokens = [
        int(
            sum(
                (batch[name] > 0).sum()
                for name in ("encoder_input_tokens", "decoder_target_tokens")
            )
        )
        for batch in batches
    ]
    return Contender(functools.partial(ours, size, batches), tokens)


def their_contenders(
    size: dict[str, Any], batches: Sequence[Sequence[Example]], lengths: dict[str, int] | None
) -> dict[str, Contender]:
    """Transformers' steps on these batches, on the CPU."""
    tokens = [sum(len(e.inputs) + len(e.targets[0]) for e in batch) for batch in batches]
    fused = Contender(functools.partial(hugging_face, size, batches, lengths), tokens)
    kept = fused._replace(environment=KEEP_MEMORY)
    return {"HF": fused, "HF, memory kept": kept}


def serve(connection: Connection, make: Callable[[], Step]) -> None:
    """Runs steps in a separate process: numbers in, seconds out, until None."""
    jax.config.update("jax_platforms", "cpu")
    step = make()
    step(0)  # compiles and allocates
    connection.send("ready")
    for number in iter(connection.recv, None):
        clock = time.perf_counter()
        step(number)
        connection.send(time.perf_counter() - clock)


def race(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender's step in each round."""
    spawn = multiprocessing.get_context("spawn")
    connections: dict[str, Connection] = {}
    for name, contender in contenders.items():
        connections[name], far_end = spawn.Pipe()
        before = dict(os.environ)
        os.environ.update(contender.environment)
        spawn.Process(target=serve, args=(far_end, contender.make), daemon=True).start()
        os.environ.clear()
        os.environ.update(before)
        far_end.close()
        connections[name].recv()
    secs: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(1, rounds + 1):
        for name, connection in connections.items():
            connection.send(number)
            secs[name].append(connection.recv())
    for connection in connections.values():
        connection.send(None)
    return secs


def tell(title: str, contenders: dict[str, Contender], rounds: int) -> None:
    """Races the contenders and prints a line for each, and ratios to the others."""
    secs = race(contenders, rounds)
    rates = {
        name: [
            contender.tokens[number % len(contender.tokens)] / spent
            for number, spent in enumerate(secs[name], start=1)
        ]
        for name, contender in contenders.items()
    }
    print(f"\n{title}")
    for name in contenders:
        speed = f"{statistics.median(rates[name]):8.0f} tokens/s"
        print(f"  {name:22s} {statistics.median(secs[name]):7.2f} s/step {speed}")
    for other in list(contenders)[1:]:
        ratios = [a / b for a, b in zip(rates["ours"], rates[other], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        ratio = f"{statistics.median(ratios):.2f}x in tokens/s"
        spread = f"middle half of the rounds: {low:.2f} to {high:.2f}"
        print(f"  ours to {other}: {ratio} ({spread})", flush=True)


def compare_padded(rows: int, inputs: int, targets: int, rounds: int) -> None:
    lengths = {"inputs": inputs, "targets": targets}
    examples = random_examples(rows, lengths)
    features = make_features(examples, rows, lengths, pack=False)
    contenders = {
        "ours": our_contender(SMALL, features),
        **their_contenders(SMALL, [examples], lengths),
    }
    tell(f"{rows} x {inputs}/{targets}, padded, the same rows", contenders, rounds)


def compare_superni(batch_size: int, rounds: int) -> None:
    lengths = {"inputs": 1024, "targets": 128}
    examples = superni_examples(batch_size * (rounds + 1), lengths)
    mean = {
        "inputs": np.mean([len(e.inputs) for e in examples]),
        "targets": np.mean([len(e.targets[0]) for e in examples]),
    }
    # As many rows as hold about `batch_size` examples, so that updates are as frequent.
    filled = max(mean[side] / lengths[side] for side in lengths)
    rows = max(1, round(batch_size * filled))
    features = make_features(examples, rows, lengths, pack=True)
    padded = [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
    contenders = {
        "ours": our_contender(SMALL, features),
        **their_contenders(SMALL, padded, None),
    }
    title = (
        f"prompts of {mean['inputs']:.0f} and targets of {mean['targets']:.0f} tokens on average:  "
        f"ours {rows} rows of 1024/128 packed, HF {batch_size} examples padded to the longest"
    )
    tell(title, contenders, rounds)


def compare_joined(batch_size: int, rounds: int) -> None:
    """The same steps, with and without their examples joined (`PACK="batch"`)."""
    lengths = {"inputs": 1024, "targets": 128}
    examples = superni_examples(batch_size * (rounds + 1), lengths)
    size = SMALL | {"remat_policy": "minimal"}  # two processes in 24 GB
    joined = make_features(examples, batch_size, lengths, pack="batch")
    contenders = {
        "ours": our_contender(size, joined),
        "ours, padded": our_contender(
            size, make_features(examples, batch_size, lengths, pack=False)
        ),
    }
    rows = len(joined[0]["decoder_target_tokens"])
    title = f"{batch_size} prompts of up to 1024/128: joined in {rows} rows, and a row each"
    tell(title, contenders, rounds)


def measure_gpu(rows: int, rounds: int) -> None:
    """XL at 1024/128. Torch comes first: it gives its memory back, JAX does not."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import torch

    from t5x_ext.planning.devices import DEVICES

    kind = torch.cuda.get_device_name()
    peak = next((d.flops_per_sec for d in DEVICES.values() if d.name in kind), None)
    lengths = {"inputs": 1024, "targets": 128}
    flops = Transformer(our_config(XL, "bfloat16")).train_flops(rows, *lengths.values())
    examples = random_examples(rows, lengths, full=True)
    features = make_features(examples, rows, lengths, pack=False)
    print(f"XL, {rows} x 1024/128, bf16, {kind}: {flops / 1e12:.1f} TFLOP a step")
    tokens = sum(len(e.inputs) + len(e.targets[0]) for e in examples)
    for name, make in {
        "HF": functools.partial(hugging_face, XL, [examples], lengths, "cuda"),
        "ours": functools.partial(ours, XL, features, "bfloat16"),
    }.items():
        step = make()
        step(0)  # compiles and allocates
        clock = time.perf_counter()
        for number in range(1, rounds + 1):
            step(number)
        secs = (time.perf_counter() - clock) / rounds
        mfu = f"MFU {flops / secs / peak:.1%}" if peak else "peak of this GPU is not known"
        print(f"  {name:12s} {secs:7.3f} s/step {tokens / secs:8.0f} tokens/s  {mfu}", flush=True)
        del step
        gc.collect()
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--only", choices=("padded", "superni", "joined"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=8, help="of SuperNI, and on a GPU")
    flags = parser.parse_args()
    if flags.device == "gpu":
        measure_gpu(flags.batch_size, flags.rounds)
        return
    jax.config.update("jax_platforms", "cpu")
    # torch's threads wait for each other by spinning; with other work on the cores that costs more
    # than it costs us, and the ratios say nothing.
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    if flags.only in (None, "padded"):
        compare_padded(8, 256, 32, flags.rounds)
        compare_padded(2, 1024, 128, flags.rounds)
    if flags.only in (None, "superni"):
        compare_superni(flags.batch_size, flags.rounds)
    if flags.only in (None, "joined"):
        compare_joined(flags.batch_size, flags.rounds)


if __name__ == "__main__":
    main()
