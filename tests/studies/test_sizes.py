"""A study's size is that of the work it does."""

from __future__ import annotations

import mixtures
from mixtures.budgets import parse_budget
from t5x_ext.configs import SuperNIConfig
from t5x_ext.studies.arms import Arm, paper_arms
from t5x_ext.studies.recipes import InitialModel, Recipe
from t5x_ext.studies.sizes import StudySize, study_size
from t5x_ext.studies.task_data import TaskData
from t5x_ext.studies.tuning import make_batches

GIVEN = [InitialModel(name, path="given") for name in ("instruct", "pretrained")]
PLAIN = InitialModel("plain", base="pretrained", scope="pretune", budget="n10")


def test_steps_and_prompts_are_those_of_the_cells():
    mixtures.configure(vocabulary=mixtures.vocabularies.bundled_vocabulary())
    data = TaskData({"inputs": 128, "targets": 32})
    recipe = Recipe(batch_size=8, epochs=3)
    tasks = data.check_tasks(None)[:3]
    arms = [
        Arm("stl", "STL", "instruct", "ql.def_pos2", ["n10", "p1", "all"]),
        Arm("mtl", "MTL", "instruct", "ql.def_pos2", ["n0", "n10"]),
    ]
    steps = prompts = models = 0
    for groups, arm in (([[task] for task in tasks], arms[0]), ([tasks], arms[1])):
        for group in groups:
            for budget in arm.budgets:
                rows = data.budget(group, arm.prompt, budget, seed=0)
                prompts += len(data.test(group, arm.prompt))
                models += bool(rows)
                steps += make_batches(rows, recipe, 0).steps_for_epochs(3) if rows else 0
    size = study_size(arms, GIVEN, recipe, (0,), tasks, SuperNIConfig())
    assert size == StudySize(models, steps, prompts)
    twice = study_size(arms, GIVEN, recipe, (0, 1), tasks, SuperNIConfig())
    assert (twice.models, twice.steps) == (2 * models, 2 * steps)  # zero-shot only once
    assert twice.prompts == 2 * prompts - len(data.test(tasks, "ql.def_pos2"))


def test_initial_models_that_are_made_count():
    release = mixtures.release.Release(mixtures.release.data_dir())
    tasks = release.names("test")[:2]
    recipe = Recipe(batch_size=16, epochs=2)
    without = study_size(paper_arms(only=["stl"]), [*GIVEN, PLAIN], recipe, (0,), tasks,
                         SuperNIConfig())  # fmt: skip
    arms = paper_arms(only=["stl", "stl_baseline_1"])
    size = study_size(arms, [*GIVEN, PLAIN], recipe, (0,), tasks, SuperNIConfig())
    assert size.models - without.models == 2 + 1  # two tasks, and one to start them from
    rows = sum(
        min(parse_budget("n10").count(100), len(release.task(name).instances))
        for name in release.names("train")
    )
    tuned = sum(2 * -(-min(200, len(release.task(name).instances) - 110) // 16) for name in tasks)
    assert size.steps - without.steps == 2 * -(-rows // 16) + tuned
