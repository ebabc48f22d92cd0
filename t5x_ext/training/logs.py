"""What a run leaves behind to look at: metrics.jsonl, TensorBoard events, a progress line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from t5x_ext import files
from t5x_ext.errors import ConfigError
from t5x_ext.progress import QUIET_SECS, duration
from t5x_ext.terminal import note
from t5x_ext.training.events import EventFile
from t5x_ext.training.wandb_runs import WandbRun

METRICS_FILE = "metrics.jsonl"


class MetricLog:
    """Appends numbers by step to MODEL_DIR/metrics.jsonl, TensorBoard's event file, W&B if asked.

    One process writes: construct it on process 0 only. A line of the JSONL file is
    `{"step": 100, "time": 1718000000.0, "train/loss": 2.31}`; numbers that are not finite are
    null there (JSON has none) and kept in TensorBoard.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str],
        start_step: int = 0,
        wandb_project: str | None = None,
    ) -> None:
        """Opens the files.

        Args:
            model_dir: Local directory, created if absent, or one in a bucket, where the files are
                brought up to date every half minute, at `flush` and at `close`.
            start_step: Finished steps in the restored checkpoint. Whatever an earlier run logged
                beyond it is dropped, so that a resumed run's curve is that of an unbroken one.
            wandb_project: Project of Weights & Biases; None for none.
        """
        directory = files.path(model_dir, "MODEL_DIR")
        self._path = directory / METRICS_FILE
        with files.writing(self._path):
            self._jsonl = files.GrowingFile(self._path, lambda old: _drop_after(old, start_step))
            self._events = EventFile(directory, start_step)
        self._wandb = WandbRun(Path(directory), wandb_project) if wandb_project else None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of a step.

        Args:
            step: Number of finished steps.
            metrics: Names such as `train/loss`; the part before the slash groups the plots.

        Raises:
            ConfigError: A file cannot be written (full disk, lost mount).
        """
        now = time.time()
        values = {name: float(value) for name, value in metrics.items()}
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        with self._logging(step):
            line = json.dumps({"step": step, "time": round(now, 3), **finite}) + "\n"
            self._jsonl.append(line.encode())
            self._events.write_scalars(now, step, values)
            if self._wandb:
                self._wandb.write(step, values)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Shows texts in TensorBoard: the method that T5X's `summarize_gin_config` calls.

        Args:
            step: Number of finished steps.
            texts: Markdown by name.

        Raises:
            ConfigError: The file cannot be written.
        """
        with self._logging(step):
            self._events.write_texts(time.time(), step, texts)

    @contextlib.contextmanager
    def _logging(self, step: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"{self._path}: step {step} cannot be logged ({error.strerror}); checkpoints "
                "are kept; the same command continues from the last once there is room"
            ) from None

    def flush(self) -> None:
        """Brings files in a bucket up to date: what a checkpoint includes is then never lost."""
        self._jsonl.flush()
        self._events.flush()

    def close(self) -> None:
        """Closes the files.

        Raises:
            ConfigError: What a bucket does not have yet cannot be written.
        """
        with files.writing(self._path):
            self._jsonl.close()
            self._events.close()
        if self._wandb:
            self._wandb.close()


class ProgressLine:
    """Says how training goes:

        step 200/1000  loss 2.3140  12.3k tokens/s  padding 3.1%  ETA 4m10s  host memory 1.2 GB

    On a terminal it is a tqdm bar, elsewhere plain lines; a minute without one ends with "step
    207/1000  ETA 4m03s". The clock starts after the first step, which compiles; rates are those
    since the last full line.
    """

    def __init__(self, total_steps: int, start_step: int = 0, stream: TextIO | None = None) -> None:
        """Starts counting.

        Args:
            total_steps: Step at which the run ends, counting the steps before `start_step`.
            start_step: Steps finished before this run.
            stream: Where to print; None is standard error.
        """
        self._total = total_steps
        self._step = start_step
        self._stream = stream or sys.stderr
        self._clock: float | None = None
        self._clock_step = start_step
        self._tokens = self._slots = 0
        self._timed_tokens = 0
        self._said = time.monotonic()
        self._bar = None
        if self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total_steps,
                initial=start_step,
                unit="step",
                file=self._stream,
                bar_format="{l_bar}{bar:20}| {n_fmt}/{total_fmt}{postfix}",
            )

    def count(self, step: int, tokens: int, slots: int) -> None:
        """Counts a finished step.

        Args:
            step: Its number.
            tokens: Real tokens in its batch, inputs and targets, over all hosts.
            slots: Positions in its batch, padding included.
        """
        self._tokens += tokens
        self._slots += slots
        now = time.monotonic()
        if self._clock is None:
            self._clock, self._clock_step = now, step
        else:
            self._timed_tokens += tokens
        if self._bar is not None:
            self._bar.update(step - self._step)
        self._step = step
        if self._bar is None and now - self._said > QUIET_SECS:
            self._say(self._eta(now) or ["compiled"], now)

    def _secs_per_step(self, now: float) -> float | None:
        """Since the last full line; None before a second step was timed."""
        steps = self._step - self._clock_step
        return (now - self._clock) / steps if self._clock is not None and steps > 0 else None

    def _eta(self, now: float) -> list[str]:
        secs = self._secs_per_step(now)
        return [f"ETA {duration((self._total - self._step) * secs)}"] if secs else []

    def _say(self, parts: Sequence[str], now: float) -> None:
        note("  ".join([f"step {self._step}/{self._total}", *parts]), stream=self._stream)
        self._said = now

    def report(self, loss: float) -> dict[str, float]:
        """Prints the line for the last counted step and starts a new interval.

        Args:
            loss: Loss per target token of that step or interval.

        Returns:
            The line's numbers, for the log: `tokens_per_sec` and `secs_per_step` (absent until a
            second step was timed), `padding_share` (0 to 1), `memory_gb`.
        """
        now = time.monotonic()
        memory_gb, where = memory_in_use()
        rates = {"padding_share": 1 - self._tokens / max(self._slots, 1), "memory_gb": memory_gb}
        parts = [f"loss {loss:.4f}" if abs(loss) >= 0.01 or not loss else f"loss {loss:.3g}"]
        secs = self._secs_per_step(now)
        if secs:
            timed = secs * (self._step - self._clock_step)
            rates |= {"tokens_per_sec": self._timed_tokens / timed, "secs_per_step": secs}
            parts.append(f"{_thousands(rates['tokens_per_sec'])} tokens/s")
        parts.append(f"padding {100 * rates['padding_share']:.1f}%")
        parts += self._eta(now)
        parts.append(f"{where} memory {memory_gb:.1f} GB")
        if self._bar is not None:
            self._bar.set_postfix_str("  ".join(parts))
        else:
            self._say(parts, now)
        self._clock, self._clock_step = now, self._step
        self._tokens = self._slots = self._timed_tokens = 0
        return rates

    def close(self) -> None:
        """Ends the bar, if there is one, so that later output starts on a new line."""
        if self._bar is not None:
            self._bar.close()


def memory_in_use() -> tuple[float, str]:
    """Peak memory so far in GB (10^9 bytes), and of what: the first "device", or the "host".

    Backends without their own allocator, such as the CPU, report the process's memory.
    """
    import jax

    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 1e9, "device"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, KiB elsewhere.
    return (peak if sys.platform == "darwin" else peak * 1024) / 1e9, "host"


def _drop_after(content: bytes, step: int) -> bytes:
    """Removes the lines of later steps, and a last line that a killed run left unfinished."""
    kept = []
    for line in content.splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except ValueError:
            continue
    return b"".join(kept)


def _thousands(number: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"
