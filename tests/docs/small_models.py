"""Small models that stand for what the pages have fetched."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import tokenizers

from mixtures.vocabularies import open_vocabulary
from t5x_ext import Model
from t5x_ext.models import network, parameters
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.partitioning import PjitPartitioner

CHAT = {
    "chat_template": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
}


def save_small_chat_model(directory: Path) -> None:
    """A small LLaMA that chats as SmolLM2 does, with the gin file of its sizes."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Name the city in the text."], trainer)
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    stated = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(stated | CHAT))
    sizes = {"vocab_size": 300, "emb_dim": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1}
    sizes |= {"head_dim": 16, "mlp_dim": 64, "max_length": 256}
    config = LlamaConfig(**sizes, rope_theta=1e5, logits_via_embedding=True)
    values = parameters.init_params(network.Transformer(config).specs, jax.random.key(0))
    vocabulary = open_vocabulary(str(directory))
    Model(config, values, vocabulary, PjitPartitioner()).save(str(directory / "hf"), "hf")
    for path in (directory / "hf").iterdir():
        path.replace(directory / path.name)
    (directory.parents[1] / "small.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from t5x_ext.models import llama\n"
        'include "gin_configs/models/smollm2_135m.gin"\n'
        "llama.LlamaConfig:\n" + "".join(f"  {k} = {v}\n" for k, v in sizes.items())
    )
