"""Trains in forked processes that may be killed: what takes long, the imports, is done once.

Orders come as JSON lines on standard input: {"arguments": [...], "log": path, "max_file_bytes":
number or null}. The answers are the process's id as soon as it runs, and its exit code once it has
ended.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

from t5x_ext import train
from t5x_ext.training.trainer import StepEvent


class Record:
    """A hook that writes down every step: its number, its examples and its loss, bit by bit."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, event: StepEvent) -> None:
        loss = float(event.metrics["loss"]).hex()
        line = json.dumps({"step": event.step, "ids": event.info.ids, "loss": loss})
        with open(self._path, "a") as file:
            file.write(line + "\n")


def _run(order: dict[str, Any]) -> int:
    with open(order["log"], "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if order["max_file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["max_file_bytes"], resource.RLIM_INFINITY))
    try:
        return train.main(order["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def main() -> None:
    """Serves orders until standard input ends."""
    # What `train` imports late. None of it may start threads or open devices before a fork.
    import orbax.checkpoint  # noqa: F401

    import t5x_ext.data.datasets
    import t5x_ext.runs  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            status = 70  # an exception: its traceback is in the log
            try:
                status = _run(json.loads(line))
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
