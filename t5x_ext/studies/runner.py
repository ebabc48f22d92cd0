"""Runs the cells of a study in one process.

Initial parameters, tokenised examples and compiled steps stay in memory from cell to cell.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from etils import epath

from t5x_ext.data.prefetching import prefetch
from t5x_ext.data.records import Example
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.predict import predict, predict_together
from t5x_ext.metrics.aggregate import task_scores
from t5x_ext.metrics.predictions import Prediction, write_predictions
from t5x_ext.metrics.scoring import score_rows
from t5x_ext.models import BaseTransformerModel
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.studies import store
from t5x_ext.studies.cells import Cell
from t5x_ext.studies.initial_models import InitialModels
from t5x_ext.studies.recipes import InitialModel, Recipe
from t5x_ext.studies.task_data import TaskData
from t5x_ext.studies.tuning import Job, Tuned, Tuner
from t5x_ext.terminal import show


class _Progress:
    """Prints a line per finished cell."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._number = 0
        self._began = time.monotonic()

    def add(self, result: Mapping[str, Any]) -> None:
        self._number += 1
        scores = [task["rougeL"] for task in result["scores"]["by_task"].values()]
        elapsed = time.monotonic() - self._began
        left = elapsed / self._number * (self._total - self._number)
        show(
            f"[{self._number}/{self._total}] {result['cell']}: "
            f"ROUGE-L {sum(scores) / len(scores):.1f}  "
            f"train {result['train_secs']:.1f}s  decode {result['decode_secs']:.1f}s  "
            f"ETA {left / 60:.1f} min"
            f"{'  diverged: its loss is no finite number' if None in result['train_loss'] else ''}"
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
      experts: models that may be tuned together in one program.
      waits: leave it to another process to make the initial models.
    """

    model: BaseTransformerModel
    partitioner: PjitPartitioner
    recipe: Recipe
    eval_batch_size: int
    data: TaskData
    study_dir: epath.Path
    initials: Mapping[str, InitialModel]
    initial_keys: Mapping[str, str]
    experts: int = 1
    waits: bool = False

    def __post_init__(self) -> None:
        self._tuner = Tuner(self.model, self.partitioner, self.recipe, self.experts)
        self._initials = InitialModels(
            self.initials, self.initial_keys, self._tuner, self.data, self.study_dir, self.waits
        )

    @functools.cached_property
    def decoder(self) -> Decoder:
        """One decoder for all cells."""
        lengths = self.recipe.task_feature_lengths
        return Decoder(
            self.model,
            self.partitioner,
            self.eval_batch_size,
            lengths["inputs"],
            lengths["targets"],
        )

    def run(self, cells: Sequence[Cell]) -> None:
        """Runs those of this shard's cells that have no result yet."""
        todo = store.unfinished(self.study_dir, cells)
        finished = len(cells) - len(todo)
        show(f"{len(cells)} cells, {finished} finished before, {len(todo)} to run")
        self.make_initials(todo)
        progress = _Progress(len(todo))
        # The device does not wait for the host between groups: the next one is prepared and its
        # step compiled, and what the last one predicted is scored and written, in other threads.
        with (
            ThreadPoolExecutor(max_workers=1) as compiler,
            ThreadPoolExecutor(max_workers=1) as writer,
            contextlib.closing(prefetch(self._compiled(todo, compiler), depth=1)) as groups,
        ):
            written = None
            for (name, seed), jobs, compiled in groups:
                initial = self._initials.params(name, seed)
                compiled.result()
                tuned = self._tuner.tune(initial, jobs)
                del initial  # the next group may start from another: two may not fit
                clock = time.monotonic()
                predicted = self._predict(tuned)
                decode_secs = (time.monotonic() - clock) / len(jobs)
                tuned = tuned._replace(
                    params={}, frozen={}
                )  # the next group needs the devices' memory
                if written is not None:
                    written.result()  # raises what went wrong
                written = writer.submit(self._finish, tuned, predicted, decode_secs, progress)
            if written is not None:
                written.result()

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
            for jobs in self._tuner.group(map(self._prepare, some)):
                yield start, jobs

    def _compiled(
        self, cells: Iterable[Cell], compiler: Executor
    ) -> Iterator[tuple[tuple[str, int], list[Job], Future[None]]]:
        """Groups, each with the promise that its step is compiled."""
        for start, jobs in self.groups(cells):
            yield start, jobs, compiler.submit(self._tuner.compile, jobs)

    def _prepare(self, cell: Cell) -> Job:
        prompt = cell.arm.prompt
        train = self.data.budget(cell.tasks, prompt, cell.budget, cell.seed)
        return self._tuner.prepare(cell, train, self.data.test(cell.tasks, prompt))

    def _predict(self, tuned: Tuned) -> list[list[Prediction]]:
        """The predictions of each tuned model for its test examples."""
        sets = [job.test for job in tuned.jobs]
        if len(sets) == 1 or tuned.frozen:
            each = zip(tuned.each(), sets, strict=True)
            return [predict(self.decoder, params, examples) for params, examples in each]
        return predict_together(self.decoder, tuned.params, sets)

    def _finish(
        self,
        tuned: Tuned,
        predicted: Sequence[Sequence[Prediction]],
        decode_secs: float,
        progress: _Progress,
    ) -> None:
        """Scores and writes the cells of a group; a cell's result file comes last."""
        for job, rows, losses in zip(tuned.jobs, predicted, tuned.losses, strict=True):
            rows = score_rows(rows)
            seconds = {"train_secs": tuned.train_secs, "decode_secs": decode_secs}
            result = self._result(job, rows, losses, seconds)
            directory = store.cell_dir(self.study_dir, job.cell)
            write_predictions(directory / "predictions.jsonl", rows)
            store.write_json(directory / "result.json", result)
            progress.add(result)

    def _result(
        self,
        job: Job,
        rows: Sequence[Prediction],
        losses: Sequence[float],
        seconds: Mapping[str, float],
    ) -> dict[str, Any]:
        """What a cell's result file holds."""
        cell, train = job.cell, job.train
        counts = collections.Counter(example.task for example in train)
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
            **{name: round(value, 3) for name, value in seconds.items()},
            # None where it is no finite number, as in a model that has diverged.
            "train_loss": [loss if math.isfinite(loss) else None for loss in losses],
            "leaked_tasks": [n for n in cell.tasks if train and self.data.is_leaked(n)],
            "truncated_by_task": _truncated(cell.tasks, train, rows),
            "short_tasks": self.data.short(cell.tasks, cell.budget),
            "scores": {"by_task": task_scores(rows)},
        }


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
