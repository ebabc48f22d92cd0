"""Writing assistance over the study engine: arms with their own data, tuning and decoding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixtures.writing.names import parse_name
from mixtures.writing.sets import TRAINED
from t5x_ext import study
from t5x_ext.checkpoints import load_params, trees
from t5x_ext.decoding import Sampling
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.errors import ConfigError
from t5x_ext.studies import Arm, Recipe, predicting, writing_arms

pytestmark = pytest.mark.slow

SMALL = """
from __gin__ import dynamic_registration
from t5x_ext import studies
from t5x_ext.models import llama
include 'studies/writing_tiny.gin'
TASKS = ("writing.fluency", "writing.paraphrasing")
TEST_EXAMPLES = 4
EVAL_BATCH_SIZE = 8
LORA_RANK = 2
llama.LlamaConfig.emb_dim = 16
llama.LlamaConfig.head_dim = 8
llama.LlamaConfig.num_heads = 2
llama.LlamaConfig.num_kv_heads = 2
pretrain/studies.Recipe.steps = 2
cells/studies.Recipe.steps = 2
full/studies.Recipe.steps = 2
pretrain/studies.Recipe.batch_size = 8
cells/studies.Recipe.batch_size = 8
full/studies.Recipe.batch_size = 8
studies.writing_arms.generic = 5
studies.writing_arms.budgets = ("n2", "n4")
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Results and predictions by arm and budget; the study's directory under ''."""
    directory = tmp_path_factory.mktemp("writing")
    config = directory / "small.gin"
    config.write_text(SMALL)
    flags = [f"--gin_file={config}", f"--gin.MODEL_DIR='{directory / 'study'}'"]
    assert study.main(flags) == 0
    found: dict[str, dict] = {"": {"path": directory / "study", "flags": flags}}
    for path in (directory / "study" / "cells").glob("*/result.json"):
        result = json.loads(path.read_text())
        lines = (path.parent / "predictions.jsonl").read_text().splitlines()
        result["predictions"] = [json.loads(line)["prediction"] for line in lines]
        found[f"{result['arm']} {result['budget']}"] = result
    return found


def test_every_arm_is_scored_on_every_set(results: dict[str, dict]) -> None:
    assert set(results) - {""} == {
        "base n0",
        "alpaca n4",
        "writing_only n4",
        "writing_alpaca n2",
        "writing_alpaca n4",
        "writing_alpaca_full n4",
        "writing_alpaca_beam4 n4",
        "writing_alpaca_top_p n4",
        "writing_alpaca_top_p_1 n4",
        "writing_alpaca_top_p_2 n4",
    }
    for name, result in results.items():
        if name:
            assert set(result["scores"]["by_task"]) == {"writing.fluency", "writing.paraphrasing"}
            assert len(result["predictions"]) == 8
            assert {"heading", "empty"} <= set(result["cleaned_answers"])
            keys = {name: set(score) for name, score in result["scores"]["by_task"].items()}
            assert any(key.startswith("gleu") for key in keys["writing.fluency"])
            assert any(key.startswith("sari") for key in keys["writing.paraphrasing"])
    rows = {name: r["train_examples"] for name, r in results.items() if name}
    assert rows["alpaca n4"] == 5 and rows["writing_only n4"] == 24
    # Rows of the tasks: generic ones are none.
    used = {name: r["train_examples_by_task"] for name, r in results.items() if name}
    assert set(used["alpaca n4"].values()) == {0}
    assert set(used["writing_only n4"].values()) == {4}
    assert rows["writing_alpaca n2"] == 17 and rows["writing_alpaca n4"] == 29
    sources = {name: r.get("sources") for name, r in results.items() if name}
    assert sources["writing_only n4"] == dict.fromkeys(TRAINED, 4)
    assert sources["alpaca n4"] == {"generic": 5} and sources["base n0"] is None
    # 2 steps of 8 rows, in which packing joins examples: 5 of them are seen more than once.
    assert results["alpaca n4"]["passes"] == 2


def test_ways_of_decoding_share_one_tuned_model(results: dict[str, dict]) -> None:
    arms = ("writing_alpaca n4", "writing_alpaca_beam4 n4", "writing_alpaca_top_p n4")
    assert len({(r["train_secs"], *r["train_loss"]) for r in map(results.get, arms)}) == 1
    greedy, beam, _ = (results[arm]["predictions"] for arm in arms)
    assert greedy != beam
    assert len({results[arm]["decode_secs"] for arm in arms}) == 3


def test_answers_are_kept_while_the_model_still_gives_others(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "small.gin").write_text(SMALL)
    arms = ("writing_alpaca_beam4", "writing_alpaca_top_p")
    flags = [
        f"--gin_file={tmp_path / 'small.gin'}",
        f"--gin.MODEL_DIR='{tmp_path}'",
        f"--gin.studies.writing_arms.only={arms}",
    ]
    predict = predicting.predict

    def stop_before_sampling(decoder: Decoder, *rest):
        if isinstance(decoder.method, Sampling):
            raise KeyboardInterrupt
        return predict(decoder, *rest)

    monkeypatch.setattr(predicting, "predict", stop_before_sampling)
    assert study.main(flags) == 130
    kept = [json.loads(path.read_text())["arm"] for path in tmp_path.glob("cells/*/result.json")]
    assert kept == ["writing_alpaca_beam4"]


def test_full_tuning_is_another_model_of_the_same_base(results: dict[str, dict]) -> None:
    adapters, full = (results[f"{arm} n4"] for arm in ("writing_alpaca", "writing_alpaca_full"))
    assert adapters["train_loss"][0] == pytest.approx(full["train_loss"][0], rel=1e-4)
    assert adapters["train_loss"][1] != full["train_loss"][1]
    assert full["trainable_parameters"] == full["parameters"]
    assert full["parameter_bytes"] == 4 * full["parameters"]
    tuned = adapters["trainable_parameters"]
    assert 0 < tuned < adapters["parameters"] == full["parameters"] + tuned
    assert results["base n0"]["trainable_parameters"] == 0
    (base,) = (results[""]["path"] / "initials").glob("*/params")
    assert not any("lora" in name for name in trees.named_leaves(load_params(str(base))))


def test_a_finished_study_runs_nothing_again(results: dict[str, dict], capsys) -> None:
    assert study.main(results[""]["flags"]) == 0
    assert "10 cells, 10 finished before, 0 to run" in capsys.readouterr().out
    grid = json.loads((results[""]["path"] / "study.json").read_text())
    assert [task["train_instances"] for task in grid["tasks"]] == [4, 4]
    assert (results[""]["path"] / "report" / "index.html").is_file()


def test_specialists_tune_side_by_side_each_on_its_own_task(tmp_path: Path) -> None:
    config = tmp_path / "specialists.gin"
    config.write_text(
        SMALL
        + """
EXPERTS = 4
studies.writing_arms.specialists = True
studies.writing_arms.gec_rows = 7
studies.writing_arms.gec_set = "grammaticality"
studies.writing_arms.only = ("writing_stl_fluency", "writing_stl_clarity", "gec_lora")
"""
    )
    flags = [f"--gin.MODEL_DIR='{tmp_path}'", "--gin.TASKS=['writing.fluency']"]
    assert study.main([f"--gin_file={config}", *flags]) == 0
    found = [json.loads(path.read_text()) for path in tmp_path.glob("cells/*/result.json")]
    assert {result["arm"]: result["train_examples"] for result in found} == {
        "writing_stl_fluency": 4,
        "writing_stl_clarity": 4,
        "gec_lora": 7,
    }
    # Models of one program each have the same share of its time.
    assert len({result["train_secs"] for result in found}) == 1
    assert len({tuple(result["train_loss"]) for result in found}) == 3


def test_arms_are_chosen_by_name_and_those_that_cost_more_are_asked_for() -> None:
    assert [arm.name for arm in writing_arms(10, ("n1",), only=("base", "alpaca"))] == [
        "base",
        "alpaca",
    ]
    with pytest.raises(ConfigError, match="writing_arms: unknown arm 'alpaka'; did you mean"):
        writing_arms(10, ("n1",), only=("alpaka",))
    usual = {arm.name for arm in writing_arms(10, ("n1",))}
    every = {
        arm.name: arm.training_data("n1")
        for arm in writing_arms(
            10,
            ("n1",),
            generic_set="alpaca",
            other_generic_sets=("alpaca_gpt4",),
            gec_rows=20,
            specialists=True,
        )
    }
    assert set(every) - usual == {"alpaca_gpt4", "gec_lora"} | {
        f"writing_stl_{task}" for task in TRAINED
    }
    assert every["alpaca"] == "writing.mixed.alpaca_10"
    assert every["alpaca_gpt4"] == "writing.mixed.alpaca_gpt4_10"
    assert every["gec_lora"] == "writing.mixed.clang8_20"
    assert every["writing_stl_fluency"] == "writing.mixed.fluency_1"
    for name in every.values():
        parse_name(name)


def test_arms_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match="Arm a: data with setting 'STL'; allowed: with 'MTL'"):
        Arm("a", "STL", "base", "alpaca", ("n1",), data="writing.train.{count}")
    with pytest.raises(
        ConfigError, match="Arm a: budget 'all' with data; allowed: a count such as n100"
    ):
        Arm("a", "MTL", "base", "alpaca", ("all",), data="writing.train.{count}")
    with pytest.raises(ConfigError, match="Arm a: tuning 'half'; allowed: 'full', ''"):
        Arm("a", "MTL", "base", "alpaca", ("n1",), tuning="half")
    assert all(arm.tuning == "" for arm in writing_arms(10, ("n1",)))
    own = {arm.name: set(arm.describe()) for arm in writing_arms(10, ("n1",), full=Recipe())}
    assert own["writing_alpaca_full"] - own["writing_alpaca"] == {"tuning", "recipe"}
