"""Held-out loss on a sample of the examples, and what tells the runs of eval and infer apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from mixtures.vocabularies import ByteVocabulary
from t5x_ext.checkpoints import peft, save_params
from t5x_ext.checkpoints.best import Best
from t5x_ext.configs import DatasetConfig, RestoreCheckpointConfig, SuperNIConfig
from t5x_ext.data import datasets
from t5x_ext.data.records import Example
from t5x_ext.data.tables import JoinedTable, MemoryTable
from t5x_ext.models import DecoderOnlyModel, EncoderDecoderModel, network, parameters
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.runs.evaluation import evaluate_loss, first_of_all_tasks
from t5x_ext.runs.evaluation_hook import Evaluation
from t5x_ext.runs.restored import restore_each
from t5x_ext.training.trainer import Program, Trainer

CONFIG = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_dim=32,
)


def make_examples(task: str, count: int, lengths=(2, 100)) -> list[Example]:
    random = np.random.default_rng(0)

    def tokens(low: int, high: int) -> np.ndarray:
        return random.integers(3, 64, random.integers(low, high)).astype(np.int32)

    return [
        Example(f"{task}{i}", task, "", tokens(*lengths), (tokens(1, 8),), "", ("x",), False)
        for i in range(count)
    ]


def test_a_few_batches_are_of_the_first_examples_and_not_of_the_longest() -> None:
    examples = make_examples("task", 60)
    model = EncoderDecoderModel(network.Transformer(CONFIG))
    program = Program(model, PjitPartitioner(devices=jax.devices()[:1]), Trainer())
    weights = parameters.init_params(model.specs, jax.random.key(0))
    cfg = DatasetConfig("task", {"inputs": 100, "targets": 8}, "validation", batch_size=8)
    limited = evaluate_loss(program, weights, examples, cfg, max_batches=3)
    assert limited == evaluate_loss(program, weights, examples[:24], cfg)
    longest = sorted(examples, key=lambda example: -len(example.inputs))[:24]
    other = evaluate_loss(program, weights, longest, cfg)
    assert limited["cross_entropy"] != pytest.approx(other["cross_entropy"], rel=1e-4)


def test_a_sample_of_several_tasks_holds_each_in_proportion() -> None:
    tasks = {"a": 50, "b": 30, "c": 20}
    examples = [ex for task, count in tasks.items() for ex in make_examples(task, count)]
    ids = [example.id for example in first_of_all_tasks(examples, 10)]
    assert ids == ["a0", "a1", "a2", "a3", "a4", "b0", "b1", "b2", "c0", "c1"]
    assert first_of_all_tasks(examples, 100) == first_of_all_tasks(examples, 500) == examples


class CountedTable(MemoryTable):
    """Tells how many examples are read of it."""

    num_read = 0

    def read(self, indices: Sequence[int]) -> list[Example]:
        self.num_read += len(indices)
        return super().read(indices)


def test_few_examples_on_disk_are_read_for_a_few_batches() -> None:
    sizes = {"a": 5000, "b": 3000, "c": 2000}
    lists = {task: make_examples(task, count, (2, 9)) for task, count in sizes.items()}
    tables = [CountedTable(examples) for examples in lists.values()]
    stored = JoinedTable(tables)
    cfg = DatasetConfig("task", None, "validation", batch_size=8)
    lengths = {"inputs": 8, "targets": 7}
    assert datasets.with_lengths(cfg, stored).task_feature_lengths == lengths
    Evaluation(loss_examples=stored).check_best(Best("eval/cross_entropy", "min"))
    assert sum(table.num_read for table in tables) == 0
    ids = [example.id for example in first_of_all_tasks(stored, 10)]
    assert sum(table.num_read for table in tables) < 1000
    whole = [example for examples in lists.values() for example in examples]
    assert ids == [example.id for example in first_of_all_tasks(whole, 10)]
    assert datasets.with_lengths(cfg, whole).task_feature_lengths == lengths


LLAMA = LlamaConfig(
    vocab_size=300,
    emb_dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=32,
)


@pytest.fixture
def sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Signature of a run of `infer` over one base: `sign(adapter directory, quantization, ...)`."""
    plain = str(tmp_path / "base")
    specs = network.Transformer(LLAMA).specs
    save_params(plain, parameters.init_params(specs, jax.random.key(0)), {})
    monkeypatch.setattr(datasets, "set_context", lambda *_: None)
    monkeypatch.setattr(datasets, "load_flat", lambda _: make_examples("task", 3, (2, 9)))
    monkeypatch.setattr(datasets, "prompt_of", lambda _: None)

    def sign(
        adapter: Path | None = None,
        quantization: str | None = None,
        base: str = plain,
        **settings,
    ) -> str:
        model = DecoderOnlyModel(
            network.Transformer(LLAMA, quantization=quantization), ByteVocabulary(), **settings
        )
        (restored,) = restore_each(
            model,
            DatasetConfig("task", {"inputs": 16, "targets": 8}, "test", batch_size=2),
            RestoreCheckpointConfig(base, adapter=adapter and str(adapter)),
            SuperNIConfig(),
            PjitPartitioner(devices=jax.devices()[:1]),
        )
        return restored.signature

    return sign


def test_runs_are_told_apart_by_all_that_changes_predictions(sign, tmp_path: Path) -> None:
    plain = sign()
    known = {"weights", "prompts", "model", "vocabulary", "dtype", "lengths", "decoding"}
    assert json.loads(plain).keys() == known  # a run that an older version began goes on
    assert sign(loss_on_prompt=True) == plain  # decodes as without
    found = {plain, sign(quantization="nf4"), sign(inputs_bidirectional_attention=True)}

    lora = LoRA(2, alpha=4.0, targets=["query"])
    drawn = parameters.init_params(network.Transformer(LLAMA, lora).trainable, jax.random.key(1))
    peft.write(str(tmp_path / "adapter"), LLAMA, peft.StoredAdapter(lora, drawn))
    config = tmp_path / "adapter" / "adapter_config.json"
    fields = json.loads(config.read_text())
    for changes in (
        {},
        {"lora_alpha": 8.0},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 9}},
    ):
        config.write_text(json.dumps(fields | changes))
        found.add(sign(config.parent))
    found.add(sign(config.parent, quantization="nf4"))
    assert len(found) == 3 + 5
    assert sign(config.parent) in found and sign() == plain


@pytest.mark.parametrize(
    ("tuned", "used", "told"),
    [
        ("alpaca", "tk.def", "tuned with prompt 'alpaca', used with 'tk.def'"),
        ("alpaca", "alpaca", ""),
        ("alpaca", None, ""),
        (None, "alpaca", ""),
    ],
)
def test_a_whole_model_used_with_another_prompt_is_told(
    sign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, tuned, used, told
) -> None:
    specs = network.Transformer(LLAMA).specs
    run = str(tmp_path / "run")
    save_params(run, parameters.init_params(specs, jax.random.key(0)), {"prompt": tuned})
    monkeypatch.setattr(datasets, "prompt_of", lambda _: used)
    capsys.readouterr()
    sign(base=run)
    assert capsys.readouterr().err == (f"warning: {run}: {told}\n" if told else "")
