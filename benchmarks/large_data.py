"""Memory and speed of training on a mixture that memory does not hold.

    python benchmarks/large_data.py --examples 10000000

Registers a synthetic SeqIO task of short examples and runs the train command on it, with the
settings of runs/pretrain.gin and a tiny model, twice: the second run finds the tokens in the cache
that the first has filled. Reports the peak resident memory of the command's process, the seconds
until its first step is logged, and those of the whole run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
SIZE_VARIABLE = "LARGE_DATA_EXAMPLES"
STEPS = 20


def register(count: int) -> None:
    """Registers the SeqIO task `large_data` of `count` examples."""
    import seqio
    import tensorflow as tf

    import mixtures

    def read(split: str, shuffle_files: bool) -> tf.data.Dataset:
        rows = tf.data.Dataset.range(count if split == "train" else 256)

        def row(number: tf.Tensor) -> dict[str, tf.Tensor]:
            text = tf.strings.as_string(number)
            words = tf.strings.join(["add ", text, " to ", text, " and tell"])
            return {"inputs": words, "targets": tf.strings.as_string(2 * number)}

        return rows.map(row, num_parallel_calls=tf.data.AUTOTUNE)

    feature = seqio.Feature(mixtures.current_context().vocabulary.as_seqio(), add_eos=True)
    seqio.TaskRegistry.add(
        "large_data",
        source=seqio.FunctionDataSource(read, splits=("train", "validation")),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={"inputs": feature, "targets": feature},
    )


def train(count: int, cache: str, model_dir: str) -> dict[str, float]:
    """Runs the command; returns what it took."""
    arguments = {
        "MIXTURE_OR_TASK_NAME": "'large_data'",
        "MIXTURE_OR_TASK_MODULE": "'benchmarks.large_data'",
        "TASK_FEATURE_LENGTHS": "{'inputs': 128, 'targets': 64}",
        "MODEL_DIR": repr(model_dir),
        "TRAIN_STEPS": STEPS,
        "BATCH_SIZE": 16,
        "STATS_PERIOD": 1,
    }
    command = [sys.executable, "-m", "t5x_ext.train", "--gin_file=models/t5_1_1_tiny.gin"]
    command += ["--gin_file=runs/pretrain.gin"]
    command += [f"--gin.{name}={value}" for name, value in arguments.items()]
    environment = os.environ | {
        "T5X_EXT_CACHE": cache,
        SIZE_VARIABLE: str(count),
        "PYTHONPATH": str(REPO),
    }
    start = time.monotonic()
    process = subprocess.Popen(command, env=environment, cwd=REPO)
    first_step = None
    log = Path(model_dir) / "metrics.jsonl"
    while process.poll() is None:
        if first_step is None and log.exists() and log.stat().st_size:
            first_step = time.monotonic() - start
        status = Path(f"/proc/{process.pid}/status")
        try:
            peak = re.search(r"VmHWM:\s+(\d+)", status.read_text())
        except OSError:
            peak = None
        if peak:
            peak_kib = int(peak[1])
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"train ended with {process.returncode}")
    return {
        "examples": count,
        "peak_rss_gb": round(peak_kib * 1024 / 1e9, 2),
        "first_step_secs": round(first_step or 0, 1),
        "whole_run_secs": round(time.monotonic() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=1_000_000, help="of the synthetic task")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for run in ("tokenised now", "from the cache"):
            cost = train(arguments.examples, f"{folder}/cache", f"{folder}/{run.split()[0]}")
            files = Path(folder, "cache", "examples").rglob("*")
            stored = sum(path.stat().st_size for path in files if path.is_file())
            cost["cache_gb"] = round(stored / 1e9, 2)
            print(json.dumps({"run": run} | cost), flush=True)


if __name__ == "__main__":
    main()
elif SIZE_VARIABLE in os.environ:  # imported by the command as MIXTURE_OR_TASK_MODULE
    register(int(os.environ[SIZE_VARIABLE]))
