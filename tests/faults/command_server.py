"""Runs commands in forked processes that may be killed: what takes long, the imports, is done once.

Orders come as JSON lines on standard input: {"command": "train", "arguments": [...], "log": path},
and what the process is to have: "max_file_bytes" (as on a full disk), "devices", "environment" and
"directory" (to work in).
The answers are the process's id as soon as it runs, and its exit code once it has ended.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from typing import Any

from t5x_ext import eval as evaluate
from t5x_ext import infer, report, study, train
from t5x_ext.training.trainer import StepEvent

COMMANDS = {
    "eval": evaluate.main,
    "infer": infer.main,
    "report": report.main,
    "study": study.main,
    "train": train.main,
}
# What the commands import late. None of it may start threads or open devices before a fork.
IMPORTED_LATE = (
    "orbax.checkpoint",
    "t5x_ext.data.datasets",
    "t5x_ext.report",
    "t5x_ext.runs.run",
    "t5x_ext.studies.runner",
)


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
    if "max_file_bytes" in order:
        limits = (order["max_file_bytes"], resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if "devices" in order:
        flag = f"--xla_force_host_platform_device_count={order['devices']}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"  # the last counts
    os.environ.update(order.get("environment", {}))
    os.chdir(order.get("directory", "."))
    try:
        return COMMANDS[order["command"]](order["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def main() -> None:
    """Serves orders until standard input ends."""
    for module in IMPORTED_LATE:
        importlib.import_module(module)
    print("ready", flush=True)
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            status = 70  # an exception: its traceback is in the log
            try:
                status = _run(json.loads(line))
            except SystemExit as end:
                status = end.code
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
