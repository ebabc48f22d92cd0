"""Runs a study: initial models first, then cell after cell in one process.

Initial parameters, tokenised examples and compiled steps stay in memory from cell to cell.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from t5x_ext.checkpoints import load_params, save_params
from t5x_ext.checkpoints.locks import DirectoryInUse, DirectoryLock
from t5x_ext.configs import CheckpointConfig, RestoreCheckpointConfig, SaveCheckpointConfig
from t5x_ext.data.prefetching import prefetch
from t5x_ext.data.records import Example
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.predict import predict, predict_together
from t5x_ext.metrics.aggregate import task_scores
from t5x_ext.metrics.predictions import Prediction, write_predictions
from t5x_ext.metrics.scoring import score_rows
from t5x_ext.models import EncoderDecoderModel
from t5x_ext.models.params import Params
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.runs import run_training
from t5x_ext.studies import store
from t5x_ext.studies.cells import Cell
from t5x_ext.studies.recipes import InitialModel, Recipe
from t5x_ext.studies.task_data import TaskData
from t5x_ext.studies.tuning import Job, Tuned, Tuner, copy_to, make_batches
from t5x_ext.training.state import abstract_params

_SAVE_INITIAL_EVERY = 500  # steps; a killed pre-finetuning goes on from there
_WAIT_SECS = 5.0


def _print_now(line: str) -> None:
    print(line, flush=True)


class _Progress:
    """Reports one line per finished cell."""

    def __init__(self, total: int, report: Callable[[str], None]):
        self._total = total
        self._report = report
        self._number = 0
        self._began = time.monotonic()

    def add(self, result: Mapping[str, Any]) -> None:
        self._number += 1
        scores = [task["rougeL"] for task in result["scores"]["by_task"].values()]
        elapsed = time.monotonic() - self._began
        left = elapsed / self._number * (self._total - self._number)
        self._report(
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
    """

    model: EncoderDecoderModel
    partitioner: PjitPartitioner
    recipe: Recipe
    eval_batch_size: int
    data: TaskData
    study_dir: Path
    initials: Mapping[str, InitialModel]
    initial_keys: Mapping[str, str]
    experts: int = 1

    def __post_init__(self) -> None:
        self._resident: tuple[tuple[str, int], Params] | None = None
        self._tuner = Tuner(self.model, self.partitioner, self.recipe, self.experts)

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

    def initial_params(self, name: str, seed: int) -> Params:
        """Parameters of an initial model in host memory; the one asked for last is kept.

        Every group copies them to the devices, which do not need them beside the tuned models.

        Args:
          name: the initial model's name.
          seed: the cell's; chooses among random initial models, each seed has its own.
        """
        if self._resident is None or self._resident[0] != (name, seed):
            self._resident = None  # free it first: two may not fit
            loaded = self._load_initial(self.initials[name], seed)
            self._resident = (name, seed), copy_to(loaded, "pinned_host")
        return self._resident[1]

    def run(self, cells: Sequence[Cell], report: Callable[[str], None] = _print_now) -> int:
        """Runs the cells that have no result yet.

        Args:
          cells: this shard's cells.
          report: takes one line per cell.

        Returns:
          The number of cells run.
        """
        todo = [cell for cell in cells if not store.is_finished(self.study_dir, cell)]
        report(f"{len(cells)} cells, {len(cells) - len(todo)} finished before, {len(todo)} to run")
        for name in dict.fromkeys(cell.arm.initial for cell in todo):
            self._make_initial(self.initials[name])
        # One initial model is in memory at a time, so cells that share one come together.
        todo.sort(key=self._start_of)
        progress = _Progress(len(todo), report)
        # The device does not wait for the host between groups: the next one is prepared and its
        # step compiled, and what the last one predicted is scored and written, in other threads.
        with (
            ThreadPoolExecutor(max_workers=1) as compiler,
            ThreadPoolExecutor(max_workers=1) as writer,
            contextlib.closing(prefetch(self._groups(todo, compiler), depth=1)) as groups,
        ):
            written = None
            for (name, seed), jobs, compiled in groups:
                initial = self.initial_params(name, seed)
                compiled.result()
                tuned = self._tuner.tune(initial, jobs)
                clock = time.monotonic()
                predicted = self._predict(tuned)
                decode_secs = (time.monotonic() - clock) / len(jobs)
                tuned = tuned._replace(params={})  # the next group needs the devices' memory
                if written is not None:
                    written.result()  # raises what went wrong
                written = writer.submit(self._finish, tuned, predicted, decode_secs, progress)
            if written is not None:
                written.result()
        return len(todo)

    def _groups(
        self, todo: Sequence[Cell], compiler: Executor
    ) -> Iterator[tuple[tuple[str, int], list[Job], Future[None]]]:
        """From where, what to tune together, and when its step is compiled.

        Args:
          todo: cells, sorted by where they start.
          compiler: compiles the steps.
        """
        for start, cells in itertools.groupby(todo, self._start_of):
            for jobs in self._tuner.group(map(self._prepare, cells)):
                yield start, jobs, compiler.submit(self._tuner.compile, jobs)

    def _prepare(self, cell: Cell) -> Job:
        prompt = cell.arm.prompt
        train = self.data.budget(cell.tasks, prompt, cell.budget, cell.seed)
        return self._tuner.prepare(cell, train, self.data.test(cell.tasks, prompt))

    def _start_of(self, cell: Cell) -> tuple[str, int]:
        """Name and seed of the parameters that a cell starts from."""
        name = cell.arm.initial
        return name, cell.seed if self.initials[name].is_random else 0

    def _predict(self, tuned: Tuned) -> list[list[Prediction]]:
        """The predictions of each tuned model for its test examples."""
        sets = [job.test for job in tuned.jobs]
        if len(sets) == 1:
            return [predict(self.decoder, tuned.params, sets[0])]
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
        counts = {name: sum(e.task == name for e in train) for name in cell.tasks}
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
            "train_examples_by_task": counts,
            "steps": job.num_steps,
            **{name: round(value, 3) for name, value in seconds.items()},
            # None where it is no finite number, as in a model that has diverged.
            "train_loss": [loss if math.isfinite(loss) else None for loss in losses],
            "leaked_tasks": [n for n in cell.tasks if train and self.data.is_leaked(n)],
            "truncated_by_task": _truncated(cell.tasks, train, rows),
            "short_tasks": self.data.short(cell.tasks, cell.budget),
            "scores": {"by_task": task_scores(rows)},
        }

    def _load_initial(self, initial: InitialModel, seed: int) -> Params:
        if initial.is_random:
            program = self._tuner.program(self.recipe.trainer(1))
            return program.init_state(jax.random.key(seed)).params
        path = initial.path
        if path is None and initial.scope is None:
            assert initial.base is not None  # or it would be random
            return self._load_initial(self.initials[initial.base], seed)
        if path is None:
            path = str(self._made_params(initial))
        return load_params(path, abstract_params(self.model, self.partitioner))

    def _made_params(self, initial: InitialModel) -> Path:
        return store.initial_dir(self.study_dir, self.initial_keys[initial.name]) / "params"

    def _make_initial(self, initial: InitialModel) -> None:
        """Tunes an initial model unless it is given, random, or made before."""
        if initial.base:
            self._make_initial(self.initials[initial.base])
        if initial.scope is None:
            return
        finished = self._made_params(initial)
        waiting = False
        while not finished.is_dir():
            try:
                lock = DirectoryLock(finished.parent)
            except DirectoryInUse as error:
                if not waiting:
                    print(f"waiting for initial model {initial.name}: {error}", file=sys.stderr)
                waiting = True
                time.sleep(_WAIT_SECS)
                continue
            try:
                if not finished.is_dir():
                    self._tune_initial(initial, finished.parent)
            finally:
                lock.release()

    def _tune_initial(self, initial: InitialModel, directory: Path) -> None:
        """Trains an initial model in its own resumable run and saves its parameters."""
        recipe = initial.recipe
        assert initial.scope is not None  # what makes it one to be trained
        train = self.data.scope(
            initial.scope, initial.prompt, initial.budget, recipe.task_feature_lengths
        )
        batches = make_batches(train, recipe, initial.seed)
        steps = recipe.num_steps(batches.steps_for_epochs(recipe.epochs))
        base = None
        if initial.base:
            base = str(directory / "base")
            if not Path(base).is_dir():
                start = self._load_initial(self.initials[initial.base], initial.seed)
                save_params(base, start, {"step": 0})
        self._resident = None
        clock = time.monotonic()
        _print_now(f"initial model {initial.name}: {len(train)} examples, {steps} steps")
        state, done = run_training(
            self._tuner.program(recipe.trainer(steps)),
            batches,
            str(directory / "train"),
            lambda start: start + steps,
            CheckpointConfig(
                restore=RestoreCheckpointConfig(base) if base else None,
                save=SaveCheckpointConfig(_SAVE_INITIAL_EVERY, keep=2),
            ),
            initial.seed,
            meta={"initial": initial.name},
        )
        if not done:
            raise SystemExit(0)  # SIGTERM: everything is saved, the same command goes on
        meta = {
            "step": 0,
            "initial": initial.name,
            "train_secs": round(time.monotonic() - clock, 1),  # of the process that finished it
        }
        save_params(str(directory / "params"), state.params, meta)


def _truncated(
    tasks: Sequence[str], train: Sequence[Example], test: Sequence[Prediction]
) -> dict[str, list[int]]:
    """{task: [cut training prompts, cut test prompts]}, for tasks that have any."""
    counts = {
        name: [
            sum(example.truncated for example in train if example.task == name),
            sum(row.truncated for row in test if row.task == name),
        ]
        for name in tasks
    }
    return {name: pair for name, pair in counts.items() if any(pair)}
