"""Reads a study's report for your own plots: scores by arm and budget, with their intervals.

    python docs/examples/read_report.py runs/tiny_study

`report/summary.csv` has a row per arm, budget and scope, `report/results.csv` one per model and
task, and `t5x_ext report STUDY_DIR --json` prints the findings of the first page.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path


def main() -> None:
    """Prints one line for each point of the page's figure."""
    study_dir = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/tiny_study")
    with (study_dir / "report" / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["scope"] == "overall"]
    for row in rows:
        score, low, high = (float(row[name]) for name in ("rougeL", "rougeL_low", "rougeL_high"))
        # Text that a spreadsheet would take for a formula begins with an apostrophe.
        label = row["label"].removeprefix("'")
        print(
            f"{row['setting']}  {label}  {float(row['labels_per_task']):.0f} labels a task: "
            f"ROUGE-L {score:.1f} [{low:.1f}, {high:.1f}]"
        )


if __name__ == "__main__":
    main()
