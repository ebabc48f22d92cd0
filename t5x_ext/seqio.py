"""SeqIO's names in gin files: there, `import seqio` means this module.

Vocabularies are this package's own (the same ids, without TensorFlow). `Evaluator` and its loggers
say how decoded examples are scored and written during training and by `eval`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Collection, Sequence

from mixtures.vocabularies import ByteVocabulary, SentencePieceVocabulary
from t5x_ext import bounds, files
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.aggregate import task_scores
from t5x_ext.metrics.predictions import Prediction, write_predictions
from t5x_ext.metrics.scoring import measure
from t5x_ext.terminal import note
from t5x_ext.training.events import EventFile

__all__ = [
    "ByteVocabulary",
    "Evaluator",
    "JSONLogger",
    "PyLoggingLogger",
    "SentencePieceVocabulary",
    "TensorBoardLogger",
]

Logger = Callable[[int, Sequence[Prediction]], None]


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """How decoded examples are evaluated, under `seqio.Evaluator`'s parameter names.

    Means over tasks go to MODEL_DIR/metrics.jsonl and TensorBoard in any case; loggers add to that.

    Attributes:
      logger_cls: classes; each is made once with the output directory and called with (step,
        scored rows) after each evaluation.
      num_examples: examples of each task, from its beginning; None takes all.
    """

    logger_cls: Sequence[Callable[[str], Logger]] = ()
    num_examples: int | None = None

    def __post_init__(self) -> None:
        if self.num_examples is not None:
            bounds.check_int("Evaluator.num_examples", self.num_examples, 1)

    def loggers(self, output_dir: str) -> list[Logger]:
        """Makes the loggers."""
        return [logger_cls(output_dir) for logger_cls in self.logger_cls]


def make_evaluator(evaluator_cls: Callable[[], Evaluator]) -> Evaluator:
    """Calls what `inference_evaluator_cls` is bound to.

    Raises:
      ConfigError: it is SeqIO's own class.
    """
    if evaluator_cls.__module__.startswith("seqio."):
        raise ConfigError(
            "inference_evaluator_cls: SeqIO's own Evaluator; allowed: t5x_ext.seqio.Evaluator, "
            "which `import seqio` gives in a gin file"
        )
    return evaluator_cls()


class PyLoggingLogger:
    """Prints each task's scores."""

    def __init__(self, output_dir: str) -> None:
        """Takes the directory that the others write to."""
        del output_dir

    def __call__(self, step: int, rows: Sequence[Prediction]) -> None:
        """Prints a line a task."""
        for task, scores in _numbers(rows).items():
            shown = "  ".join(f"{metric} {score:.2f}" for metric, score in scores.items())
            note(f"step {step}  {task}  {shown}")


class TensorBoardLogger:
    """Writes each task's scores to a TensorBoard event file, as `<task>/<metric>`."""

    def __init__(self, output_dir: str) -> None:
        """Makes the file in `output_dir`, which is created if absent."""
        with files.writing(output_dir):
            self._events = EventFile(output_dir)

    def __call__(self, step: int, rows: Sequence[Prediction]) -> None:
        """Adds one event a task."""
        for task, scores in _numbers(rows).items():
            values = {f"{task}/{metric}": score for metric, score in scores.items()}
            self._events.write_scalars(time.time(), step, values)
        self._events.flush()


class JSONLogger:
    """Writes `metrics.jsonl`, one line a task and step, and `predictions-<step>.jsonl`."""

    def __init__(self, output_dir: str, write_n_results: int | None = None) -> None:
        """Names the directory.

        Args:
          output_dir: created if absent.
          write_n_results: predictions written per evaluation, from the first; None writes all.

        Raises:
          ConfigError: a directory or a number that cannot be.
        """
        if write_n_results is not None:
            bounds.check_int("JSONLogger.write_n_results", write_n_results, 0)
        self._directory = files.path(output_dir)
        self._write_n_results = write_n_results

    def __call__(self, step: int, rows: Sequence[Prediction]) -> None:
        """Appends the scores and writes the predictions.

        A resumed run evaluates again what it had logged after its checkpoint: of a step and task
        the last line holds, and is the only one.
        """
        path = self._directory / "metrics.jsonl"
        by_task = task_scores(measure(rows))
        keep = functools.partial(_without, step, by_task)
        with files.writing(path), files.GrowingFile(path, keep) as file:
            for task, scores in by_task.items():
                line = json.dumps({"step": step, "task": task, **scores}) + "\n"
                file.append(line.encode())
        kept = rows[: self._write_n_results]
        if kept:
            write_predictions(self._directory / f"predictions-{step:06}.jsonl", kept)


def _without(step: int, tasks: Collection[str], content: bytes) -> bytes:
    """Lines but those of a step and tasks, and what a killed run left of its last one."""
    kept = []
    for line in content.splitlines():
        try:
            found = json.loads(line)
            if found["step"] != step or found["task"] not in tasks:
                kept.append(line + b"\n")
        except (ValueError, LookupError, TypeError):
            continue
    return b"".join(kept)


def _numbers(rows: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    """{task: {metric: percent}}."""
    by_task = task_scores(measure(rows))
    return {
        task: {name: float(each) for name, each in scores.items() if name not in ("category", "n")}
        for task, scores in by_task.items()
    }
