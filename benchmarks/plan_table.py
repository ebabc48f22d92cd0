"""Plans T5 1.1 XL and XXL on TPU slices, as a Markdown table.

    python benchmarks/plan_table.py [--out plans.jsonl] [--slices v5e:4x4,v6e:4x4] [--models xl]

Every row is one `t5x_ext plan --json`: global batch 128, 1024 input and 128 target tokens, packed
rows, Adafactor, bfloat16 over float32 parameters, everything split over all chips. A row starts
with what computes least and, where that does not fit, goes to the first change that does. Rows
already in the file are not planned again. Takes minutes a row on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from t5x_ext.terminal import names_flag

MODELS = ("xl", "xxl")
SLICES = ("v5e:4x4", "v5e:4x8", "v5e:16x16", "v4:2x2x4", "v5p:2x2x4", "v6e:4x4")
BATCH_SIZE = 128
GIB = 2**30

_COLUMNS = (
    "model",
    "slice",
    "fsdp x model",
    "remat, microbatches",
    "peak",
    "of",
    "TFLOP a chip",
    "operations",
    "step",
    "MFU",
    "1,000 steps",
    "compiled in",
)


def plan(model: str, name: str) -> dict[str, Any]:
    """The record of a plan, or of the change that makes it fit."""
    chips = 1
    for side in name.partition(":")[2].split("x"):
        chips *= int(side)
    fsdp = min(chips, BATCH_SIZE)  # a row cannot be split but by `model`
    command = [
        sys.executable,
        "-m",
        "t5x_ext.plan",
        "--json",
        "--proposals=1",
        f"--topology={name}",
        f"--gin_file=models/t5_1_1_{model}.gin",
        "--gin_file=runs/plan.gin",
        "--gin_file=optimizers/adafactor.gin",
        "--gin_file=meshes/fsdp.gin",
        f"--gin.BATCH_SIZE={BATCH_SIZE}",
        "--gin.PACK=True",
        '--gin.REMAT_POLICY="minimal"',
        f"--gin.FSDP={fsdp}",
        f"--gin.partitioning.PjitPartitioner.model={chips // fsdp}",
    ]
    clock = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    record = json.loads(done.stdout)
    tried = [] if record["fits"] else record["proposals"]
    record = tried[0] if tried else record
    return record | {"size": model, "total_secs": time.monotonic() - clock}


def row(record: dict[str, Any]) -> str:
    """One line of the table."""
    machine, mesh, batch = record["machine"], record["mesh"], record["batch"]
    cells = [
        record["size"].upper(),
        machine["name"],
        f"{mesh['fsdp']} x {mesh['model']}",
        f"{record['model']['remat_policy']}, {batch['num_microbatches']}",
        f"{record['needed_bytes'] / GIB:.2f} GiB",
        f"{machine['memory_bytes'] / GIB:.2f} GiB",
    ]
    train = record["train"]
    if not record["fits"]:
        return "| " + " | ".join([*cells, *["does not fit"], *["-"] * 5]) + " |"
    step = record["step_secs"]
    dollars = 1000 * step / 3600 * machine["count"] * machine["price_per_chip_hour"]
    cells += [
        f"{train['flops'] / 1e12:.1f}",
        f"{train['operation_secs'] * 1e3:,.0f} ms",
        f"{step * 1e3:,.0f} ms",
        f"{record['utilization']:.0%}",
        f"${dollars:,.2f}",
        f"{train['compile_secs']:.0f} s",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Plans what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("plans.jsonl"))
    for flag, names in (("--models", MODELS), ("--slices", SLICES)):
        parser.add_argument(
            flag, type=names_flag(names), default=names, metavar="LIST", help=",".join(names)
        )
    flags = parser.parse_args()
    lines = flags.out.read_text().splitlines() if flags.out.exists() else []
    records = {(r["size"], r["machine"]["name"]): r for r in map(json.loads, lines)}
    wanted = [(m, s) for m in flags.models for s in flags.slices]
    for key in wanted:
        if key not in records:
            records[key] = plan(*key)
            with flags.out.open("a") as out:
                out.write(json.dumps(records[key]) + "\n")
    head = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * 4}{'---:|' * (len(_COLUMNS) - 4)}"]
    print("\n".join([*head, *(row(records[key]) for key in wanted)]))


if __name__ == "__main__":
    main()
