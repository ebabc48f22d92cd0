"""Self-specialization over the study engine: models that write what others are tuned on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import compilers
import pytest

from t5x_ext.checkpoints.adapters import open_adapter
from t5x_ext.errors import ConfigError
from t5x_ext.generation import InstructionSettings, ResponseSettings
from t5x_ext.metrics.predictions import read_predictions
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.reports.datasets.content import build_document, find
from t5x_ext.reports.study_files import read_study
from t5x_ext.studies import self_specialization_arms, self_specialization_data
from t5x_ext.studies.generated_data import GeneratedKeys

REPO = Path(__file__).resolve().parents[2]
SMALL = """
from __gin__ import dynamic_registration
from t5x_ext import generation
from t5x_ext import studies
from t5x_ext.models import llama
include 'gin_configs/studies/self_specialization_tiny.gin'
TASKS = ("self.harbour.harbour_cargo", "self.harbour.harbour_cargo.k1")
TEST_EXAMPLES = 3
EVAL_BATCH_SIZE = 8
ROWS = 2
PASSAGES = (0, 2)
EXPERTS = 1
LORA_RANK = 2
llama.LlamaConfig.emb_dim = 64
llama.LlamaConfig.head_dim = 16
llama.LlamaConfig.mlp_dim = 128
llama.LlamaConfig.num_layers = 1
pretrain/studies.Recipe.steps = 60
pretrain/studies.Recipe.batch_size = 8
cells/studies.Recipe.epochs = 1
cells/studies.Recipe.min_steps = 2
cells/studies.Recipe.batch_size = 8
cells/studies.Recipe.task_feature_lengths = {"inputs": 160, "targets": 8}
generation.InstructionSettings.max_new_tokens = 192
generation.ResponseSettings.max_new_tokens = 8
generation.ResponseSettings.keep_cut = True
studies.self_specialization_arms.sizes = (1,)
studies.self_specialization_arms.human = (2,)
studies.self_specialization_arms.only = (
    "ss_base", "ss_supervised", "ss_r1_docs0", "ss_r1_docs2", "ss_r2_same"
)
"""


def run(directory: Path) -> str:
    """Runs the command, compiling quickly, and gives what it says."""
    flags = [f"--gin_file={directory / 'small.gin'}", f"--gin.MODEL_DIR='{directory / 'study'}'"]
    env = os.environ | {"XLA_FLAGS": compilers.UNOPTIMISED}
    env.pop("SPECIALIZATION_DIR", None)
    done = subprocess.run(
        [sys.executable, "-m", "t5x_ext.study", *flags],
        cwd=REPO,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def made_of(directory: Path) -> dict[str, Path]:
    """Directories of generated rows by name."""
    found = (directory / "study" / "generated").glob("*/made.json")
    return {json.loads(path.read_text())["name"]: path.parent for path in found}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("self")
    (directory / "small.gin").write_text(SMALL)
    run(directory)
    return directory


@pytest.fixture(scope="module")
def results(finished: Path) -> dict[str, dict]:
    found = {}
    for path in (finished / "study" / "cells").glob("*/result.json"):
        result = json.loads(path.read_text()) | {"path": path.parent}
        found[f"{result['arm']} {result['budget']}"] = result
    return found


pytestmark = pytest.mark.slow


def test_every_arm_is_scored_by_the_metrics_of_its_sets(results: dict[str, dict]) -> None:
    assert set(results) == {
        *("ss_base n0", "ss_supervised n2", "ss_r1_docs0 n2", "ss_r1_docs2 n1"),
        *("ss_r1_docs2 n2", "ss_r2_same n2"),
    }
    for result in results.values():
        rows = read_predictions(result["path"] / "predictions.jsonl")
        for name, scores in result["scores"]["by_task"].items():
            mine = [row.score["f1"] for row in rows if row.task == name]
            assert scores["f1"] == pytest.approx(100 * sum(mine) / len(mine), abs=1e-6)
            assert {"label_accuracy", "label_validity", "rougeL"} <= set(scores)
            ended = [row.finish != "length" for row in rows if row.task == name]
            assert result["stopped_by_task"][name] == pytest.approx(100 * sum(ended) / len(ended))
            assert not any("###" in row.prediction for row in rows)
    counts = {name: result["train_examples"] for name, result in results.items()}
    assert counts["ss_supervised n2"] == 8  # two of each set
    assert counts["ss_r1_docs2 n1"] == 1 and counts["ss_r1_docs2 n2"] == 2
    assert set(results["ss_r1_docs2 n2"]["train_examples_by_task"].values()) == {2}


def test_tasks_are_written_once_and_answered_by_each_arm(finished: Path) -> None:
    made = made_of(finished)
    assert set(made) == {"r1_docs0", "r1_docs2", "r2_same"}
    told = {name: json.loads((path / "made.json").read_text()) for name, path in made.items()}
    assert len({each["tasks"] for each in told.values()}) == 1
    asked = {r["id"] for r in lines(made["r1_docs0"].parent / told["r2_same"]["tasks"] / TASKS)}
    for name, path in made.items():
        rows = lines(path / "responses.jsonl")
        assert {row["id"] for row in rows} <= asked
        assert {len(row["passages"]) for row in rows} == {0 if name == "r1_docs0" else 2}
    second = lines(made["r2_same"] / "responses.jsonl")[0]
    assert "Contrastive" in second["method"]
    assert second["model"] != lines(made["r1_docs2"] / "responses.jsonl")[0]["model"]


TASKS = "instructions.jsonl"


def test_the_report_finds_what_was_written(finished: Path) -> None:
    findings = find(read_study(finished / "study"))
    found = {each.name: each for each in findings.generated}
    made = made_of(finished)
    assert set(found) == set(made)
    for name, path in made.items():
        told = json.loads((path / "made.json").read_text())
        assert found[name].yields.answers == told["answers"]
        assert found[name].yields.num_tasks > 0 and found[name].flagged is not None
    document = build_document(findings)
    assert "What models wrote for themselves" in [section.title for section in document.sections]


def test_the_adapters_of_round_one_are_kept_for_round_two(finished: Path) -> None:
    made = made_of(finished)
    writer = lines(made["r2_same"] / "responses.jsonl")[0]["model"]
    config = LlamaConfig(
        vocab_size=1024,
        emb_dim=64,
        num_layers=1,
        num_heads=4,
        num_kv_heads=4,
        head_dim=16,
        mlp_dim=128,
        max_length=704,
    )
    adapter = open_adapter(str(finished / "study" / "adapters" / writer), config)
    assert adapter.lora.rank == 2 and adapter.base_fingerprint
    assert (adapter.prompt, adapter.base_quantization) == ("alpaca", "none")


def test_what_was_lost_is_made_again_the_same_and_nothing_else(
    finished: Path, results: dict[str, dict]
) -> None:
    rows = made_of(finished)["r2_same"] / "responses.jsonl"
    whole = rows.read_bytes()
    rows.write_bytes(whole[: len(whole) // 2])
    for lost in ("train.jsonl", "measurements.jsonl", "made.json"):
        (rows.parent / lost).unlink()
    result = results["ss_r2_same n2"]["path"] / "result.json"
    scores = json.loads(result.read_text())["scores"]
    result.unlink()
    files = [
        p for p in (finished / "study" / "generated").rglob("*.jsonl") if p.parent != rows.parent
    ]
    before = {path: path.read_bytes() for path in files}
    assert "6 cells, 5 finished before, 1 to run" in run(finished)
    assert rows.read_bytes() == whole
    assert json.loads(result.read_text())["scores"] == scores
    assert {path: path.read_bytes() for path in files} == before


def keys(arms, data, seed: int = 0, initial: str = "weights") -> GeneratedKeys:
    by_name = {each.name: each for each in data}
    return GeneratedKeys(
        by_name,
        {"base": initial},
        {arm.name: arm for arm in arms},
        seed,
        lambda arm, budget, seed: f"{arm.name} {budget} {seed}",
        {},
    )


def parts(**changes):
    asking, answering = InstructionSettings("harbour"), ResponseSettings("harbour")
    arms = self_specialization_arms("harbour", ("harbour_log",), rows=10, **changes)
    return arms, self_specialization_data("harbour", asking, answering)


def test_keys_follow_from_what_determines_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPECIALIZATION_DIR", raising=False)
    found = keys(*parts())
    names = ("r1_docs0", "r1_docs1", "r1_docs5", "r1_docs5_softmax", "r2_same", "r2", "r2_greedy")
    assert len({found.rows(name) for name in names}) == len(names)
    round_one = {found.tasks(name) for name in names[:5]}  # r2_same answers them again
    assert len(round_one) == 1 and found.tasks("r2") == found.tasks("r2_greedy")
    assert [found.level(name) for name in ("r1_docs5", "r2_same", "r2")] == [0, 1, 1]
    other = keys(*parts(), initial="other weights")
    assert not {other.rows(name) for name in names[:4]} & {found.rows(name) for name in names}


def test_unknown_arms_writers_and_data_are_refused() -> None:
    with pytest.raises(ConfigError, match="ss_r1_doc5'; did you mean 'ss_r1_docs5'"):
        parts(only=("ss_r1_doc5",))
    with pytest.raises(ConfigError, match="ss_mix: .* `t5x_ext convert --combine`, or") as error:
        parts(only=("ss_mix",))
    assert "\n" not in str(error.value)
    arms, data = parts(only=("ss_base",))
    with pytest.raises(ConfigError, match="GeneratedData r2: writer 'ss_r1_docs5'; allowed: an"):
        keys(arms, data).writer("r2")
    with pytest.raises(ConfigError, match="'generated.r3' is not among"):
        keys(arms, data).rows("r3")
