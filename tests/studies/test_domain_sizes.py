"""A plan of self-specialization counts what the study will do, with and without its data."""

from __future__ import annotations

from pathlib import Path

import pytest

from t5x_ext.configs import SuperNIConfig
from t5x_ext.decoding import Contrastive
from t5x_ext.errors import ConfigError
from t5x_ext.generation import InstructionSettings, ResponseSettings
from t5x_ext.studies import InitialModel, Recipe
from t5x_ext.studies.row_counts import SELF_TEST_ROWS, RowCounts
from t5x_ext.studies.self_specialization import self_specialization_arms, self_specialization_data
from t5x_ext.studies.sizes import study_size

SETS = ("harbour_log", "harbour_ner")
TASKS = ("self.harbour.harbour_log", "self.harbour.harbour_ner.k5")
RECIPE = Recipe(batch_size=8, epochs=3)


@pytest.fixture(autouse=True)
def no_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPECIALIZATION_DIR", raising=False)


def size_of(tasks=TASKS, domain="harbour", test_examples=None, **changes):
    arms = self_specialization_arms(
        domain, SETS, rows=100, seeds=20, human=(10, 50), seed_counts=(5,), **changes
    )
    data = self_specialization_data(
        domain,
        InstructionSettings("harbour", max_new_tokens=512),
        ResponseSettings("harbour", max_new_tokens=64),
        seed_counts=(5,),
        contrast=Contrastive(),
    )
    base = InitialModel("base", path="given")
    counts = RowCounts(SuperNIConfig(), test_examples)
    return study_size(arms, [base], RECIPE, (0,), tasks, counts, data, 2048)


def test_rows_and_prompts_are_those_of_the_settings() -> None:
    size = size_of(only=("ss_base", "ss_seeds", "ss_supervised", "ss_r1_docs0"))
    assert [model.prompts for model in size.models] == [200] * 5
    # 20 seeds, 10 and 50 rows of two sets each, 100 rows of its own; in batches of 8, 3 times.
    assert [model.steps for model in size.models] == [0, 9, 9, 39, 39]
    assert size.tasks_without_file == 0 and size_of(test_examples=30).models[0].prompts == 60


def test_lists_of_tasks_count_once_and_rows_of_a_batch_are_contexts_and_sides() -> None:
    size = size_of(only=("ss_r1_docs0", "ss_r1_docs5", "ss_r2"))
    texts = {text.name: text for text in size.texts}
    rows = {name: text.workload.rows for name, text in texts.items()}
    assert rows == {
        "answers of r1_docs0": 8,
        "answers of r1_docs5": 8 * 5,
        "answers of r2": 8 * 5 * 2,
        "tasks of r1_docs5": 8,
        "tasks of r2": 8,
    }
    assert (
        texts["answers of r2"].batches == 13 and texts["answers of r2"].workload.target_length == 64
    )
    # 512 tokens hold 3.8 whole tasks, half of which are taken to be kept: 54 lists.
    assert texts["tasks of r2"].batches == 7 and texts["tasks of r2"].workload.target_length == 512


def test_a_plan_needs_no_data() -> None:
    size = size_of(("self.law.contracts", "self.law.verdicts.k5"), "law", only=("ss_base",))
    assert size.models[0].prompts == 2 * SELF_TEST_ROWS and size.tasks_without_file == 2
    counts = RowCounts(SuperNIConfig())
    with pytest.raises(ConfigError, match="plan: InitialModel base: data 'self.law.x'"):
        counts.initial_rows(InitialModel("base", data="self.law.x"))


def test_test_rows_are_counted_in_files(tmp_path: Path) -> None:
    (tmp_path / "eval" / "law").mkdir(parents=True)
    row = '{"id": "%s", "instruction": "i", "input": "", "references": ["r"], "split": "%s"}\n'
    lines = [row % (n, "test" if n < 3 else "train") for n in range(5)]
    (tmp_path / "eval" / "law" / "contracts.jsonl").write_text("".join(lines))
    counts = RowCounts(SuperNIConfig(data_dir=str(tmp_path)))
    assert counts.prompts(["self.law.contracts", "self.law.contracts.k5"]) == 6
    assert counts.initial_rows(InitialModel("base", data="self.law.contracts")) == 2
