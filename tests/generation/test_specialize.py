"""The command, with a small model of random weights: the same files however it is run."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from mixtures.vocabularies import bundled_vocabulary
from t5x_ext import Model, specialize
from t5x_ext.decoding import Sampling
from t5x_ext.generation import Request
from t5x_ext.generation.records import bundled
from t5x_ext.generation.text_models import Weights, Writer
from t5x_ext.models import DecoderOnlyModel, network
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.partitioning import PjitPartitioner

FILES = ("requests", "instructions", "rejected", "responses", "train")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A LLaMA of two layers, long enough for five passages."""
    vocabulary = bundled_vocabulary()
    config = LlamaConfig(
        vocab_size=vocabulary.vocab_size,
        emb_dim=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        mlp_dim=32,
        max_length=4096,
    )
    model = DecoderOnlyModel(network.Transformer(config), vocabulary)
    params = model.init_params(jax.random.key(0))
    path = str(tmp_path_factory.mktemp("models") / "llama")
    Model(config, params, vocabulary, PjitPartitioner()).save(path)
    return path


def run(checkpoint: str, directory: Path, *more: str) -> int:
    macros = {
        "CHECKPOINT_PATH": repr(checkpoint),
        "SPECIALIZE_DIR": repr(str(directory)),
        "NUM_ROWS": 6,
        "NUM_PASSAGES": 2,
        "specialize.max_instruction_tokens": 24,
        "specialize.max_response_tokens": 12,
        "specialize.max_answer_tokens": 8,
        "specialize.max_requests": 4,
    }
    flags = [f"--gin.{name}={value}" for name, value in macros.items()]
    return specialize.main(["--gin_file=runs/specialize.gin", *flags, *more])


def test_a_dry_run_shows_prompts_and_tokens_and_writes_nothing(
    checkpoint: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(Model, "load", None)  # weights must not be read
    assert run(checkpoint, tmp_path / "run", "--dry_run") == 0
    shown = capsys.readouterr().out
    assert "20 seeds, 60 passages, 24 evaluation rows" in shown
    assert shown.count("--- sample prompt") == 5
    assert shown.count("List of 20 tasks:") == 2 and shown.count("\nReference:\n") == 3
    assert not (tmp_path / "run").exists()


def tasks_file(directory: Path) -> Path:
    """Tasks to answer, as a model that has learned something would write them."""
    directory.mkdir(exist_ok=True)
    names = ["tug", "fog bell", "oil boom"]
    tasks = [("Say what this is for.", name) for name in names] + [("Zxq qqz?", "zzx")]
    file = directory / "tasks.jsonl"
    lines = [
        json.dumps({"id": f"t{n}", "instruction": instruction, "input": text}) + "\n"
        for n, (instruction, text) in enumerate(tasks)
    ]
    file.write_text("".join(lines))
    return file


def test_stages_write_the_same_files_at_any_batch_size(checkpoint: str, tmp_path: Path) -> None:
    found = []
    for batch_size in (2, 4):
        directory = tmp_path / str(batch_size)
        tasks = f"--gin.INSTRUCTIONS={str(tasks_file(directory))!r}"
        size = f"--gin.BATCH_SIZE={batch_size}"
        assert run(checkpoint, directory, size, "--stage=instructions") == 0
        assert run(checkpoint, directory, size, "--stage=responses", tasks) == 0
        found.append([(directory / f"{name}.jsonl").read_text() for name in FILES])
    assert found[0] == found[1]
    requests, *_, responses, _ = (
        [json.loads(line) for line in text.splitlines()] for text in found[0]
    )
    assert len(requests) == 4 == len({record["completion"] for record in requests})
    assert [len(response["passages"]) for response in responses] == [2, 2, 2, 0]
    measured = (tmp_path / "2" / "measurements.jsonl").read_text().splitlines()
    assert [json.loads(line)["log_prob"] < 0 for line in measured] == [True] * 4


def test_evaluation_asks_every_row_after_its_demonstrations(
    checkpoint: str, tmp_path: Path
) -> None:
    evaluation = bundled("evaluation/harbour_cargo.jsonl")
    more = ("--gin.SHOTS=(1,)", f"--gin.EVALUATION=({evaluation!r},)", "--gin.BATCH_SIZE=6")
    assert run(checkpoint, tmp_path, "--stage=evaluate", *more) == 0
    file = tmp_path / "predictions-alpaca-k1.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(records) == 6 and {record["shots"] for record in records} == {1}


def test_a_model_draws_by_the_number_of_the_request(checkpoint: str) -> None:
    model = Model.load(checkpoint)
    method = Sampling(seed=3)
    complete = Writer.of(model, "llama").generator(method, 2).complete
    requests = [Request(("Once",), (0.0,), 3, number, 8, ()) for number in (5, 9, 5)]
    first, second, again = (c.text for _, c in sorted(complete(requests)))
    assert first == again != second
    assert [c.text for _, c in complete([requests[1]])] == [second]


def test_what_cannot_generate_is_one_line(checkpoint: str, tmp_path: Path, capsys) -> None:
    assert run(checkpoint, tmp_path, "--stage=response") == 1
    assert "--stage: 'response'; did you mean 'responses'?" in capsys.readouterr().err
    assert run(checkpoint, tmp_path, "--stage=responses") == 1
    assert "instructions.jsonl" in capsys.readouterr().err
    assert run(checkpoint, tmp_path, "--gin.SEEDS='none.jsonl'") == 1
    assert "none.jsonl: cannot be read" in capsys.readouterr().err
    assert run(str(tmp_path / "no_model"), tmp_path) == 1
    assert "no_model" in capsys.readouterr().err
    limit = "--gin.specialize.max_response_tokens=4090"
    tasks = f"--gin.INSTRUCTIONS={str(tasks_file(tmp_path))!r}"
    assert run(checkpoint, tmp_path, "--stage=responses", limit, tasks) == 1
    assert "task t0: its prompt has" in capsys.readouterr().err


def test_a_described_model_is_the_loaded_one(checkpoint: str) -> None:
    described = Weights(checkpoint).open()[None]
    assert described.max_tokens == 4096 and len(described.identity) == 16
    text = "Instruction: say\nwhat it is."
    assert described.count_tokens(text) == len(bundled_vocabulary().encode(text))
