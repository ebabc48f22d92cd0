"""The command, with a small model of random weights: the same files however it is run."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from mixtures.vocabularies import bundled_vocabulary
from t5x_ext import Model, specialize
from t5x_ext.checkpoints.adapters import open_adapter
from t5x_ext.checkpoints.params import open_source
from t5x_ext.decoding import Beam, Contrastive, Sampling
from t5x_ext.decoding.outputs import Output
from t5x_ext.errors import ConfigError
from t5x_ext.generation import (
    CompletionRequest,
    InstructionSettings,
    ResponseSettings,
    text_models,
    tuning,
)
from t5x_ext.generation.pipeline import Pipeline
from t5x_ext.generation.records import bundled
from t5x_ext.generation.rounds import Round
from t5x_ext.generation.text_models import ModelSource, Writer
from t5x_ext.models import DecoderOnlyModel, network
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.partitioning import PjitPartitioner

FILES = ("requests", "instructions", "rejected", "responses", "train")


def save_model(path: Path, seed: int) -> str:
    """A LLaMA of two layers, long enough for passages, as transformers has it."""
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
    params = model.init_params(jax.random.key(seed))
    Model(config, params, vocabulary, PjitPartitioner()).save(str(path), "hf")
    return str(path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "llama", 0)


def run(checkpoint: str, directory: Path, *more: str) -> int:
    macros = {
        "CHECKPOINT_PATH": repr(checkpoint),
        "SPECIALIZE_DIR": repr(str(directory)),
        "NUM_ROWS": 4,
        "NUM_PASSAGES": 2,
        "EVALUATION": repr((bundled("evaluation/harbour_cargo.jsonl"),)),
        "SHOTS": (1,),
        "BATCH_SIZE": 4,
        "TRAIN_STEPS": 4,
        "TRAIN_BATCH_SIZE": 8,
        "SAVE_PERIOD": 2,
        "LEARNING_RATE": 0.05,
        "TASK_FEATURE_LENGTHS": "{'inputs': 224, 'targets': 32}",
        "InstructionSettings.max_new_tokens": 24,
        "InstructionSettings.max_requests": 4,
        "ResponseSettings.max_new_tokens": 12,
        "ResponseSettings.keep_cut": True,  # nothing else comes from random weights
        "EvaluationSettings.max_new_tokens": 8,
        "TuningSettings.remat_policy": "'none'",
    }
    flags = [f"--gin.{name}={value}" for name, value in macros.items()]
    return specialize.main(["--gin_file=runs/specialize.gin", *flags, *more])


def tasks_file(directory: Path) -> Path:
    """Tasks to answer, as a model that has learned something would write them."""
    directory.mkdir(exist_ok=True, parents=True)
    names = ["tug", "fog bell", "oil boom"]
    tasks = [("Say what this is for.", name) for name in names] + [("Zxq qqz?", "zzx")]
    file = directory / "tasks.jsonl"
    lines = [
        json.dumps({"id": f"t{n}", "instruction": instruction, "input": text}) + "\n"
        for n, (instruction, text) in enumerate(tasks)
    ]
    file.write_text("".join(lines))
    return file


def with_tasks(directory: Path) -> list[str]:
    file = str(tasks_file(directory))
    return [f"--gin.INSTRUCTIONS={file!r}", "--gin.NEW_INSTRUCTIONS=False"]


def records(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def counted() -> Counter[str]:
    """Tokens that the model of `finished` read and wrote, as they went through it."""
    return Counter()


@pytest.fixture(scope="module")
def finished(
    checkpoint: str, tmp_path_factory: pytest.TempPathFactory, counted: Counter[str]
) -> Path:
    """The directory of a run of both rounds."""
    directory = tmp_path_factory.mktemp("run")
    generate = Model.generate_outputs

    def counting(model: Model, prompts: list, **how: Any) -> list[Output]:
        outputs = generate(model, prompts, **how)
        sides = 2 if isinstance(how["decoding"], Contrastive) else 1
        texts = [text for contexts in prompts for text in contexts]
        counted["read"] += sides * sum(len(model.vocabulary.encode(text)) for text in texts)
        counted["written"] += sum(len(output.log_probs) for output in outputs)
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "generate_outputs", counting)
        assert run(checkpoint, directory, *with_tasks(directory)) == 0
    return directory


def test_rows_beyond_the_context_are_refused_before_any_is_written(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 4000, 'targets': 97}"
    assert run(checkpoint, tmp_path / "run", lengths) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: TASK_FEATURE_LENGTHS: {'inputs': 4000, 'targets': 97}; ")
    assert "allowed: 4096 in all" in error and not (tmp_path / "run").exists()


def test_answers_longer_than_what_is_tuned_on_are_refused_before_any_is_written(
    checkpoint: str, tmp_path: Path, capsys
) -> None:
    limit = "--gin.ResponseSettings.max_new_tokens=33"
    assert run(checkpoint, tmp_path / "run", limit) == 1
    assert capsys.readouterr().err == (
        "error: ResponseSettings.max_new_tokens: 33; allowed: up to 32, the tokens of a response "
        "that are tuned on (TASK_FEATURE_LENGTHS['targets'])\n"
    )
    assert not (tmp_path / "run").exists()


def test_questions_are_answered_as_the_command_says(checkpoint: str, tmp_path: Path) -> None:
    named = "--gin.specialize.evaluation_decoding=@decoding.{}()"
    flags = "--stage=evaluate", "--gin.EvaluationSettings.seed=7"
    assert run(checkpoint, tmp_path, named.format("Sampling"), *flags) == 0
    answers = records(tmp_path / "evaluation" / "base-k1.jsonl")
    assert all(
        each["method"].startswith("Sampling(") and "seed=7" in each["method"] for each in answers
    )
    round_ = Round([], InstructionSettings("x"), ResponseSettings("x"))
    beam: Any = Beam()
    with pytest.raises(ConfigError, match=r"specialize.evaluation_decoding: Beam\(.*; allowed: G"):
        Pipeline(epath.Path(tmp_path), ModelSource(checkpoint), round_, evaluation_decoding=beam)


def test_two_rounds_end_with_two_experts_and_their_scores(finished: Path) -> None:
    first, second = (records(finished / f"round{n}" / "responses.jsonl") for n in (1, 2))
    assert [len(response["passages"]) for response in first] == [2, 2, 2, 0]
    assert [r["passages"] for r in first] == [r["passages"] for r in second]
    assert {"Contrastive" in r["method"] and "amateur" in r["method"] for r in second} == {True}
    assert {r["model"] for r in first} != {r["model"] for r in second}
    for number in (1, 2):
        adapter = finished / f"round{number}" / "adapter"
        own = json.loads((adapter / "t5x_ext.json").read_text())
        assert own["prompt"] == "alpaca" and own["step"] == 4
        assert own["base"]["quantization"] == "none"
        rows = records(finished / f"round{number}" / "train.jsonl")
        assert [row["round"] for row in rows] == [number] * 4
    scores = json.loads((finished / "scores.json").read_text())
    assert list(scores["models"]) == ["base", "base_template", "round1", "round2"]
    for by_shots in scores["models"].values():
        assert by_shots["1"]["rows"] == 6 and by_shots["1"]["tasks"]["harbour_cargo"]["rows"] == 6
    asked = records(finished / "evaluation" / "base-k1.jsonl")
    assert {(r["shots"], r["template"]) for r in asked} == {(1, "ss.none")}
    table = (finished / "scores.md").read_text()
    assert "base_template, k=1" in table and "f1 without flagged rows" in table


def test_an_expert_warns_of_another_prompt_or_other_kernels_and_of_nothing_else(
    checkpoint: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = ModelSource(checkpoint).describe().config
    shutil.copytree(finished / "round1", tmp_path / "round1", ignore=shutil.ignore_patterns("*run"))
    for name in ("adapter", "tuning.json"):
        path = tmp_path / "round1" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    flags = ["--stage=train", "--gin.QUANTIZATION='nf4'", "--gin.TRAIN_STEPS=1"]
    assert run(checkpoint, tmp_path, *flags) == 0
    capsys.readouterr()
    for directory, kernels, others in ((finished, None, "nf4"), (tmp_path, "nf4", None)):
        adapter = open_adapter(str(directory / "round1" / "adapter"), config)
        adapter.warn_of_prompt("alpaca")
        adapter.warn_of_kernels(kernels, "/base")
        assert capsys.readouterr().err == ""
        adapter.warn_of_prompt("ss.none")
        adapter.warn_of_kernels(others, "/base")
        prompt, tuned = capsys.readouterr().err.splitlines()
        assert prompt.endswith("tuned with prompt 'alpaca', used with 'ss.none'")
        assert ("tuned over llama in NF4" in tuned) == (kernels == "nf4")


def test_what_is_finished_is_skipped_without_weights(
    checkpoint: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*.json*")}
    monkeypatch.setattr(Model, "load", None)
    assert run(checkpoint, finished, *with_tasks(finished)) == 0
    assert {path: path.read_bytes() for path in finished.rglob("*.json*")} == before


def test_a_run_that_was_killed_ends_with_the_same_files(checkpoint: str, finished: Path) -> None:
    kinds, varying = (".jsonl", ".safetensors", ".md"), ("measurements.jsonl", "metrics.jsonl")
    paths = [path for path in finished.rglob("*") if path.suffix in kinds]
    before = {path: path.read_bytes() for path in paths if path.name not in varying}
    (finished / "scores.md").unlink()
    shutil.rmtree(finished / "round2" / "adapter")
    shutil.rmtree(finished / "round2" / "run" / "checkpoint_4")  # that of step 2 is left
    answers = finished / "evaluation" / "round2-k1.jsonl"
    answers.write_bytes(answers.read_bytes()[:-300])
    assert run(checkpoint, finished, *with_tasks(finished), "--gin.BATCH_SIZE=2") == 0
    assert {path: path.read_bytes() for path in before} == before


def test_the_expert_answers_in_peft_as_here(checkpoint: str, finished: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    directory = finished / "round2" / "adapter"
    base = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    row = [5, 9, 300, 17, 4, 88]
    ours = Model.load(checkpoint, adapter=str(directory)).token_logits([row])[0]
    with torch.no_grad():
        alone = base(torch.tensor([row])).logits[0].numpy()
        expert = peft.PeftModel.from_pretrained(base, str(directory)).eval()
        theirs = expert(torch.tensor([row])).logits[0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert np.abs(theirs - alone).max() > 1e-2


def test_a_dry_run_shows_prompts_and_tokens_and_writes_nothing(
    checkpoint: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(Model, "load", None)  # weights must not be read
    monkeypatch.setenv("T5X_EXT_CACHE", str(tmp_path / "cache"))
    assert run(checkpoint, tmp_path / "run", "--dry_run") == 0
    shown = capsys.readouterr().out
    assert "20 seeds, 60 passages, 6 evaluation rows" in shown
    assert shown.count("--- sample prompt") == 5
    assert shown.count("List of 20 tasks:") == 2 and shown.count("\nReference:\n") == 3
    stages = stages_of(shown)
    assert len(stages) == 6 + 4 and stages["round 2 responses"][0] == 2 * 2 * 4
    assert "passages: a sample of the corpus, as it has no index yet" in shown
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache" / "retrieval").exists()


def test_stages_write_the_same_files_at_any_batch_size(checkpoint: str, tmp_path: Path) -> None:
    found = []
    for batch_size in (2, 4):
        directory = tmp_path / str(batch_size)
        size = f"--gin.BATCH_SIZE={batch_size}"
        assert run(checkpoint, directory, size, "--stage=instructions") == 1  # none is kept
        tasks = with_tasks(directory)
        assert run(checkpoint, directory, size, "--stage=responses", *tasks) == 0
        files = [directory / "round1" / f"{name}.jsonl" for name in FILES]
        found.append([file.read_text() for file in files])
    assert found[0] == found[1]
    asked = records(tmp_path / "2" / "round1" / "requests.jsonl")
    assert len(asked) == 4 == len({record["completion"] for record in asked})
    measured = records(tmp_path / "2" / "round1" / "measurements.jsonl")
    assert [record["log_prob"] < 0 for record in measured] == [True] * 4


def test_fewer_rows_than_wanted_are_told(
    checkpoint: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tasks = with_tasks(tmp_path)
    assert run(checkpoint, tmp_path, *tasks, "--stage=responses", "--gin.NUM_ROWS=6") == 0
    assert "round 1: 4 rows of 6: no more tasks came" in capsys.readouterr().err
    assert run(checkpoint, finished, *with_tasks(finished), "--stage=responses") == 0
    assert "no more tasks came" not in capsys.readouterr().err


def test_a_model_draws_by_the_number_of_the_request(checkpoint: str) -> None:
    model = Model.load(checkpoint)
    method = Sampling(seed=3)
    complete = Writer.of(model, "llama").text_model(method, 2).complete
    requests = [CompletionRequest(("Once",), (0.0,), 3, number, 8, ()) for number in (5, 9, 5)]
    first, second, again = (c.text for _, c in sorted(complete(requests)))
    assert first == again != second
    assert [c.text for _, c in complete([requests[1]])] == [second]


def test_a_described_model_is_the_loaded_one(checkpoint: str) -> None:
    described = ModelSource(checkpoint).open()[None]
    assert described.max_tokens == 4096 and len(described.identity) == 16
    text = "Instruction: say\nwhat it is."
    assert described.count_tokens(text) == len(bundled_vocabulary().encode(text))


def test_a_model_is_described_once(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(
        text_models, "open_source", lambda path: opened.append(path) or open_source(path)
    )
    source = ModelSource(checkpoint)
    assert source.describe() is source.describe()
    source.open(), source.counter()
    assert opened == [checkpoint]


def test_the_loss_may_count_prompts(checkpoint: str, finished: Path, tmp_path: Path) -> None:
    rows, base = finished / "round1" / "train.jsonl", ModelSource(checkpoint)
    for counts in (False, True):
        lengths = {"inputs": 224, "targets": 32}
        settings = tuning.TuningSettings(lengths=lengths, loss_on_prompt=counts)
        made = tuning.train_arguments(settings, base, rows, tmp_path)
        assert made["model"].loss_on_prompt is counts
        # Runs that were begun without the field go on.
        assert ("loss_on_prompt" in settings.describe()) is counts
    with pytest.raises(ConfigError, match="loss_on_prompt: 'no'; allowed: True, False"):
        tuning.TuningSettings(loss_on_prompt="no")


def test_rows_without_an_end_in_the_loss_are_refused(checkpoint: str, finished: Path) -> None:
    base = ModelSource(checkpoint)
    settings = tuning.TuningSettings(lengths={"inputs": 224, "targets": 32})
    rows = finished / "round1" / "train.jsonl"
    arguments = tuning.train_arguments(settings, base, rows, finished / "unused")
    examples = tuning.load_rows(arguments["train_dataset_cfg"], arguments["model"])
    vocabulary = arguments["model"].vocabulary
    tuning.check_ends(examples, vocabulary)
    object.__setattr__(examples[2], "targets", (examples[2].targets[0][:-1],))
    with pytest.raises(ConfigError, match=f"row {examples[2].id}: no end of sequence"):
        tuning.check_ends(examples, vocabulary)


def test_what_cannot_be_run_is_one_line(
    checkpoint: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def refused(*flags: str, where: Path = tmp_path, model: str = checkpoint) -> str:
        assert run(model, where, *flags) == 1
        said = capsys.readouterr().err.strip()
        assert said.splitlines()[-1].startswith("error: ")
        return said.splitlines()[-1]

    assert "--stage: 'response'; did you mean 'responses'?" in refused("--stage=response")
    assert "--round: 3; allowed: 1 to ROUNDS (2)" in refused("--stage=train", "--round=3")
    assert "--devices: '1xH200' without --dry_run; allowed" in refused("--devices=1xH200")
    assert "--topology: 'v5e:2x4' without --dry_run" in refused("--topology=v5e:2x4")
    assert "round1/train.jsonl: no such file; run the stage 'resp" in refused("--stage=train")
    said = refused("--stage=responses")
    assert "round1/instructions.jsonl: no such file; run the stage 'instructions' first" in said
    assert "round 2 needs it" in refused("--stage=responses", "--round=2")
    assert "none.jsonl: cannot be read" in refused("--gin.SEEDS='none.jsonl'")
    assert "no_model" in refused(model=str(tmp_path / "no_model"))
    for name in ("SEEDS", "CORPUS", "INSTRUCTIONS", "VOCABULARY_PATH"):
        # The default in its place would be the bundled seeds, no passages or the model's own tasks.
        assert f"{name}: ''; allowed: a path" in refused(f"--gin.{name}=''")
    assert "INSTRUCTIONS: 'none.jsonl'" in refused("--gin.INSTRUCTIONS='none.jsonl'", "--dry_run")
    assert "QUANTIZATION: 'nf5'" in refused("--gin.QUANTIZATION='nf5'", "--dry_run")
    seeds, corpus = tmp_path / "seeds.jsonl", tmp_path / "corpus.jsonl"
    seeds.write_text('{"instruction": "Say it.", "input": "it"}\n')
    assert "line 1: field 'output': missing" in refused(f"--gin.SEEDS='{seeds}'")
    bundled_seeds = Path(bundled("seeds.jsonl")).read_text().splitlines(keepends=True)
    seeds.write_text("".join(bundled_seeds[:4]))
    too_few = "SHOTS: 5, but task 'harbour_cargo' has 4 seeds; allowed: at most as many"
    shots = "--gin.SHOTS=(0, 5, 1)"
    assert too_few in refused(shots, f"--gin.SEEDS='{seeds}'", where=tmp_path / "few")
    assert not (tmp_path / "few").exists()  # before anything is written
    corpus.write_text("")
    assert f"{corpus}: " in refused(f"--gin.CORPUS='{corpus}'")
    limit = "--gin.ResponseSettings.max_new_tokens=4090"
    too_long = refused("--stage=responses", limit, *with_tasks(tmp_path))
    assert "ResponseSettings.max_new_tokens: 4090; allowed: at most" in too_long
    assert "SHOTS: (); allowed:" in refused("--gin.SHOTS=()", where=tmp_path / "few")
    assert not (tmp_path / "few").exists()
    other = save_model(tmp_path / "other", 1)
    assert "an adapter of another base" in refused("--stage=evaluate", where=finished, model=other)
    assert "tuning.json: 'base' was" in refused("--stage=train", where=finished, model=other)
    again = refused("--stage=train", "--gin.LEARNING_RATE=0.1", where=finished)
    assert "tuning.json: 'learning_rate' was 0.05" in again
    dtype = "--gin.ACTIVATION_DTYPE='bfloat16'"
    assert "tuning.json: 'dtype' was 'float32'" in refused(dtype, "--stage=train", where=finished)
    damaged = shutil.copytree(finished, tmp_path / "damaged")
    (damaged / "round1" / "tuning.json").write_text('{"rows": ')
    assert "tuning.json: cannot be read as JSON" in refused("--stage=train", where=damaged)
    answers = refused(dtype, "--stage=responses", *with_tasks(finished), where=finished)
    assert "responses.jsonl: line 1: field 'model'" in answers and "dtype" in answers


def test_a_round_is_a_plain_number(capsys: pytest.CaptureFixture) -> None:
    parser = argparse.ArgumentParser()
    specialize._add_flags(parser)
    for text in ("1_0", "0", " 2"):
        with pytest.raises(SystemExit):
            parser.parse_args([f"--round={text}"])
        assert f"argument --round: {text!r}; allowed:" in capsys.readouterr().err


def test_a_half_written_line_is_written_again(
    checkpoint: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(finished / "round1", tmp_path / "round1")
    responses = tmp_path / "round1" / "responses.jsonl"
    whole = responses.read_bytes()
    responses.write_bytes(whole[:-40])
    assert run(checkpoint, tmp_path, "--stage=responses", *with_tasks(finished)) == 0
    assert responses.read_bytes() == whole
    assert "line 4 is incomplete and is written again" in capsys.readouterr().err


def test_a_dry_run_takes_lengths_from_what_was_written(
    checkpoint: str, finished: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(checkpoint, finished, *with_tasks(finished), "--dry_run", "--devices=1xH200") == 0
    shown = capsys.readouterr().out
    assert "round 1: answers as the 4 in the directory" in shown and "1xH200" in shown
    count = ModelSource(checkpoint).open()[None].count_tokens
    answers = records(finished / "round1" / "responses.jsonl")
    written = sum(min(count(answer["output"]) + 1, 12) for answer in answers)
    found = next(line.split() for line in shown.splitlines() if "round 1 responses" in line)
    assert (found[3], found[5]) == ("7", str(written))
    stages = stages_of(shown)
    for flags, begins in (
        (["--stage=responses"], "round 1 responses"),
        (["--stage=train", "--round=2"], "round 2 train"),
        (["--stage=evaluate"], "evaluate "),
    ):
        assert run(checkpoint, finished, *with_tasks(finished), "--dry_run", *flags) == 0
        one = stages_of(capsys.readouterr().out)
        assert one == {name: each for name, each in stages.items() if name.startswith(begins)}
        assert one


def stages_of(shown: str) -> dict[str, list[int]]:
    """Prompts, tokens read and tokens written, by the stages that a dry run shows."""
    lines = [line for line in shown.splitlines() if line.startswith(("round ", "evaluate "))]
    table = [line for line in lines if ":" not in line]  # below it, "round 1: ..." says from what
    return {
        line[:24].strip(): [int(n.replace(",", "")) for n in line[24:].split()[:3]]
        for line in table
    }


def test_half_the_records_tell_the_tokens_of_the_whole_run(
    checkpoint: str, finished: Path, counted: Counter[str], tmp_path: Path, capsys
) -> None:
    begun = [f"round{n}/{name}.jsonl" for n in (1, 2) for name in ("responses", "train")]
    begun += [str(p.relative_to(finished)) for p in finished.glob("evaluation/*.jsonl")]
    for name in begun:
        lines = (finished / name).read_text().splitlines(keepends=True)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(lines[: len(lines) // 2]))
    assert run(checkpoint, tmp_path, *with_tasks(finished), "--dry_run", "--devices=1xH200") == 0
    stages = stages_of(capsys.readouterr().out)
    asked = [found for stage, found in stages.items() if not stage.endswith("train")]
    assert len(asked) == 2 + 4
    assert sum(read for _, read, _ in asked) == pytest.approx(counted["read"], rel=0.1)
    assert sum(written for *_, written in asked) == pytest.approx(counted["written"], rel=0.1)


def test_a_list_that_ends_at_the_limit_holds_fewer_tasks(
    checkpoint: str, tmp_path: Path, capsys
) -> None:
    flags = ["--gin.InstructionSettings.max_new_tokens=240", "--gin.NUM_ROWS=40"]
    flags += ["--gin.InstructionSettings.max_requests=1000", "--gin.ROUNDS=1"]
    assert run(checkpoint, tmp_path / "none", *flags, "--dry_run", "--devices=1xH200") == 0
    shown = capsys.readouterr().out
    count = ModelSource(checkpoint).open()[None].count_tokens
    text = "###\n9. Instruction: {instruction}\n9. Input:\n{input}\n"
    seeds = records(Path(bundled("seeds.jsonl")))
    task = sum(count(text.format(**seed)) for seed in seeds) / len(seeds)
    kept = 0.5 * (240 / task - 0.5)  # half of the tasks that are whole; the last is cut
    requests = math.ceil(math.ceil(40 / kept) / 4) * 4  # batches of four
    assert stages_of(shown)["round 1 instructions"][::2] == [requests, 240 * requests]
    # An untuned model's answers: as far above the seeds' as below the limit, 12 tokens.
    least = sum(min(count(seed["output"]) + 1, 12) for seed in seeds) / len(seeds)
    written = round(40 * math.sqrt(least * 12))
    assert stages_of(shown)["round 1 responses"][2] == written
    assert f"off by a factor of {math.sqrt(12 / least):.1f} at most" in shown
