"""What checksums cost: saves and restores a state of 1 GB with and without them, in one process.

    python benchmarks/checkpoints.py [--gigabytes 1.0] [--rounds 5]

The two take turns, so that both see the same machine; the median of each is printed, and their
ratio. Files stay in the page cache: a disk or a bucket that is slower makes the ratio smaller.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import jax
import jax.numpy as jnp

from t5x_ext.checkpoints import Checkpointer

_TENSORS = 16


def make_state(gigabytes: float) -> dict:
    """Random float32 matrices: like trained weights, they hardly compress."""
    columns = 4096
    rows = max(1, round(gigabytes * 1e9 / 4 / columns / _TENSORS))
    keys = jax.random.split(jax.random.key(0), _TENSORS)
    kernels = {f"kernel_{i}": jax.random.normal(key, (rows, columns)) for i, key in enumerate(keys)}
    return jax.block_until_ready({"step": jnp.int32(1), "params": kernels})


def measure(state: dict, directory: Path, checksums: bool) -> dict[str, float]:
    """Seconds until `save` returns, until all is on disk, and of a restore."""
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    with Checkpointer(str(directory), checksums=checksums) as checkpointer:
        clock = time.perf_counter()
        checkpointer.save(1, state, {}, {}, force=True)
        returned = time.perf_counter() - clock
        checkpointer.wait()
        saved = time.perf_counter() - clock
        clock = time.perf_counter()
        jax.block_until_ready(checkpointer.restore(wanted))
        return {"returned": returned, "saved": saved, "restored": time.perf_counter() - clock}


def main() -> None:
    """Prints a line for each of the three times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the state")
    parser.add_argument("--rounds", type=int, default=5, help="of both, after one to warm up")
    args = parser.parse_args()
    state = make_state(args.gigabytes)
    seconds: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for number in range(args.rounds + 1):
        for checksums in (True, False):
            with tempfile.TemporaryDirectory() as directory:
                measured = measure(state, Path(directory), checksums)
            for what, value in measured.items() if number else ():
                seconds[what, checksums].append(value)
    for what in ("returned", "saved", "restored"):
        with_them, without = (statistics.median(seconds[what, flag]) for flag in (True, False))
        print(
            f"{what:>9}: {with_them:.2f} s with checksums, {without:.2f} s without,"
            f" ratio {with_them / without:.2f}"
        )


if __name__ == "__main__":
    main()
