"""`python -m t5x_ext.study`: runs a sample-efficiency study, or one shard of it, and reports."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from t5x_ext import bounds, files, gin_utils
from t5x_ext.configs import SuperNIConfig
from t5x_ext.errors import ConfigError, amount
from t5x_ext.models import BaseTransformerModel
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning import fitting
from t5x_ext.planning.lowering import Workload
from t5x_ext.studies.arms import Arm, recipes_of
from t5x_ext.studies.generated_data import GeneratedData, check_generated
from t5x_ext.studies.recipes import InitialModel, Recipe
from t5x_ext.terminal import show
from t5x_ext.training.trainer import Program


def study(
    *,
    model: BaseTransformerModel,
    study_dir: str,
    initials: Sequence[InitialModel],
    arms: Sequence[Arm],
    recipe: Recipe,
    seeds: Sequence[int] = (0,),
    tasks: Sequence[str] | None = None,
    superni_cfg: SuperNIConfig = SuperNIConfig(),
    partitioner: PjitPartitioner = PjitPartitioner(),
    eval_batch_size: int = 100,
    test_examples: int | None = None,
    experts: int | str = 1,
    generated: Sequence[GeneratedData] = (),
    name: str = "study",
    shard: str | None = None,
    wait_minutes: int = 60,
    published: str | None = None,
) -> None:
    """Trains and scores every cell of a grid that has no result yet, then writes the report.

    The grid is arms x budgets x seeds, per task in STL and over all tasks in MTL. A study that is
    stopped, by whatever means, resumes where it stopped when the same command is given again.

    Args:
      model: the model that every cell tunes.
      study_dir: where everything goes (macro MODEL_DIR).
      initials: the initial models that arms start from.
      arms: the arms; `paper_arms()` gives the paper's.
      recipe: how cells are tuned.
      seeds: one cell each; a seed chooses subset, data order and dropout.
      tasks: names of test-track tasks; None takes all that have a file.
      superni_cfg: where task files are, and how they are split.
      partitioner: the mesh.
      eval_batch_size: prompts decoded at a time: of each model, or of all adapters that tune
        together.
      test_examples: of each task that are decoded, the first (macro TEST_EXAMPLES); None takes all.
      experts: models tuned together in one program; 'auto' takes as many as fit in memory, found
        by compiling the step for the longest batch of one and of two (macro EXPERTS).
      generated: data that models of the study write for themselves (macro GENERATED).
      name: title of the report.
      published: whose figures the report shows next to ours: a name of `reports/papers`, or the
        path of a JSON file (macro PUBLISHED).
      shard: 'I/N' runs the I-th of N parts of the cells (flag --shard).
      wait_minutes: that a shard waits for another one (flag --wait_minutes): in a bucket for the
        initial models of shard 1, since it last saved a part of one; with all else done, for an
        adapter that writes data for its cells.

    Raises:
      ConfigError: something in the configuration does not fit together.
      TryAgain: such an adapter has not come.
    """
    directory = files.path(study_dir, "MODEL_DIR")
    if published is not None:
        from t5x_ext.reports.published import find_paper  # imports Matplotlib

        find_paper(published)
    for owner, each in recipes_of(recipe, initials, arms):
        partitioner.check_batch(each.batch_size, each.num_microbatches)
        each.check_model(model, owner)
    fitting.check_experts(experts, partitioner.num_expert_slots)
    bounds.check_int("--wait_minutes", wait_minutes, 0)
    bounds.check_int("EVAL_BATCH_SIZE", eval_batch_size, 1, bounds.MAX_ROWS)
    if test_examples is not None:
        bounds.check_int("TEST_EXAMPLES", test_examples, 1)
    for seed in seeds:
        bounds.check_seed("SEEDS", seed)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"SEEDS: {tuple(seeds)}; allowed: one or more, each once")
    model.check_vocabulary()
    by_name = {initial.name: initial for initial in initials}
    if len(by_name) < len(initials):
        raise ConfigError(
            "study.initials: two initial models have the same name; allowed: different names"
        )
    # Slow imports (Orbax among them), after everything that can be checked without them.
    from t5x_ext.data import datasets
    from t5x_ext.locks import ShardLock
    from t5x_ext.report import write_report
    from t5x_ext.studies import store
    from t5x_ext.studies.named_data import make_task_data
    from t5x_ext.studies.predicting import Predictor
    from t5x_ext.studies.runner import Runner

    datasets.set_context(superni_cfg, model.output_vocabulary, model.features)
    data = make_task_data(tasks, recipe.task_feature_lengths, test_examples)
    check_generated(generated, arms, recipe, tasks, model)
    lengths = recipe.task_feature_lengths
    models = dict.fromkeys(("", "full"), model)  # they decode alike
    Predictor(models, partitioner, eval_batch_size, lengths).check(arms)
    plan = _plan(model, by_name, arms, recipe, seeds, tasks, superni_cfg, data, generated)
    index, count = store.parse_shard(shard)
    is_remote = files.is_remote(directory)
    lock = ShardLock(directory / "shards", index, count)
    try:
        gin_utils.summarize_gin_config(study_dir, None, 0)
        _write_study_json(directory, name, plan, seeds, by_name, superni_cfg, data, published)
        cells = store.deal(plan.cells, shard)
        if isinstance(experts, str):  # fitting.AUTO
            experts = _choose_experts(model, partitioner, recipe, cells)
            show(f"EXPERTS: as many as fit: {experts}")
        runner = Runner(
            model=model,
            partitioner=partitioner,
            recipe=recipe,
            eval_batch_size=eval_batch_size,
            data=data,
            study_dir=directory,
            initials=by_name,
            initial_keys=plan.initial_keys,
            generated=plan.generated,
            experts=experts,
            waits=is_remote and index > 0,
            elsewhere={
                cell.tuned_key: f"{store.shard_index(cell, count) + 1}/{count}"
                for cell in plan.cells
            },
            wait_minutes=wait_minutes,
        )
        if is_remote and index == 0:
            runner.make_initials(store.unfinished(directory, plan.cells))  # other shards' too
        runner.run(cells)
        # Once more, with what the initial models cost.
        _write_study_json(directory, name, plan, seeds, by_name, superni_cfg, data, published)
    finally:
        lock.release()
    unfinished = store.unfinished(directory, plan.cells)
    left = [cell for cell in unfinished if not runner.lacks_rows(cell)]
    if left:
        show(
            f"left to other shards: {amount(len(left), 'cell')}; when they are done: "
            f"python -m t5x_ext.report {study_dir}"
        )
        return
    # Two shards may both find nothing left. A report is a function of the study's files alone, and
    # each of its files appears whole, so that the later one replaces bytes by the same bytes.
    write_report(directory)
    show(f"report -> {directory / 'report' / 'index.html'}")


def _choose_experts(
    model: BaseTransformerModel, partitioner: PjitPartitioner, recipe: Recipe, cells: Sequence[Any]
) -> int:
    """As many models as fit, and no more than start from the same parameters."""
    lengths = recipe.task_feature_lengths
    return fitting.choose_experts(
        Program(model, partitioner, recipe.trainer(1)),
        Workload(recipe.batch_size, lengths["inputs"], lengths["targets"], recipe.pack),
        wanted=max(collections.Counter(cell.arm.initial for cell in cells).values(), default=1),
    )


@dataclasses.dataclass(frozen=True)
class _Plan:
    arms: list[Arm]  # budgets in canonical names
    cells: list[Any]
    tasks: dict[str, str]  # fingerprint by name
    initial_keys: dict[str, str]
    generated: Any  # its keys, and how many rows are wanted of each; None for none


def _plan(
    model: BaseTransformerModel,
    initials: Mapping[str, InitialModel],
    arms: Sequence[Arm],
    recipe: Recipe,
    seeds: Sequence[int],
    tasks: Sequence[str] | None,
    superni_cfg: SuperNIConfig,
    data: Any,
    generated: Sequence[GeneratedData],
) -> _Plan:
    """Every cell with its key, and the keys of what they start from and are trained on."""
    from mixtures.budgets import parse_budget
    from mixtures.prompts import get_prompt
    from t5x_ext.studies.arms import GENERATED, ZERO_SHOT
    from t5x_ext.studies.cells import Determinants, describe_model, make_cells
    from t5x_ext.studies.generated_data import GeneratedKeys, wanted_rows
    from t5x_ext.studies.keys import find_further_eos_ids, key_initials

    def canonical(budget: str) -> str:
        return budget if budget == ZERO_SHOT else parse_budget(budget).name

    arms = [
        dataclasses.replace(arm, budgets=tuple(canonical(b) for b in arm.budgets)) for arm in arms
    ]
    names = data.check_tasks(tasks)
    fingerprints = {task: data.fingerprint([task]) for task in names}
    policies = dataclasses.asdict(superni_cfg)
    del policies["data_dir"], policies["missing"]
    described = describe_model(model)
    further_eos_ids = functools.partial(find_further_eos_ids, model)
    initial_keys = key_initials(initials, described, policies, data, further_eos_ids)
    # A seed draws its own subset, so the SeqIO names' budget_seed plays no part in the cells.
    del policies["budget_seed"]
    common = {"model": described, "recipe": recipe.describe(), "data": policies}
    if data.test_examples is not None:  # a study of all of them keeps the keys it always had
        common["test_examples"] = data.test_examples

    def describe_data(name: str) -> str:
        if name.startswith(GENERATED):
            return keys.rows(name.removeprefix(GENERATED))
        return data.fingerprint_named(name)

    determinants = Determinants(
        initial_keys, common, lambda prompt: get_prompt(prompt).versioned_name, describe_data
    )
    keys = GeneratedKeys(
        {each.name: each for each in generated},
        initial_keys,
        {arm.name: arm for arm in arms},
        seeds[0],
        lambda arm, budget, seed: determinants.tuned_key(arm, budget, seed, {}),
        described,
    )
    cells = make_cells(arms, fingerprints, seeds, determinants)
    wanted = wanted_rows(arms)
    return _Plan(arms, cells, fingerprints, initial_keys, (keys, wanted) if wanted else None)


def _write_study_json(
    directory: epath.Path,
    name: str,
    plan: _Plan,
    seeds: Sequence[int],
    initials: Mapping[str, InitialModel],
    superni_cfg: SuperNIConfig,
    data: Any,
    published: str | None,
) -> None:
    from mixtures.task_metrics import DEFAULT_METRICS, metrics_of
    from t5x_ext.studies import store

    most = max((int(b[1:]) for arm in plan.arms if arm.data for b in arm.budgets), default=0)
    store.write_json(
        directory / "study.json",
        {
            "format": 1,
            "name": name,
            "arms": [arm.describe() | {"label": arm.label or arm.name} for arm in plan.arms],
            "tasks": [
                {
                    "name": task,
                    "category": data.category(task),
                    # Arms with their own data: what the largest of them has.
                    "train_instances": data.num_train(task) or most,
                    **({"metrics": own} if (own := metrics_of(task)) != DEFAULT_METRICS else {}),
                }
                for task in plan.tasks
            ],
            "seeds": list(seeds),
            "split_policy": superni_cfg.split_policy,
            **({"published": published} if published else {}),
            **({"generated": _generated(*plan.generated)} if plan.generated else {}),
            "initials": {
                key: {"label": initial.label or key, "key": plan.initial_keys[key]}
                | _cost(directory, plan.initial_keys[key])
                for key, initial in initials.items()
            },
            "cells": [cell.key for cell in plan.cells],
        },
    )


def _generated(keys: Any, wanted: Mapping[str, int]) -> dict[str, str]:
    """Where the rows that models write for themselves are, by name."""
    return {name: keys.rows(name) for name in wanted}


def _cost(directory: epath.Path, key: str) -> dict[str, float]:
    """What an initial model took to make; empty if it was given, or is not made yet."""
    from t5x_ext.checkpoints import load_meta
    from t5x_ext.studies import store

    if not store.is_made(directory, key):
        return {}
    made = store.initial_dir(directory, key) / "params"
    return {"train_secs": load_meta(str(made))["train_secs"]}


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shard", metavar="I/N", help="run part I (from 1) of N parts of the cells"
    )
    parser.add_argument(
        "--wait_minutes",
        type=bounds.int_flag(0),
        metavar="MINUTES",
        help="how long a shard waits for another one before it ends with status 75: for initial "
        "models in a bucket while shard 1 saves nothing new, and, with all else done, for an "
        "adapter that writes its data (default: 60)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    # Its shards are separate jobs.
    return gin_utils.run(
        study, argv, gin_file="studies/quickstart.gin", add_flags=_add_flags, joins_cluster=False
    )


if __name__ == "__main__":
    sys.exit(main())
