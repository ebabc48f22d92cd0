"""Tunes a model on rows of your own and scores it on others, in Python alone.

    python docs/examples/tune_my_jsonl.py runs/kinds

Writes the rows, then the run: runs/kinds holds its checkpoint, metrics and vocabulary, and
docs/examples/generate.py can use it. Half a minute on two CPU cores.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mixtures.vocabularies import bundled_vocabulary
from t5x_ext import Model
from t5x_ext.configs import DatasetConfig
from t5x_ext.data.datasets import load_flat
from t5x_ext.metrics.scoring import score_text
from t5x_ext.models import EncoderDecoderModel, network
from t5x_ext.schedules import create_learning_rate_scheduler
from t5x_ext.train import train
from t5x_ext.training.optimizers import AdamW
from t5x_ext.training.trainer import Trainer

PROMPT = "ql.def_pos2"
LENGTHS = {"inputs": 64, "targets": 8}  # tokens
SENTENCES = {"animal": "{} feeds a {}.", "food": "{} eats {}.", "city": "{} lives in {}."}
WORDS = {
    "animal": ["duck", "dog", "horse", "cat"],
    "food": ["bread", "cake", "rice", "soup"],
    "city": ["Lima", "Oslo", "Delhi", "Rome"],
}


def write_rows(path: Path, names: list[str]) -> None:
    """A line for each name and word: what kind of thing is the word?"""
    lines = []
    for name in names:
        for kind, words in WORDS.items():
            for word in words:
                lines.append(
                    {
                        "instruction": "Say if the last word is an animal, a food or a city.",
                        "input": SENTENCES[kind].format(name, word),
                        "output": kind,
                    }
                )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def dataset(rows: Path, split: str) -> DatasetConfig:
    """One split of the rows."""
    return DatasetConfig(str(rows), LENGTHS, split, batch_size=16, prompt=PROMPT)


def tune(model_dir: Path, rows: Path) -> None:
    """A small T5 1.1 from random parameters; published weights come in by `CheckpointConfig`."""
    vocabulary = bundled_vocabulary()
    config = network.T5Config(
        vocab_size=768,
        emb_dim=64,
        num_heads=4,
        num_encoder_layers=2,
        num_decoder_layers=2,
        head_dim=16,
        mlp_dim=128,
        mlp_activations=("gelu", "linear"),
    )

    def make_trainer() -> Trainer:
        return Trainer(learning_rate_fn=create_learning_rate_scheduler("constant", 3e-3))

    train(
        model=EncoderDecoderModel(network.Transformer(config), vocabulary, vocabulary, AdamW()),
        model_dir=str(model_dir),
        train_dataset_cfg=dataset(rows, "train"),
        trainer_cls=make_trainer,
        total_epochs=15,
        stats_period=20,
    )


def exact_match(model_dir: Path, rows: Path) -> float:
    """Percent of the test rows that the model answers exactly."""
    examples = load_flat(dataset(rows, "test"))
    prompts = [example.inputs_pretokenized for example in examples]
    answers = Model.load(str(model_dir)).generate(prompts, max_new_tokens=8)
    scores = []
    for example, answer in zip(examples, answers, strict=True):
        scores.append(score_text(answer, example.references)["exact_match"])
        print(f"{example.inputs_pretokenized!r} -> {answer!r}")
    return 100 * sum(scores) / len(scores)


def main() -> None:
    """Rows, run, score."""
    model_dir = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/kinds")
    model_dir.mkdir(parents=True, exist_ok=True)
    rows = model_dir / "kinds.jsonl"
    write_rows(rows, ["Emma", "Tom", "Zoe", "Karl", "Max", "Lily", "Leo", "Clara"])
    write_rows(rows.with_name("kinds.test.jsonl"), ["Ivan", "Nora"])
    tune(model_dir, rows)
    print(f"exact match on the test rows: {exact_match(model_dir, rows):.1f}")


if __name__ == "__main__":
    main()
