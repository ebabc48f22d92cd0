"""Runs the cells of a study in one process.

Initial parameters, tokenised examples and compiled steps stay in memory from cell to cell.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import jax
from etils import epath

from mixtures.task_metrics import metrics_of
from t5x_ext import memory
from t5x_ext.data.cuts import cut_lines, cuts_by_task
from t5x_ext.data.prefetching import prefetch
from t5x_ext.data.records import Example
from t5x_ext.errors import amount
from t5x_ext.metrics.aggregate import task_scores
from t5x_ext.metrics.catalogue import get_metric
from t5x_ext.metrics.predictions import Prediction, write_predictions
from t5x_ext.metrics.scoring import METRICS, Measured, measure
from t5x_ext.models import BaseTransformerModel
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.studies import store
from t5x_ext.studies.arms import ZERO_SHOT
from t5x_ext.studies.cells import Cell
from t5x_ext.studies.generated_data import GeneratedKeys
from t5x_ext.studies.generation import Generation
from t5x_ext.studies.initial_models import InitialModels
from t5x_ext.studies.predicting import Predictor
from t5x_ext.studies.recipes import InitialModel, Recipe
from t5x_ext.studies.task_data import TaskData
from t5x_ext.studies.tuning import Job, Tuned, Tuner
from t5x_ext.terminal import note, show


class _Progress:
    """Prints a line per finished cell."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._number = 0
        self._began = time.monotonic()

    def add(self, result: Mapping[str, Any]) -> None:
        self._number += 1
        by_task = result["scores"]["by_task"]
        heads = {task: get_metric(metrics_of(task)[0]).key for task in by_task}
        scores = [by_task[task][key] for task, key in heads.items()]
        name = "ROUGE-L" if set(heads.values()) == {"rougeL"} else "mean score"
        elapsed = time.monotonic() - self._began
        left = elapsed / self._number * (self._total - self._number)
        show(
            f"[{self._number}/{self._total}] {result['cell']}: "
            f"{name} {sum(scores) / len(scores):.1f}  "
            f"train {result['train_secs']:.1f}s  decode {result['decode_secs']:.1f}s  "
            f"ETA {left / 60:.1f} min"
            f"{'  diverged: its loss is not finite' if None in result['train_loss'] else ''}"
        )


@dataclasses.dataclass
class Runner:
    """What the cells of a study share.

    Attributes:
      model: the model that every cell tunes.
      partitioner: the mesh.
      recipe: how cells are tuned.
      eval_batch_size: prompts decoded at a time.
      data: the study's examples.
      study_dir: where results go.
      initials: initial models by name.
      initial_keys: their keys by name.
      generated: data that models of the study write, with its keys; None if there is none.
      experts: models that may be tuned together in one program.
      waits: leave it to another process to make the initial models.
      elsewhere: shards that tune the adapters of other cells, "2/3", by the adapter's key.
      wait_minutes: for another shard's initial model, or its adapter that writes for these cells.
    """

    model: BaseTransformerModel
    partitioner: PjitPartitioner
    recipe: Recipe
    eval_batch_size: int
    data: TaskData
    study_dir: epath.Path
    initials: Mapping[str, InitialModel]
    initial_keys: Mapping[str, str]
    generated: tuple[GeneratedKeys, Mapping[str, int]] | None = None
    experts: int = 1
    waits: bool = False
    elsewhere: Mapping[str, str] = dataclasses.field(default_factory=dict)
    wait_minutes: float = 0.0

    def __post_init__(self) -> None:
        own = Tuner(self.model, self.partitioner, self.recipe, self.experts)
        self._tuners = {"": own, "full": own.full}
        self._initials = InitialModels(
            self.initials,
            self.initial_keys,
            own,
            self.data,
            self.study_dir,
            self.waits,
            self.wait_minutes,
        )
        self._predictor = Predictor(
            {tuning: tuner.model for tuning, tuner in self._tuners.items()},
            self.partitioner,
            self.eval_batch_size,
            self.recipe.task_feature_lengths,
            self._initials.eos_ids,
        )
        self._told: set[tuple[str, str]] = set()  # what has been said of cuts
        self._generation: Generation | None = None
        if self.generated is not None:
            keys, wanted = self.generated
            shared = wanted, self._initials, own, self.study_dir
            self._generation = Generation(keys, *shared, self.elsewhere, self.wait_minutes)

    def run(self, cells: Sequence[Cell]) -> None:
        """Runs those of this shard's cells that have no result yet."""
        todo = store.unfinished(self.study_dir, cells)
        finished = len(cells) - len(todo)
        show(f"{amount(len(cells), 'cell')}, {finished} finished before, {len(todo)} to run")
        if self._generation is not None:
            todo += [cell for cell in cells if cell not in todo and self._lacks_adapter(cell)]
        self.make_initials(todo)
        progress = _Progress(len(todo))
        for some in [todo] if self._generation is None else self._generation.waves(todo):
            self._run(some, progress)
            memory.give_back()  # arrays of writing have other sizes than those of tuning

    def lacks_rows(self, cell: Cell) -> bool:
        """Whether a cell can never run, as no row was kept that it would be trained on."""
        return self._generation is not None and self._generation.lacks_rows(cell)

    def _lacks_adapter(self, cell: Cell) -> bool:
        """Whether a finished cell has to run again, for the adapter that it left."""
        generation = self._generation
        return generation is not None and generation.must_keep(cell) and not generation.has(cell)

    def _run(self, todo: Sequence[Cell], progress: _Progress) -> None:
        # The device does not wait for the host between groups: the next one is prepared and its
        # step compiled, and what the last one predicted is scored and written, in other threads.
        with (
            ThreadPoolExecutor(max_workers=1) as compiler,
            ThreadPoolExecutor(max_workers=1) as writer,
            contextlib.closing(prefetch(self._compiled(todo, compiler), depth=1)) as groups,
        ):
            written = None
            for (name, seed), jobs, compiled in groups:
                tuner = self._tuners[jobs[0].cell.arm.tuning]
                initial = self._initials.params(name, seed, tuner)
                compiled.result()
                tuned = tuner.tune(initial, jobs)
                del initial  # the next group may start from another: two may not fit
                self._keep_adapters(tuned)
                costs = {"train_secs": tuned.train_secs, **_parameter_counts(tuned)}
                clock = time.monotonic()
                for number, predicted in enumerate(self._predictor.predict(tuned)):
                    costs["decode_secs"] = (time.monotonic() - clock) / len(jobs)
                    if written is not None:
                        written.result()  # raises what went wrong
                    cells = [job.cells[number] for job in jobs]
                    models = list(zip(cells, jobs, predicted, tuned.losses, strict=True))
                    written = writer.submit(self._finish, models, dict(costs), progress)
                    clock = time.monotonic()
                del tuned  # the next group needs the devices' memory
            if written is not None:
                written.result()

    def _keep_adapters(self, tuned: Tuned) -> None:
        for index, job in enumerate(tuned.jobs):
            generation = self._generation
            if generation is not None and job.train and generation.must_keep(job.cell):
                own = tuned.params
                if len(tuned.jobs) > 1:
                    own = jax.tree.map(lambda x: x[index], own)  # noqa: B023
                generation.keep(job.cell, own)

    def make_initials(self, cells: Iterable[Cell]) -> None:
        """Makes what cells start from, or waits until it is made."""
        for name in dict.fromkeys(cell.arm.initial for cell in cells):
            self._initials.make(name)

    def groups(self, cells: Iterable[Cell]) -> Iterator[tuple[tuple[str, int], list[Job]]]:
        """Cells that are tuned together, and the name and seed of what they start from.

        One initial model is in memory at a time, so cells that share one come together.
        """
        start_of = self._initials.start_of
        for start, some in itertools.groupby(sorted(cells, key=start_of), start_of):
            models: dict[str, dict[str, list[Cell]]] = {tuning: {} for tuning in self._tuners}
            for cell in some:
                models[cell.arm.tuning].setdefault(cell.tuned_key, []).append(cell)
            for tuning, by_key in models.items():
                for jobs in self._tuners[tuning].group(map(self._prepare, by_key.values())):
                    yield start, jobs

    def _compiled(
        self, cells: Iterable[Cell], compiler: Executor
    ) -> Iterator[tuple[tuple[str, int], list[Job], Future[None]]]:
        """Groups, each with the promise that its step is compiled."""
        for start, jobs in self.groups(cells):
            tuner = self._tuners[jobs[0].cell.arm.tuning]
            yield start, jobs, compiler.submit(tuner.compile, jobs)

    def _prepare(self, cells: Sequence[Cell]) -> Job:
        """The model of some cells that differ in nothing but decoding."""
        one = cells[0]
        test = self.data.test(one.tasks, one.arm.prompt)
        if self._generation is not None and one.arm.generated and one.budget != ZERO_SHOT:
            train = self._generation.train(one, self.data.lengths)
        else:
            train = self.data.train(one)
        self._tell_cuts(f"train ({one.arm.prompt})", train)
        self._tell_cuts(f"test ({one.arm.prompt})", test)
        return self._tuners[one.arm.tuning].prepare(cells, train, test)

    def _tell_cuts(self, what: str, examples: Sequence[Example]) -> None:
        """Says once of each task, split and prompt how much of the first cell's rows is cut."""
        cuts = cuts_by_task(examples)
        new = {task: each for task, each in cuts.items() if (task, what) not in self._told}
        self._told.update((task, what) for task in new)
        note(*cut_lines(new, self.data.lengths, what))

    def _finish(
        self,
        models: Sequence[tuple[Cell, Job, Sequence[Prediction], Sequence[float]]],
        costs: Mapping[str, float],
        progress: _Progress,
    ) -> None:
        """Scores and writes what each model of a group answered; the result file comes last."""
        for cell, job, predicted, losses in models:
            stripped = _strip(predicted) if cell.arm.stop else predicted
            rows, cleaned = self.data.clean_answers(stripped)
            measured = measure(rows, always=METRICS)
            result = self._result(cell, job, measured, losses, costs) | cleaned
            directory = store.cell_dir(self.study_dir, cell)
            write_predictions(directory / "predictions.jsonl", measured.rows)
            store.write_json(directory / "result.json", result)
            progress.add(result)

    def _result(
        self,
        cell: Cell,
        job: Job,
        measured: Measured,
        losses: Sequence[float],
        costs: Mapping[str, float],
    ) -> dict[str, Any]:
        """What a cell's result file holds."""
        train = job.train
        counts = collections.Counter(example.task for example in train)
        if cell.arm.generated and train:
            # Its rows are of no set: all are counted, which may be fewer than were asked for.
            counts.update(dict.fromkeys(cell.tasks, len(train)))
        elif "{count}" in cell.arm.data and train:
            # Its rows are of other sets than those it is tested on: the budget is all it has.
            counts.update(dict.fromkeys(cell.tasks, int(cell.budget.removeprefix("n"))))
        return {
            "format": 1,
            "key": cell.key,
            "cell": str(cell),
            "arm": cell.arm.name,
            "setting": cell.arm.setting,
            "initial": cell.arm.initial,
            "prompt": cell.arm.prompt,
            "budget": cell.budget,
            "seed": cell.seed,
            "tasks": list(cell.tasks),
            "train_examples": len(train),
            "train_examples_by_task": {name: counts[name] for name in cell.tasks},
            "steps": job.num_steps,
            **_sources(job),
            **{name: round(value, 3) for name, value in costs.items()},
            # None if it is not finite, as in a model that has diverged.
            "train_loss": [loss if math.isfinite(loss) else None for loss in losses],
            "leaked_tasks": [n for n in cell.tasks if train and self.data.is_leaked(n)],
            "truncated_by_task": _truncated(cell.tasks, train, measured.rows),
            "targets_truncated_by_task": _truncated_targets(train),
            "stopped_by_task": _stopped(measured.rows),
            "short_tasks": self.data.short(cell.tasks, cell.budget),
            "scores": {"by_task": task_scores(measured)},
        }


def _parameter_counts(tuned: Tuned) -> dict[str, int]:
    """Parameters of one model of a group, how many of them are tuned, and the bytes of all."""
    # Several models have a leading axis.
    first = 1 if len(tuned.jobs) > 1 else 0
    leaves = jax.tree.leaves(tuned.params)
    sizes = [math.prod(leaf.shape[first:]) for leaf in leaves]
    size = sum(n * leaf.dtype.itemsize for n, leaf in zip(sizes, leaves, strict=True))
    frozen = jax.tree.leaves(tuned.frozen)
    is_tuned = tuned.jobs[0].num_steps > 0
    return {
        "parameters": sum(sizes) + sum(leaf.size for leaf in frozen),
        "trainable_parameters": sum(sizes) if is_tuned else 0,
        "parameter_bytes": size + sum(leaf.nbytes for leaf in frozen),
    }


def _sources(job: Job) -> dict[str, Any]:
    """Rows of each set that a model with its own data was trained on, and the passes over them."""
    if not job.cell.arm.data or job.batches is None:
        return {}
    rows = collections.Counter(example.task for example in job.train)
    passes = job.num_steps / job.batches.steps_per_epoch()
    return {"sources": dict(rows), "passes": round(passes, 3)}


def _strip(rows: Sequence[Prediction]) -> Sequence[Prediction]:
    """Answers without the white space that stood before a stop."""
    return [dataclasses.replace(row, prediction=row.prediction.strip()) for row in rows]


def _stopped(rows: Sequence[Prediction]) -> dict[str, float]:
    """{task: percent of answers that ended by themselves, not at the length limit}."""
    by_task = task_scores(measure(rows, ["stopped"]))
    return {task: float(scores["stopped"]) for task, scores in by_task.items()}


def _truncated(
    tasks: Sequence[str], train: Sequence[Example], test: Sequence[Prediction]
) -> dict[str, list[int]]:
    """{task: [cut training prompts, cut test prompts]}, for tasks that have any."""
    cut_train = collections.Counter(example.task for example in train if example.truncated)
    cut_test = collections.Counter(row.task for row in test if row.truncated)
    return {
        name: [cut_train[name], cut_test[name]]
        for name in tasks
        if cut_train[name] or cut_test[name]
    }


def _truncated_targets(train: Sequence[Example]) -> dict[str, int]:
    """{source: training rows of which a target is cut}, for sources that have any."""
    return dict(collections.Counter(row.task for row in train if row.target_truncated))
