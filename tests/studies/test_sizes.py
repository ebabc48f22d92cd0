"""A study's size is that of the work it does."""

from __future__ import annotations

import json
import shutil

import pytest

import mixtures
from mixtures.budgets import parse_budget
from mixtures.vocabularies import bundled_vocabulary
from t5x_ext.configs import SuperNIConfig
from t5x_ext.data.features import EncoderDecoderFeatures
from t5x_ext.errors import ConfigError
from t5x_ext.models import EncoderDecoderModel, network
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.plan import study_setup
from t5x_ext.planning.study_plans import StudySize, make_kinds
from t5x_ext.studies.arms import Arm, paper_arms
from t5x_ext.studies.cells import Determinants, make_cells
from t5x_ext.studies.joined_rows import estimate_rows
from t5x_ext.studies.recipes import InitialModel, Recipe
from t5x_ext.studies.row_counts import RowCounts
from t5x_ext.studies.runner import Runner
from t5x_ext.studies.sizes import study_size
from t5x_ext.studies.task_data import TaskData
from t5x_ext.studies.tuning import make_batches
from t5x_ext.studies.writing import writing_arms
from t5x_ext.training.optimizers import AdamW

GIVEN = [InitialModel(name, path="given") for name in ("instruct", "pretrained")]
PLAIN = InitialModel("plain", base="pretrained", scope="pretune", budget="n10")


def totals(size: StudySize) -> tuple[int, int, int]:
    """Models that are tuned, steps and prompts of all."""
    return (
        size.tuned,
        sum(model.steps for model in size.models),
        sum(model.prompts for model in size.models),
    )


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
                steps += (
                    make_batches(rows, recipe, 0, EncoderDecoderFeatures()).steps_for_epochs(3)
                    if rows
                    else 0
                )
    size = study_size(arms, GIVEN, recipe, (0,), tasks, RowCounts(SuperNIConfig()))
    assert totals(size) == (models, steps, prompts)
    assert (size.tasks, size.tasks_without_file) == (3, 0)
    twice = study_size(arms, GIVEN, recipe, (0, 1), tasks, RowCounts(SuperNIConfig()))
    zero_shot = len(data.test(tasks, "ql.def_pos2"))  # only once
    assert totals(twice) == (2 * models, 2 * steps, 2 * prompts - zero_shot)


def test_initial_models_that_are_made_count():
    release = mixtures.release.Release(mixtures.release.data_dir())
    tasks = release.names("test")[:2]
    recipe = Recipe(batch_size=16, epochs=2)
    without = study_size(
        paper_arms(only=["stl"]), [*GIVEN, PLAIN], recipe, (0,), tasks, RowCounts(SuperNIConfig())
    )
    arms = paper_arms(only=["stl", "stl_baseline_1"])
    size = study_size(arms, [*GIVEN, PLAIN], recipe, (0,), tasks, RowCounts(SuperNIConfig()))
    assert size.tuned - without.tuned == 2 + 1  # two tasks, and one to start them from
    assert [model.start for model in size.models if model.is_initial] == ["plain"]
    rows = sum(
        min(parse_budget("n10").count(100), len(release.task(name).instances))
        for name in release.names("train")
    )
    tuned = sum(2 * -(-min(200, len(release.task(name).instances) - 110) // 16) for name in tasks)
    assert totals(size)[1] - totals(without)[1] == 2 * -(-rows // 16) + tuned


def test_tasks_without_a_file_count_as_the_mean_of_the_others(tmp_path):
    suite = mixtures.release.BUNDLED_SUITE
    shutil.copytree(suite, tmp_path / "release")
    names = mixtures.release.Release(suite).names("test")
    for name in names[2:]:
        (tmp_path / "release" / "tasks" / f"{name}.json").unlink()
    arm = Arm("stl", "STL", "instruct", "ql.def_pos2", ["all"])
    size = study_size(
        [arm],
        GIVEN,
        Recipe(batch_size=16, epochs=2),
        (0,),
        None,
        RowCounts(SuperNIConfig(data_dir=str(tmp_path / "release"))),
    )
    assert (size.tuned, size.tasks, size.tasks_without_file) == (
        len(names),
        len(names),
        len(names) - 2,
    )
    present, absent = size.models[:2], size.models[2:]
    assert len(set(absent)) == 1
    assert absent[0].prompts == 100
    assert min(m.steps for m in present) <= absent[0].steps <= max(m.steps for m in present)


def test_random_parameters_are_shared_by_the_cells_of_one_seed():
    arm = Arm("stl", "STL", "random", "ql.def_pos2", ["n10"])
    tasks = mixtures.release.Release(mixtures.release.BUNDLED_SUITE).names("test")[:3]
    size = study_size(
        [arm], [InitialModel("random")], Recipe(), (0, 1), tasks, RowCounts(SuperNIConfig())
    )
    assert sorted({model.start for model in size.models}) == ["random, seed 0", "random, seed 1"]


@pytest.mark.parametrize("factors", ["constant", "constant * cosine_decay"])
def test_the_groups_of_a_plan_are_those_of_the_study(tmp_path, factors):
    vocabulary = mixtures.vocabularies.bundled_vocabulary()
    mixtures.configure(vocabulary=vocabulary)
    lengths = {"inputs": 64, "targets": 16}  # too few for batches of different shapes
    recipe = Recipe(lengths, batch_size=8, epochs=3, factors=factors)
    arms = [
        Arm("stl", "STL", "instruct", "ql.def_pos2", ["n0", "n10", "p1", "all"]),
        Arm("stl_random", "STL", "random", "ql.def_pos2", ["n20", "all"]),
        Arm("mtl", "MTL", "instruct", "ql.def_pos2", ["n0", "n10"]),
    ]
    initials = [*GIVEN, InitialModel("random")]
    data = TaskData(lengths)
    tasks = data.check_tasks(None)[:9]
    size = study_size(arms, initials, recipe, (0, 1), tasks, RowCounts(SuperNIConfig()))
    planned = [
        (group[0].start, *(model.steps for model in group))
        for kind in make_kinds(size.models, 4)
        for group in kind.groups
    ]

    config = network.T5Config(
        vocab_size=vocabulary.vocab_size,
        emb_dim=8,
        num_heads=1,
        num_encoder_layers=1,
        num_decoder_layers=1,
        head_dim=8,
        mlp_dim=8,
    )
    model = EncoderDecoderModel(network.Transformer(config), vocabulary, vocabulary, AdamW())
    by_name = {initial.name: initial for initial in initials}
    keys = {name: name for name in by_name}
    cells = make_cells(arms, dict.fromkeys(tasks, ""), (0, 1), Determinants(keys, {}, str))
    runner = Runner(model, PjitPartitioner(), recipe, 8, data, tmp_path, by_name, keys, experts=4)
    made = [
        (f"{name}, seed {seed}" if name == "random" else name, *(job.num_steps for job in group))
        for (name, seed), group in runner.groups(cells)
    ]
    assert sorted(made) == sorted(planned)
    assert {len(steps) for _, *steps in made} >= {1, 4}


def test_estimated_rows_are_near_those_of_joined_batches():
    vocabulary = mixtures.vocabularies.bundled_vocabulary()
    mixtures.configure(vocabulary=vocabulary)
    release = mixtures.release.Release(mixtures.release.data_dir())
    lengths = {"inputs": 512, "targets": 64}
    names = release.names("test")[:6]
    arms = [Arm("stl", "STL", "instruct", "tk.def_pos2", ["n100"])]
    recipe = Recipe(lengths, batch_size=16, pack="batch")
    features = EncoderDecoderFeatures()
    estimated = estimate_rows(arms, names, recipe, release, features, multiple=1)
    data = TaskData(lengths)
    rows = []
    for name in names:
        batches = make_batches(data.budget([name], "tk.def_pos2", "n100", 0), recipe, 0, features)
        positions = batches.num_rows * features.num_positions(batches.row_lengths)
        rows.append(positions / features.num_positions(lengths))
    assert estimated < 16
    assert abs(estimated - sum(rows) / len(rows)) <= 3
    assert estimate_rows(arms, names, Recipe(lengths), release, features, 1) == 16
    chat = [Arm("stl", "STL", "instruct", "chat", ["n100"])]  # shorter, without examples
    assert estimate_rows(chat, names, recipe, release, features, 1) <= estimated


def test_writing_sets_count_as_published_where_no_file_is_at_hand():
    """CoNLL-2014 and BEA-2019 need a licence: a plan is made before they are there."""
    names = ["writing.conll2014", "writing.bea2019", "writing.jfleg"]
    arms = writing_arms(100, ("n10", "n20"), decodings=False)
    recipe = Recipe(steps=7)
    size = study_size(
        arms, [InitialModel("base", path="given")], recipe, (0,), names, RowCounts(SuperNIConfig())
    )
    # base, alpaca, writing_only, and writing_alpaca at two budgets.
    assert totals(size) == (4, 4 * 7, 5 * (1312 + 4384 + 747))
    assert (size.tasks, size.tasks_without_file) == (3, 0)


def test_bundled_writing_tasks_count_their_own_rows(monkeypatch):
    monkeypatch.delenv("WRITING_DIR", raising=False)
    base = InitialModel("base", data="writing.generic", recipe=Recipe(steps=3))
    (arm, *_) = writing_arms(100, ("n10",), decodings=False)
    names = ["writing.fluency", "writing.clarity"]
    size = study_size([arm], [base], Recipe(steps=7), (0,), names, RowCounts(SuperNIConfig()))
    assert totals(size) == (1, 3, 2 * 200)


def sizes_of_own_tasks(arms, tasks, recipe=None, initials=None):
    initials = initials or [InitialModel("base", path="given")]
    counts = RowCounts(SuperNIConfig())
    return study_size(arms, initials, recipe or Recipe(), (0,), tasks, counts)


def test_an_arms_own_recipe_counts():
    own = Recipe(steps=500, batch_size=4)
    arms = [
        Arm("own", "STL", "instruct", "ql.io", ["n0", "n10"], recipe=own),
        Arm("other", "STL", "instruct", "ql.io", ["n10"]),
    ]
    tasks = mixtures.release.Release(mixtures.release.BUNDLED_SUITE).names("test")[:1]
    size = sizes_of_own_tasks(arms, tasks, Recipe(steps=2000), GIVEN)
    assert [model.steps for model in size.models] == [0, 500, 2000]
    assert size.models[1].trainer == own.trainer(500)


def test_rows_of_an_arms_own_data_count(monkeypatch, tmp_path):
    monkeypatch.delenv("WRITING_DIR", raising=False)
    recipe = Recipe(batch_size=8, epochs=2)

    def steps(data, recipe=recipe, budget="n20"):
        arm = Arm("own", "MTL", "base", "alpaca_lora", [budget], data=data)
        return sizes_of_own_tasks([arm], ["writing.fluency"], recipe).models[0].steps

    assert steps("writing.train.{count}") == 2 * 15  # of six tasks
    assert steps("writing.fluency.n{count}") == 2 * 3
    assert steps("self.harbour.harbour_log.n{count}") == 2 * 3
    file = tmp_path / "own.jsonl"
    file.write_text('{"instruction": "i", "input": "x", "output": "y"}\n' * 9)
    assert steps(str(file)) == 2 * 2
    assert steps(str(tmp_path / "missing.jsonl"), Recipe(steps=3)) == 3
    with pytest.raises(ConfigError, match="plan: Arm own: data 'self.law.x': .* a Recipe with ste"):
        steps("self.law.x")


def test_rows_of_an_initial_models_own_data_count(monkeypatch):
    monkeypatch.delenv("WRITING_DIR", raising=False)
    recipe = Recipe(batch_size=8, epochs=2)
    initials = [InitialModel("base", data="writing.generic.n50", recipe=recipe)]
    arm = Arm("zero", "MTL", "base", "alpaca_lora", ["n0"])
    size = sizes_of_own_tasks([arm], ["writing.fluency"], initials=initials)
    assert [(model.is_initial, model.steps) for model in size.models] == [(False, 0), (True, 14)]


def test_own_files_can_be_tasks(tmp_path):
    for name, count in (("own.jsonl", 3), ("own.test.jsonl", 5)):
        line = '{"instruction": "i", "input": "x", "output": "y"}\n'
        (tmp_path / name).write_text(line * count)
    task = str(tmp_path / "own.jsonl")
    arm = Arm("zero", "MTL", "base", "alpaca_lora", ["n0"])
    size = sizes_of_own_tasks([arm], [task])
    assert size.models[0].prompts == 5 and size.tasks_without_file == 0
    with pytest.raises(ConfigError, match="budget n10 without data"):
        sizes_of_own_tasks([Arm("a", "MTL", "base", "alpaca_lora", ["n10"])], [task])


def test_data_without_the_split_that_is_counted_is_one_line(tmp_path):
    line = '{"instruction": "i", "input": "x", "output": "y"}\n'
    for name in ("untested.jsonl", "untrained.test.jsonl"):
        (tmp_path / name).write_text(line)
    zero = Arm("zero", "MTL", "base", "alpaca_lora", ["n0"])
    with pytest.raises(ConfigError, match="plan: TASKS: .*untested.jsonl': no test rows"):
        sizes_of_own_tasks([zero], [str(tmp_path / "untested.jsonl")])
    own = str(tmp_path / "untrained.test.jsonl")
    arm = Arm("own", "MTL", "base", "alpaca_lora", ["n10"], data=own)
    with pytest.raises(ConfigError, match="plan: Arm own: data .* training rows is not known"):
        sizes_of_own_tasks([arm], [own])


def test_generated_data_that_does_not_exist_is_one_line():
    arm = Arm("own", "MTL", "base", "alpaca_lora", ["n10"], data="generated.typo")
    with pytest.raises(ConfigError, match="'generated.typo' is not among .*; known: none"):
        sizes_of_own_tasks([arm], ["writing.fluency"])


def test_a_plan_counts_named_data_where_its_study_would_read_it(tmp_path):
    suite = tmp_path / "suite"
    shutil.copytree(mixtures.release.BUNDLED_SUITE, suite)
    task = mixtures.release.Release(suite).names("train")[0]
    file = suite / "tasks" / f"{task}.json"
    content = json.loads(file.read_text())
    content["Instances"] = content["Instances"][:7]
    file.write_text(json.dumps(content))
    recipe = Recipe(batch_size=1, epochs=1)
    base = InitialModel("base", data=f"superni.ql.io.{task}.all", recipe=recipe)
    vocabulary = bundled_vocabulary()
    config = network.T5Config(vocab_size=vocabulary.vocab_size)
    bound = {
        "model": EncoderDecoderModel(network.Transformer(config), vocabulary, vocabulary, AdamW()),
        "recipe": recipe,
        "arms": [Arm("zero", "MTL", "base", "ql.io", ["n0"])],
        "initials": [base],
        "tasks": list(mixtures.release.Release(suite).names("test")[:1]),
        "superni_cfg": SuperNIConfig(data_dir=str(suite)),
    }
    (initial,) = [model for model in study_setup(bound).size.models if model.is_initial]
    assert initial.steps == 7
