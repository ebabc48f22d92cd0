"""Scores 10,000 rewritten sentences with every metric, and with the reference scorers.

    python benchmarks/metrics.py [--rows 10000] [--only sari,bleu] [--skip_references]

Rows are made up: sentences of 5 to 40 words, four references each with some words replaced,
dropped and added, gold edits of four annotators, and outputs that make some of these edits; one
output in a hundred repeats itself to 160 words. Prints the seconds that `score` takes to count all
metrics, in a process a core; then seconds of processor time for each metric, with bootstrap
intervals, and the same for sacrebleu and rouge_score, whose figures are compared.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable

import sacrebleu
from rouge_score import rouge_scorer

from t5x_ext.metrics import NAMES, Prediction, measure
from t5x_ext.metrics.aggregate import over_instances
from t5x_ext.metrics.edit_extraction import extract_edits
from t5x_ext.terminal import names_flag

WORDS = (
    "the a of in to and is was for on with as by that it from at his her an are were not".split()
)
WORDS += [f"{stem}{end}" for stem in ("walk", "talk", "build", "sing") for end in ("", "s", "ing")]
WORDS += [f"word{i}{end}" for i in range(600) for end in ("", "s", "ing", "ed")]
REFERENCES = 4


def make_rows(count: int) -> list[Prediction]:
    """Rows with sources, references and gold edits."""
    rng = random.Random(0)

    def rewrite(words: list[str]) -> list[str]:
        changed = []
        for word in words:
            draw = rng.random()
            if draw < 0.03:
                continue
            changed.append(rng.choice(WORDS) if draw < 0.10 else word)
            if draw > 0.97:
                changed.append(rng.choice(WORDS))
        return changed or words

    rows = []
    for i in range(count):
        source = [rng.choice(WORDS) for _ in range(rng.randint(5, 40))]
        references = [rewrite(source) for _ in range(REFERENCES)]
        output = rewrite(rng.choice(references))
        if i % 100 == 0:
            output = (output * 40)[:160]
        edits = {k: extract_edits(source, reference) for k, reference in enumerate(references)}
        rows.append(
            Prediction(
                task="rewriting",
                category="",
                id=str(i),
                inputs="",
                references=tuple(map(" ".join, references)),
                prediction=" ".join(output),
                source=" ".join(source),
                edits=edits,
                finish="eos",
            )
        )
    return rows


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Processor seconds of a call, and what it returns; other load does not count."""
    clock = time.process_time()
    found = work()
    return time.process_time() - clock, found


def show_ours(rows: list[Prediction], names: list[str]) -> dict[str, float]:
    """A line for each metric; returns the scores in percent."""
    scores, together = {}, [0.0, 0.0]
    print(f"{'metric':<44} {'score':>8} {'counting':>10} {'interval':>10}")
    for name in names:
        count_secs, measured = timed(lambda name=name: measure(rows, [name]))
        interval_secs, group = timed(lambda measured=measured: over_instances(measured))
        ((key, found),) = group.means.items()
        print(f"{key:<44} {found.mean:8.3f} {count_secs:8.2f} s {interval_secs:8.2f} s")
        scores[name] = found.mean
        together = [together[0] + count_secs, together[1] + interval_secs]
    print(f"{'together':<44} {'':>8} {together[0]:8.2f} s {together[1]:8.2f} s")
    return scores


def show_references(rows: list[Prediction], ours: dict[str, float]) -> None:
    """Times and figures of the libraries."""
    outputs = [row.prediction for row in rows]
    columns = [[row.references[k] for row in rows] for k in range(REFERENCES)]
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)

    def rouge_l() -> float:
        best = [
            max(
                scorer.score(reference, row.prediction)["rougeL"].fmeasure
                for reference in row.references
            )
            for row in rows
        ]
        return 100 * sum(best) / len(best)

    work: dict[str, Callable[[], float]] = {
        "bleu": lambda: sacrebleu.corpus_bleu(outputs, columns).score,
        "rougeL": rouge_l,
    }
    for name, run in work.items():
        if name in ours:
            secs, theirs = timed(run)
            apart = abs(float(theirs) - ours[name])
            print(f"{name} by its library: {theirs:.3f}, {apart:.1e} from ours, {secs:.2f} s")


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    without_spacy = [name for name in NAMES if not name.startswith("errant_spacy")]
    parser.add_argument(
        "--only",
        type=names_flag(NAMES),
        default=without_spacy,
        metavar="LIST",
        help=",".join(NAMES) + " (default: all but those that need spaCy)",
    )
    parser.add_argument("--skip_references", action="store_true")
    args = parser.parse_args()
    rows = make_rows(args.rows)
    print(f"{len(rows):,} rows; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    names = args.only
    began = time.perf_counter()
    measure(rows, names, processes=os.cpu_count() or 1)
    print(f"all metrics at once: {time.perf_counter() - began:.1f} s")
    ours = show_ours(rows, names)
    if not args.skip_references:
        show_references(rows, ours)


if __name__ == "__main__":
    main()
