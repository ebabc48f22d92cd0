"""`python -m t5x_ext.study`: runs a sample-efficiency study, or one shard of it, and reports."""

from __future__ import annotations

import argparse
import collections
import sys
from collections.abc import Sequence
from typing import Any

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
from t5x_ext.terminal import note, show
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
        from t5x_ext.reports.datasets.published import find_paper  # imports Matplotlib

        find_paper(published)
    for owner, each in recipes_of(recipe, initials, arms):
        partitioner.check_batch(each.batch_size, each.num_microbatches)
        each.check_model(model, owner)
        if remark := each.warmup_remark():
            note(f"{owner}: {remark}")
    fitting.check_experts(experts, partitioner.num_expert_slots)
    _check_numbers(seeds, eval_batch_size, test_examples, wait_minutes)
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
    from t5x_ext.studies.grid import make_grid
    from t5x_ext.studies.named_data import make_task_data
    from t5x_ext.studies.predicting import Predictor
    from t5x_ext.studies.runner import Runner

    datasets.set_context(superni_cfg, model.output_vocabulary, model.features)
    data = make_task_data(tasks, recipe.task_feature_lengths, test_examples)
    check_generated(generated, arms, recipe, tasks, model)
    lengths = recipe.task_feature_lengths
    models = dict.fromkeys(("", "full"), model)  # they decode alike
    Predictor(models, partitioner, eval_batch_size, lengths).check(arms)
    grid = make_grid(model, by_name, arms, recipe, seeds, tasks, superni_cfg, data, generated)
    index, count = store.parse_shard(shard)
    is_remote = files.is_remote(directory)
    lock = ShardLock(directory / "shards", index, count)
    try:
        gin_utils.summarize_gin_config(study_dir, None, 0)
        grid.write(directory, name, published)
        cells = store.deal(grid.cells, shard)
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
            initial_keys=grid.initial_keys,
            generated=grid.generated,
            experts=experts,
            waits=is_remote and index > 0,
            elsewhere={
                cell.tuned_key: f"{store.shard_index(cell, count) + 1}/{count}"
                for cell in grid.cells
            },
            wait_minutes=wait_minutes,
        )
        if is_remote and index == 0:
            runner.make_initials(store.unfinished(directory, grid.cells))  # other shards' too
        runner.run(cells)
        grid.write(directory, name, published)  # now with what the initial models cost
    finally:
        lock.release()
    left = [cell for cell in store.unfinished(directory, grid.cells) if not runner.lacks_rows(cell)]
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


def _check_numbers(
    seeds: Sequence[int], eval_batch_size: int, test_examples: int | None, wait_minutes: int
) -> None:
    bounds.check_int("--wait_minutes", wait_minutes, 0)
    bounds.check_int("EVAL_BATCH_SIZE", eval_batch_size, 1, bounds.MAX_ROWS)
    if test_examples is not None:
        bounds.check_int("TEST_EXAMPLES", test_examples, 1)
    for seed in seeds:
        bounds.check_seed("SEEDS", seed)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"SEEDS: {tuple(seeds)}; allowed: one or more, each once")


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
