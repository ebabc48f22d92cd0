"""Tunes an adapter over a decoder-only model on rows of your own; answers with it and without.

    python docs/examples/tune_adapter.py downloads/smollm2 cities.jsonl runs/cities_adapter

The model is a Hugging Face directory or a GGUF file of LLaMA's layout, MPT or Falcon; docs/
decoder_only.md says how to get one, and has rows of cities. The run keeps the adapter alone, and
`Model.load` puts it over the model again. 135 million parameters take two CPU cores a minute.
"""

from __future__ import annotations

import sys

from mixtures.vocabularies import open_vocabulary
from t5x_ext import Model
from t5x_ext.checkpoints import open_source
from t5x_ext.configs import CheckpointConfig, DatasetConfig, RestoreCheckpointConfig
from t5x_ext.data.datasets import load_flat
from t5x_ext.models import DecoderOnlyModel, network
from t5x_ext.models.lora import LoRA
from t5x_ext.schedules import create_learning_rate_scheduler
from t5x_ext.train import train
from t5x_ext.training.optimizers import AdamW
from t5x_ext.training.trainer import Trainer

LENGTHS = {"inputs": 96, "targets": 12}  # tokens


def tune(path: str, rows: DatasetConfig, model_dir: str) -> None:
    """Trains an adapter of rank 8 on every linear layer; the model stays as it is."""
    source = open_source(path)
    if source.config is None or source.config.has_encoder:
        sys.exit(f"{path}: not a decoder-only model with a config")
    config = source.config.replace(dtype="float32")  # "bfloat16" on an accelerator
    vocabulary = open_vocabulary(source.tokenizer_dir)

    def make_trainer() -> Trainer:
        return Trainer(learning_rate_fn=create_learning_rate_scheduler("constant", 1e-3))

    train(
        model=DecoderOnlyModel(network.Transformer(config, LoRA(rank=8)), vocabulary, AdamW()),
        model_dir=model_dir,
        train_dataset_cfg=rows,
        checkpoint_cfg=CheckpointConfig(RestoreCheckpointConfig(path=path)),
        trainer_cls=make_trainer,
        total_epochs=10,
    )


def main() -> None:
    """Tunes, then asks both for the first rows."""
    path, file, model_dir = sys.argv[1:]
    has_template = open_vocabulary(open_source(path).tokenizer_dir).chat_template is not None
    prompt = "chat" if has_template else "alpaca"  # as the model was tuned, else a plain one
    rows = DatasetConfig(file, LENGTHS, "train", batch_size=6, pack="batch", prompt=prompt)
    tune(path, rows, model_dir)

    model = Model.load(path, adapters={"tuned": model_dir})
    examples = load_flat(rows)[:4]
    prompts = [example.inputs_pretokenized for example in examples]
    references = [example.references[0] for example in examples]
    for name in (None, "tuned"):
        answers = model.generate(prompts, max_new_tokens=12, adapter=name)
        log_probabilities = model.score(prompts, references, adapter=name)
        for reference, answer, found in zip(references, answers, log_probabilities, strict=True):
            print(f"{name or 'base':<6} {reference!r} at log-probability {found:.2f}: {answer!r}")


if __name__ == "__main__":
    main()
