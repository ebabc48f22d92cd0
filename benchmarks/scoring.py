"""Scores 11,810 predictions with our ROUGE and with the rouge_score library, side by side.

    python benchmarks/scoring.py [--rows 11810]

Prints rows a second of both, their ratio, and the largest difference between their scores.
"""

from __future__ import annotations

import argparse
import random
import time

import numpy as np
from rouge_score import rouge_scorer

from t5x_ext.metrics import rouge

WORDS = "the a of in to and is was for on with as by that it from at his her an are were".split()
WORDS += [f"word{i}ing" for i in range(3000)]


def make_rows(count: int) -> list[tuple[str, list[str]]]:
    """Predictions that share about half their words with their references."""
    rng = random.Random(0)

    def text() -> list[str]:
        return [rng.choice(WORDS) for _ in range(rng.choice((1, 2, 8, 20)))]

    def one() -> tuple[str, list[str]]:
        reference = text()
        prediction = [w if rng.random() < 0.5 else rng.choice(WORDS) for w in reference]
        references = [" ".join(reference)] + [" ".join(text()) for _ in range(rng.randrange(2))]
        return " ".join(prediction), references

    return [one() for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=11810)
    rows = make_rows(parser.parse_args().rows)

    clock = time.perf_counter()
    ours = [
        (rouge.rouge_1(prediction, references), rouge.rouge_l(prediction, references))
        for prediction, references in rows
    ]
    our_secs = time.perf_counter() - clock

    scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    clock = time.perf_counter()
    theirs = []
    for prediction, references in rows:
        scores = [scorer.score(reference, prediction) for reference in references]
        theirs.append([max(s[kind].fmeasure for s in scores) for kind in ("rouge1", "rougeL")])
    their_secs = time.perf_counter() - clock

    worst = abs(np.array(ours) - np.array(theirs)).max()
    print(f"ours         {len(rows) / our_secs:9.0f} rows/s  {our_secs:6.2f} s")
    print(f"rouge_score  {len(rows) / their_secs:9.0f} rows/s  {their_secs:6.2f} s")
    print(f"ratio        {their_secs / our_secs:9.1f}x  largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
