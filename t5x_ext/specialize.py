"""`python -m t5x_ext.specialize`: a model writes data of a domain for itself."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from etils import epath

from t5x_ext import bounds, files, gin_utils
from t5x_ext.decoding import Greedy, Sampling
from t5x_ext.errors import ConfigError, nearest
from t5x_ext.generation import (
    EvaluationRow,
    FilterSettings,
    Generator,
    InstructionSettings,
    ResponseSettings,
    Seed,
    read_evaluation,
    read_seeds,
)
from t5x_ext.generation.evaluation import EvaluationSettings, write_predictions
from t5x_ext.generation.forecast import Forecast, forecast
from t5x_ext.generation.records import bundled, evaluation_files
from t5x_ext.retrieval import BM25, Corpus, Index, open_index
from t5x_ext.terminal import show

STAGES = ("generate", "instructions", "responses", "evaluate")
# The prompts and defaults of the paper.
_WRITING_TASKS = Sampling(temperature=1.0, top_p=0.98)


def specialize(
    *,
    checkpoint_path: str,
    output_dir: str,
    domain: str = "harbour",
    seeds: str | None = None,
    corpus: str | None = None,
    evaluation: Sequence[str] = (),
    instructions: str | None = None,
    num_rows: int = 5000,
    num_passages: int = 5,
    weighting: str = "proportional",
    weighting_temperature: float = 1.0,
    include_seeds: bool = False,
    round: int = 1,
    seed: int = 0,
    template: str = "alpaca",
    shots: Sequence[int] = (0, 1, 5),
    max_instruction_tokens: int = 2048,
    max_response_tokens: int = 512,
    max_answer_tokens: int | None = None,
    max_requests: int = 10_000,
    batch_size: int = 8,
    adapter: str | None = None,
    quantization: str | None = None,
    vocabulary: str | None = None,
    dtype: str = "float32",
    filter_cfg: FilterSettings = FilterSettings(),
    bm25_cfg: BM25 = BM25(),
    instruction_decoding: Sampling = _WRITING_TASKS,
    response_decoding: Greedy = Greedy(),
    stage: str = "generate",
    dry_run: bool = False,
    summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
) -> None:
    """Writes SPECIALIZE_DIR/train.jsonl, rows to tune on; a killed run goes on from there.

    Args:
      checkpoint_path: a decoder-only model of any layout.
      output_dir: SPECIALIZE_DIR, created if absent.
      domain: an adjective, such as 'biomedical'; the prompts name it.
      seeds: JSONL of tasks with answers; None is the bundled ones, of a made-up harbour.
      corpus: JSONL of passages; None is the bundled one with the bundled seeds, else none.
      evaluation: files, or directories of files, of evaluation rows. No task may repeat them, and
        the stage 'evaluate' asks them; with the bundled seeds and none given, the bundled ones.
      instructions: tasks to answer instead of SPECIALIZE_DIR/instructions.jsonl.
      num_rows: rows to train on; of the stage 'instructions', tasks.
      num_passages: of the corpus, beside each task; 0 for none.
      weighting: of the passages: 'proportional', 'softmax' or 'uniform'.
      weighting_temperature: of 'softmax'.
      include_seeds: put the seeds before the rows.
      round: of self-specialization, from 1; marks the rows.
      seed: of all draws.
      template: of evaluation: 'alpaca', or 'ss.none' for models that were tuned on no template.
      shots: of evaluation: numbers of demonstrations.
      max_instruction_tokens: of a list of tasks.
      max_response_tokens: of an answer that is trained on.
      max_answer_tokens: of an answer in evaluation; None is 256 for long kinds, else 128.
      max_requests: lists of tasks asked for at most.
      batch_size: answers at a time; no file depends on it.
      adapter: over the checkpoint: a run with LORA_RANK, or a directory of PEFT's.
      quantization: 'nf4', or None.
      vocabulary: a path, where the checkpoint has none.
      dtype: 'float32' or 'bfloat16', of parameters and computation.
      filter_cfg: which tasks are dropped.
      bm25_cfg: how passages are found.
      instruction_decoding: how tasks are written; its seed is `seed`.
      response_decoding: how answers are written.
      stage: 'generate' is both 'instructions' and 'responses', again until there are enough rows;
        'evaluate' answers the evaluation rows.
      dry_run: print counts, tokens and sample prompts; read no weights and write nothing.
      summarize_config_fn: writes the config down; `gin_utils.summarize_gin_config`.

    Raises:
      ConfigError: a file or a setting cannot be used.
    """
    if stage not in STAGES:
        raise ConfigError(f"--stage: {stage!r}{nearest(stage, STAGES)}")
    bounds.check_int("specialize.num_rows", num_rows, 1)
    bounds.check_int("specialize.batch_size", batch_size, 1, bounds.MAX_ROWS)
    # They import the models, which checks can do without.
    from t5x_ext.generation import rounds
    from t5x_ext.generation.rounds import Round
    from t5x_ext.generation.text_models import Weights

    if seeds is None:
        corpus = corpus or bundled("corpus.jsonl")
        evaluation = evaluation or (bundled("evaluation"),)
    rows = [r for p in evaluation for file in evaluation_files(p) for r in read_evaluation(file)]
    index = None
    if corpus is not None and num_passages and stage != "evaluate":
        index = open_index(Corpus(corpus), bm25_cfg)
    this = Round(
        seeds=read_seeds(seeds or bundled("seeds.jsonl")),
        asking=InstructionSettings(
            domain=domain,
            round=round,
            seed=seed,
            max_new_tokens=max_instruction_tokens,
            max_requests=max_requests,
            filters=filter_cfg,
        ),
        answering=ResponseSettings(
            domain=domain,
            round=round,
            seed=seed,
            num_passages=num_passages,
            weighting=weighting,
            temperature=weighting_temperature,
            max_new_tokens=max_response_tokens,
            include_seeds=include_seeds,
        ),
        evaluation=rows,
        index=index,
        num_rows=num_rows,
        instruction_decoding=instruction_decoding,
        response_decoding=response_decoding,
        batch_size=batch_size,
    )
    name = None if adapter is None else "expert"
    adapters = {} if adapter is None else {"expert": adapter}
    writer = Weights(checkpoint_path, quantization, vocabulary, dtype).open(adapters)[name]
    decoding = this.answering_method(contrasted=False)
    if dry_run:
        counter = writer.generator(decoding, batch_size)
        expected = forecast(this.seeds, this.asking, this.answering, counter, num_rows, index)
        _show_forecast(expected, this.seeds, rows, index, num_rows)
        return
    directory = files.path(output_dir, "SPECIALIZE_DIR")
    summarize_config_fn(output_dir, None, 0)
    if stage == "evaluate":
        settings = EvaluationSettings(template, 0, max_answer_tokens, seed)
        generator = writer.generator(decoding, batch_size)
        _evaluate(directory, rows, this.seeds, generator, settings, shots)
    elif stage == "instructions":
        written = rounds.write_instructions(this, writer, directory)
        _show_counts(f"tasks -> {written.path}", written.counts)
    else:
        if stage == "responses" or instructions is not None:
            written = rounds.write_responses(this, writer, None, directory, instructions)
        else:
            written = rounds.write_rows(this, directory, writer, expert=writer)
        _show_counts(f"rows -> {written.path}", written.counts)


def _evaluate(
    directory: epath.Path,
    rows: Sequence[EvaluationRow],
    seeds: Sequence[Seed],
    generator: Generator,
    settings: EvaluationSettings,
    shots: Sequence[int],
) -> None:
    if not rows:
        raise ConfigError("EVALUATION: none; allowed: files of evaluation rows")
    for count in shots:
        path = directory / f"predictions-{settings.template}-k{count}.jsonl"
        counts = write_predictions(path, rows, seeds, generator, replace(settings, shots=count))
        _show_counts(f"predictions -> {path}", counts)


def _show_counts(what: str, counts: Counter[str]) -> None:
    show(what, *(f"  {count:>8,} {name}" for name, count in counts.most_common()))


def _show_forecast(
    expected: Forecast,
    seeds: Sequence[Seed],
    rows: Sequence[EvaluationRow],
    index: Index | None,
    num_rows: int,
) -> None:
    passages = 0 if index is None else len(index)
    lines: list[Any] = [
        f"{len(seeds):,} seeds, {passages:,} passages, {len(rows):,} evaluation rows",
        f"{num_rows:,} rows wanted",
        "",
        f"{'':<14}{'prompts':>10}{'tokens read':>14}{'tokens written':>16}",
        f"{'instructions':<14}{expected.requests:>10,}{expected.instruction_prompt_tokens:>14,}"
        f"{expected.instruction_new_tokens:>16,}",
        f"{'responses':<14}{expected.response_prompts:>10,}{expected.response_prompt_tokens:>14,}"
        f"{expected.response_new_tokens:>16,}",
        "assumed: tasks and answers are as long as those of the seeds, half of the tasks are kept",
    ]
    for number, sample in enumerate(expected.samples, start=1):
        lines += ["", f"--- sample prompt {number} ---", *sample.split("\n")]
    show(*lines)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", metavar="NAME", help=f"{', '.join(STAGES)} (default: generate)")
    parser.add_argument(
        "--dry_run",
        action="store_const",
        const=True,
        help="print counts, tokens and sample prompts; read no weights, write nothing",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return gin_utils.run(specialize, argv, gin_file="runs/specialize.gin", add_flags=_add_flags)


if __name__ == "__main__":
    sys.exit(main())
