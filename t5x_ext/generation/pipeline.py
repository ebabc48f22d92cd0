"""All rounds in one directory, stage by stage.

    DIR/round1/*.jsonl                       see `instructions` and `responses`
    DIR/round1/run                           MODEL_DIR of the tuning run
    DIR/round1/adapter                       the expert, as PEFT has it
    DIR/round2/...
    DIR/evaluation/<model>-k<shots>.jsonl    predictions
    DIR/scores.json, DIR/scores.md           what they score

| round | tasks by                        | answered by, against | adapter over |
|-------|---------------------------------|----------------------|--------------|
| 1     | M_0                             | M_0                  | M_0          |
| r     | M_(r-1), or those of round 1    | M_(r-1), M_(r-2)     | M_0, afresh  |

Every stage resumes where an earlier process left it, and a finished one reads no weights.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from t5x_ext import bounds, files
from t5x_ext.checkpoints.directories import saved_steps
from t5x_ext.decoding import Greedy
from t5x_ext.errors import ConfigError, TryAgain
from t5x_ext.generation import rounds, scores, tuning
from t5x_ext.generation.answering import check_room
from t5x_ext.generation.evaluation import (
    EvaluationSettings,
    ask,
    demonstrations,
    write_predictions,
)
from t5x_ext.generation.instructions import INSTRUCTIONS, check_seeds
from t5x_ext.generation.journal import read_records
from t5x_ext.generation.overlap import rows_with
from t5x_ext.generation.responses import TRAIN
from t5x_ext.generation.rounds import Round, Written
from t5x_ext.generation.text_models import ModelSource, Writer
from t5x_ext.generation.tuning import TuningSettings
from t5x_ext.retrieval import Index
from t5x_ext.terminal import note

ADAPTER, RUN = "adapter", "run"


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Self-specialization of one model for one domain.

    Attributes:
        directory: of all files.
        base: the model, M_0.
        round: what each round is made from; its number is replaced.
        tuning: how adapters are tuned.
        evaluation: how questions are asked; its template and shots are replaced.
        evaluation_decoding: how they are answered; a `Sampling` has the seed of `evaluation`.
        shots: numbers of demonstrations.
        num_rounds: how many rounds.
        new_instructions: whether later rounds write new tasks, or answer those of the
            first again.
        instructions: tasks that the first round answers instead of writing some; None for none.
    """

    directory: epath.Path
    base: ModelSource
    round: Round
    tuning: TuningSettings = TuningSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    evaluation_decoding: Greedy = Greedy()
    shots: Sequence[int] = (0, 1, 5)
    num_rounds: int = 2
    new_instructions: bool = True
    instructions: files.StrPath | None = None

    def __post_init__(self) -> None:
        bounds.check_int("ROUNDS", self.num_rounds, 1, 100)
        if not isinstance(self.evaluation_decoding, Greedy):
            raise ConfigError(
                f"specialize.evaluation_decoding: {self.evaluation_decoding!r:.60}; allowed: "
                "Greedy(...) or Sampling(...)"
            )
        if not self.shots:
            raise ConfigError("SHOTS: (); allowed: numbers of demonstrations, such as (0, 1, 5)")
        for shots in self.shots:
            bounds.check_int("SHOTS", shots, 0, 1000)

    def with_index(self, index: Index) -> Pipeline:
        """The same with passages."""
        return dataclasses.replace(self, round=dataclasses.replace(self.round, index=index))

    def of_round(self, number: int, *names: str) -> epath.Path:
        """A path in the directory of a round."""
        return self.directory.joinpath(f"round{number}", *names)

    def has_adapter(self, number: int) -> bool:
        """Whether a round is tuned."""
        return files.is_dir(self.of_round(number, ADAPTER))

    def write_instructions(self, number: int) -> Written | None:
        """Writes the tasks of a round; None if it answers those that there are."""
        if self.given_tasks(number) is not None:
            return None
        writer, _ = self.writers(number)
        found = rounds.write_instructions(
            self.round.numbered(number), writer, self.of_round(number)
        )
        return _checked(found)

    def write_responses(self, number: int) -> Written:
        """Answers the tasks of a round."""
        tasks = self.given_tasks(number)
        expert, amateur = self.writers(number)
        found = rounds.write_responses(
            self.round.numbered(number), expert, amateur, self.of_round(number), tasks
        )
        return _checked(found)

    def write_rows(self, number: int) -> Written:
        """Writes and answers tasks until there are enough rows."""
        if self.given_tasks(number) is not None:
            return self.write_responses(number)
        expert, amateur = self.writers(number)
        found = rounds.write_rows(
            self.round.numbered(number), self.of_round(number), expert, expert, amateur
        )
        return _checked(found)

    def tune(self, number: int, train: Callable[..., None]) -> epath.Path:
        """Tunes the adapter of a round; returns its directory.

        Args:
            number: of the round.
            train: `t5x_ext.train.train`.

        Raises:
            ConfigError: there are no rows, or the run was begun with others.
        """
        rows, adapter = self.of_round(number, TRAIN), self.of_round(number, ADAPTER)
        if not files.is_file(rows):
            raise ConfigError(f"{rows}: no such file; run the stage 'responses' first")
        # Seeds among the rows are of round 0.
        written = sum(record.get("round") != 0 for record in read_records(rows))
        if not written:
            raise ConfigError(f"{rows}: holds no row that was written; run the stage 'responses'")
        tuning.begin(self.tuning, self.base, rows, self.of_round(number))
        if self.has_adapter(number):
            return adapter
        if written < self.round.num_rows:
            note(
                f"round {number}: tuned on {written:,} rows of {self.round.num_rows:,}: the stage "
                "'responses' writes more, if there are tasks left"
            )
        model_dir = self.of_round(number, RUN)
        arguments = tuning.train_arguments(self.tuning, self.base, rows, model_dir)
        train(**arguments)
        steps = saved_steps(files.absolute(model_dir))
        if arguments["total_steps"] not in steps:
            raise TryAgain(f"{model_dir}: stopped before its last step; the same command resumes")
        tuning.write_adapter(model_dir, adapter)
        return adapter

    def evaluate(self) -> dict[str, Any]:
        """Asks the evaluation rows of the base, without and with template, and of every expert.

        Returns:
            {"models": {name: {shots: see `scores.Scored`}}, "over_shots": {name: see
            `scores.over_shots`}, "flagged": [[task, id], ...]}

        Raises:
            ConfigError: there are no evaluation rows, or a task has too few seeds.
        """
        rows = self.round.evaluation
        if not rows:
            raise ConfigError("EVALUATION: none; allowed: files of evaluation rows")
        tuned = [n for n in range(1, self.num_rounds + 1) if self.has_adapter(n)]
        writers = self._open(tuned)
        flagged = rows_with(self._tuned_on(tuned), rows)
        found: dict[str, dict[int, scores.Scored]] = {}
        for name, template in self.asked_models(tuned):
            writer = writers.get(name) or writers[None]
            method = rounds.seeded(self.evaluation_decoding, self.evaluation.seed)
            text_model = writer.text_model(method, self.round.batch_size)
            for shots in self.shots:
                path = self.predictions_file(name, shots)
                settings = self.evaluation_settings(template, shots)
                counts = write_predictions(
                    path, rows, self.round.seeds, text_model, settings, self.round.batch_size
                )
                scored = scores.score_file(path, flagged)
                scored.scores["lost"] = counts["lost"]
                found.setdefault(name, {})[shots] = scored
        models = {
            name: {shots: each.scores for shots, each in by_shots.items()}
            for name, by_shots in found.items()
        }
        spread = {name: scores.over_shots(by_shots) for name, by_shots in found.items()}
        result = {"models": models, "over_shots": spread, "flagged": sorted(map(list, flagged))}
        files.write_text(self.directory / "scores.json", json.dumps(result, indent=2) + "\n")
        files.write_text(self.directory / "scores.md", scores.table(models, spread))
        return result

    def check_shots(self) -> None:
        """Refuses evaluation rows of a task that has too few seeds to demonstrate it.

        Raises:
            ConfigError: names the task.
        """
        for task in sorted({row.task for row in self.round.evaluation}):
            demonstrations(task, self.round.seeds, max(self.shots))

    def check_fits_context(self, writes: bool, answers: bool, evaluates: bool) -> None:
        """Refuses what does not fit into the model's context, hours before it would be asked.

        Args:
            writes: whether seeds are shown in requests for tasks.
            answers: whether tasks are answered. One that turns out too long is dropped; tasks
                like the seeds must fit.
            evaluates: whether evaluation rows are asked.

        Raises:
            ConfigError: names the seeds, the setting or the row.
        """
        this, counter = self.round, self.base.counter()
        if writes:
            check_seeds(this.seeds, this.asking, counter)
        if answers:
            check_room(this.answering, counter, this.seeds)
        templates = {template for _, template in self.asked_models()} if evaluates else set()
        for template in sorted(templates):
            for row in this.evaluation:  # demonstrations give way where a prompt is too long
                ask(row, (), self.evaluation_settings(template, 0), counter)

    def given_tasks(self, number: int) -> files.StrPath | None:
        """The file of tasks of a round that writes none."""
        if number > 1 and self.new_instructions:
            return None
        return self.instructions or (None if number == 1 else self.of_round(1, INSTRUCTIONS))

    def writes_tasks(self, number: int | None = None) -> bool:
        """Whether a round writes tasks; None is any of them."""
        numbers = range(1, self.num_rounds + 1) if number is None else (number,)
        return any(self.given_tasks(each) is None for each in numbers)

    def asked_models(self, tuned: Sequence[int] | None = None) -> list[tuple[str, str]]:
        """What is evaluated, with its template: the base without one and with it, the experts."""
        numbers = range(1, self.num_rounds + 1) if tuned is None else tuned
        experts = [(f"round{number}", "alpaca") for number in numbers]
        return [("base", "ss.none"), ("base_template", "alpaca"), *experts]

    def predictions_file(self, name: str, shots: int) -> epath.Path:
        """Where the answers of one model with so many demonstrations are."""
        return self.directory / "evaluation" / f"{name}-k{shots}.jsonl"

    def evaluation_settings(self, template: str, shots: int) -> EvaluationSettings:
        """How one model is asked."""
        return dataclasses.replace(self.evaluation, template=template, shots=shots)

    def writers(self, number: int) -> tuple[Writer, Writer | None]:
        """Who writes and answers in a round, and the amateur.

        Raises:
            ConfigError: the round before is not tuned, or its adapter is of another base.
        """
        if number == 1:
            return self._open([])[None], None
        if not self.has_adapter(number - 1):
            raise ConfigError(
                f"{self.of_round(number - 1, ADAPTER)}: no such directory; round {number} "
                f"needs it: run the stage 'train' of round {number - 1} first"
            )
        before = [number - 1] if number == 2 else [number - 2, number - 1]
        writers = self._open(before)
        return writers[f"round{number - 1}"], writers[None if number == 2 else f"round{number - 2}"]

    def _open(self, tuned: Sequence[int]) -> Mapping[str | None, Writer]:
        adapters = {f"round{number}": str(self.of_round(number, ADAPTER)) for number in tuned}
        return self.base.open(adapters)

    def _tuned_on(self, tuned: Sequence[int]) -> list[str]:
        """The texts of all rows that adapters were tuned on."""
        records = [each for number in tuned for each in read_records(self.of_round(number, TRAIN))]
        return [each[field] for each in records for field in ("input", "output")]


def _checked(written: Written) -> Written:
    """Refuses a stage that kept nothing."""
    if written.counts["kept"]:
        return written
    reasons = ", ".join(f"{count} {name}" for name, count in written.counts.most_common())
    what = "task" if written.path.name == INSTRUCTIONS else "row"
    raise ConfigError(f"{written.path}: no {what} was kept ({reasons or 'none was written'})")
