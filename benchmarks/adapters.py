"""Compares tuning adapters in SmolLM2's shape with full tuning, PEFT, and one adapter at a time.

    python benchmarks/adapters.py [--rounds 2] [--adapters 16] [--layers 30]

Random weights, rank 8 on all linear layers, AdamW, dropout off, float32, on the CPU. A step of
`full`, `LoRA` and `PEFT` (transformers and torch) takes the same rows; one of `at once` and of `in
turn` a row for each adapter, in one program over one base or in as many steps; one of `decode
together` and `decode in turn` four prompts of each adapter, in common batches or one adapter after
the other. Each contender has its own process; every round runs one step of each in turn, and a
ratio compares steps of one round, so what else the machine does hits all alike. Figures are medians
over rounds.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from train import KEEP_MEMORY, LEARNING_RATE, Contender, Step, race

from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.lora import LoRA

CONFIG = LlamaConfig(
    vocab_size=49152,
    emb_dim=576,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    mlp_dim=1536,
    logits_via_embedding=True,
    scan_layers=False,  # as docs/gpu.md has it for CPUs
)
RANK, ALPHA = 8, 16.0
ROWS, LENGTH = 4, 64  # of the steps with one adapter
SHORT = 32  # tokens of an adapter's row, and of a prompt, where there are many
PROMPTS, NEW_TOKENS, DECODED = 4, 8, 16  # prompts of an adapter, tokens made, rows of a batch


def make_batch(config: LlamaConfig, rows: int, length: int) -> dict[str, np.ndarray]:
    """Random tokens, all of which count."""
    ids = np.random.default_rng(0).integers(3, config.vocab_size, (rows, length + 1), np.int32)
    ones = np.ones((rows, length), np.int32)
    return {
        "decoder_input_tokens": ids[:, :-1],
        "decoder_target_tokens": ids[:, 1:],
        "decoder_loss_weights": ones,
        "decoder_segment_ids": ones,
        "decoder_positions": ones * np.arange(length, dtype=np.int32),
    }


def make_program(config: LlamaConfig, lora: LoRA | None) -> Any:
    """Our compiled functions, on one device."""
    from t5x_ext import schedules, startup
    from t5x_ext.models import DecoderOnlyModel
    from t5x_ext.models.network import Transformer
    from t5x_ext.partitioning import PjitPartitioner
    from t5x_ext.training.optimizers import AdamW
    from t5x_ext.training.trainer import Program, Trainer

    startup.keep_freed_memory()  # as our commands do
    rate = schedules.create_learning_rate_scheduler("constant", LEARNING_RATE)
    return Program(
        DecoderOnlyModel(Transformer(config, lora), optimizer_def=AdamW()),
        PjitPartitioner(devices=tuple(jax.devices()[:1])),
        Trainer(learning_rate_fn=rate),
    )


def ours(config: LlamaConfig, lora: LoRA | None, rows: int, length: int, adapters: int = 1) -> Step:
    """Our train step; of several adapters, as many steps on a batch each."""
    program, key = make_program(config, lora), jax.random.key(0)
    states = [program.init_state(jax.random.key(seed)) for seed in range(adapters)]
    frozen = program.init_base(key) if lora else {}
    batch = make_batch(config, rows, length)

    def step(number: int) -> None:
        for index, state in enumerate(states):
            states[index], _ = program.train_step(state, batch, key, frozen)
        jax.block_until_ready(states)

    return step


def at_once(config: LlamaConfig, lora: LoRA, rows: int, length: int, adapters: int) -> Step:
    """The step of several adapters in one program, on a batch each."""
    from t5x_ext.training.experts import ExpertProgram

    program = make_program(config, lora)
    experts = ExpertProgram(program, adapters)
    keys = jax.random.split(jax.random.key(0), adapters)
    state, frozen = experts.start_adapters(keys), program.init_base(keys[0])
    batch = {n: np.stack([x] * adapters) for n, x in make_batch(config, rows, length).items()}
    active = jnp.ones(adapters, bool)

    def step(number: int) -> None:
        nonlocal state
        state, _ = experts.train_step(state, batch, keys, active, frozen)
        jax.block_until_ready(state)

    return step


def decoding(config: LlamaConfig, lora: LoRA, adapters: int, together: bool) -> Step:
    """Greedy decoding of the prompts of several adapters."""
    from t5x_ext.decoding.adapters import gather_by_slot
    from t5x_ext.decoding.decoder import Decoder
    from t5x_ext.decoding.methods import OutputIds
    from t5x_ext.decoding.requests import Request
    from t5x_ext.models.parameters import join

    program = make_program(config, lora)
    base = program.init_base(jax.random.key(0))
    own = [program.model.module.init_trainable(jax.random.key(i)) for i in range(adapters)]
    prompts = make_batch(config, PROMPTS, SHORT)["decoder_input_tokens"]
    requests = [Request((prompt,), number) for number, prompt in enumerate(prompts)]
    ids = OutputIds(eos=(0,), num_valid=config.vocab_size)
    model = program.model.with_adapters(adapters) if together else program.model
    decoder = Decoder(model, program.partitioner, DECODED, SHORT, NEW_TOKENS, ids=ids)
    if together:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)
        asked = [
            (
                join(base, gather_by_slot(stacked, program.partitioner)),
                [one._replace(adapters=(index,)) for index in range(adapters) for one in requests],
            )
        ]
    else:
        asked = [(join(base, adapter), requests) for adapter in own]

    def step(number: int) -> None:
        for params, some in asked:
            assert sum(len(each.places) for each in decoder.decode_requests(params, some))

    return step


def peft(config: LlamaConfig, rows: int, length: int) -> Step:
    """PEFT's LoRA over transformers' LLaMA, as a torch loop with fused AdamW."""
    import peft as library
    import torch
    import transformers

    shape = transformers.LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.emb_dim,
        intermediate_size=config.mlp_dim,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        tie_word_embeddings=True,
    )
    lora = library.LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear"
    )
    model = library.get_peft_model(transformers.LlamaForCausalLM(shape), lora).train()
    own = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(own, LEARNING_RATE, weight_decay=0, fused=True)
    batch = make_batch(config, rows, length)
    ids, labels = (
        torch.from_numpy(batch[f"decoder_{name}_tokens"]).long() for name in ("input", "target")
    )

    def step(number: int) -> None:
        optimizer.zero_grad()
        logits = model(input_ids=ids, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--adapters", type=int, default=16)
    parser.add_argument("--layers", type=int, default=CONFIG.num_layers)
    flags = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start", flush=True)
    lora, count = LoRA(RANK, ALPHA), flags.adapters
    config = CONFIG.replace(num_layers=flags.layers)
    of_batch = [ROWS * LENGTH], KEEP_MEMORY
    of_many = [count * SHORT], KEEP_MEMORY
    contenders = {
        "full": Contender(functools.partial(ours, config, None, ROWS, LENGTH), *of_batch),
        "LoRA": Contender(functools.partial(ours, config, lora, ROWS, LENGTH), *of_batch),
        "PEFT": Contender(functools.partial(peft, config, ROWS, LENGTH), *of_batch),
        "in turn": Contender(functools.partial(ours, config, lora, 1, SHORT, count), *of_many),
        "at once": Contender(functools.partial(at_once, config, lora, 1, SHORT, count), *of_many),
    }
    for name, together in (("decode in turn", False), ("decode together", True)):
        make = functools.partial(decoding, config, lora, count, together)
        contenders[name] = Contender(make, [count * PROMPTS * NEW_TOKENS], KEEP_MEMORY)
    secs = race(contenders, flags.rounds)
    for name, contender in contenders.items():
        median = statistics.median(secs[name])
        print(f"  {name:15} {median:7.2f} s/step {contender.tokens[0] / median:8.0f} tokens/s")
    pairs = [("LoRA", "full"), ("LoRA", "PEFT"), ("at once", "in turn")]
    for one, other in [*pairs, ("decode together", "decode in turn")]:
        ratios = [a / b for a, b in zip(secs[one], secs[other], strict=True)]
        print(f"  {one} takes {statistics.median(ratios):.2f} of the time of {other}", flush=True)


if __name__ == "__main__":
    main()
