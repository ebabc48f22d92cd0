"""`python -m t5x_ext.specialize`: a model writes data for itself, and is tuned on it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from t5x_ext import bounds, files, gin_utils, memory
from t5x_ext.decoding import Contrastive, Greedy, Sampling
from t5x_ext.errors import ConfigError, nearest
from t5x_ext.generation import InstructionSettings, ResponseSettings, read_evaluation, read_seeds
from t5x_ext.generation.evaluation import EvaluationSettings
from t5x_ext.generation.records import bundled, evaluation_files
from t5x_ext.retrieval import BM25, Corpus, CorpusSample, find_index, open_index
from t5x_ext.terminal import note, show

if TYPE_CHECKING:
    from t5x_ext.generation.pipeline import Pipeline
    from t5x_ext.generation.rounds import Written
    from t5x_ext.generation.tuning import TuningSettings
    from t5x_ext.planning.devices import Machine

STAGES = ("instructions", "responses", "train", "evaluate")


def specialize(
    *,
    checkpoint_path: str,
    output_dir: str,
    instructions_cfg: InstructionSettings,
    responses_cfg: ResponseSettings,
    tuning_cfg: TuningSettings,
    evaluation_cfg: EvaluationSettings,
    instruction_decoding: Sampling,
    response_decoding: Greedy,
    contrast: Contrastive,
    evaluation_decoding: Greedy = Greedy(),
    seeds: str | None = None,
    corpus: str | None = None,
    evaluation: Sequence[str] = (),
    instructions: str | None = None,
    num_rows: int = 5000,
    rounds: int = 2,
    new_instructions: bool = True,
    shots: Sequence[int] = (0, 1, 5),
    batch_size: int = 8,
    quantization: str | None = None,
    vocabulary: str | None = None,
    dtype: str = "float32",
    bm25_cfg: BM25 = BM25(),
    stage: str | None = None,
    round: int | None = None,
    dry_run: bool = False,
    devices: str | None = None,
    topology: str | None = None,
    summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
) -> None:
    """Makes an expert of a domain: SPECIALIZE_DIR/round<n>/adapter, and what it scores.

    A killed run resumes where it was; what is finished is skipped.

    Args:
      checkpoint_path: a decoder-only model of any layout.
      output_dir: SPECIALIZE_DIR, created if absent.
      instructions_cfg: how tasks are asked for, and which are dropped.
      responses_cfg: how they are answered, and which answers are dropped.
      tuning_cfg: how adapters are tuned.
      evaluation_cfg: how questions are asked.
      instruction_decoding: how tasks are written.
      response_decoding: how answers are written.
      contrast: how experts answer, set against the model before them.
      evaluation_decoding: how questions are answered.
      seeds: JSONL of tasks with answers; None is the bundled ones, of a made-up harbour.
      corpus: JSONL of passages; None is the bundled one with the bundled seeds, else none.
      evaluation: files, or directories of files, of evaluation rows. No task may repeat them, and
        the stage 'evaluate' asks them; with the bundled seeds and none given, the bundled ones.
      instructions: tasks for the first round to answer, instead of writing some.
      num_rows: rows to train on in each round; of the stage 'instructions', tasks.
      rounds: how often; from the second on, the expert of the round before writes.
      new_instructions: whether later rounds write new tasks, or answer the first's again.
      shots: of evaluation: numbers of demonstrations.
      batch_size: texts written at a time; no file depends on it.
      quantization: of the model, 'nf4' or None.
      vocabulary: a path, where the checkpoint has none.
      dtype: 'float32' or 'bfloat16', of parameters and computation.
      bm25_cfg: how passages are found.
      stage: one stage of one round; None is all stages of all rounds. Not with `dry_run`.
      round: of `stage`; None is 1.
      dry_run: print what each stage takes, and sample prompts; read no weights, write nothing.
      devices: of `dry_run`: GPUs to reckon with, such as '1xH200'; None and no `topology` measures
        this machine for a second.
      topology: of `dry_run`: a TPU slice, such as 'v5e:2x4'.
      summarize_config_fn: writes the config down; `gin_utils.summarize_gin_config`.

    Raises:
      ConfigError: a file or a setting cannot be used.
    """
    if stage is not None and stage not in STAGES:
        raise ConfigError(f"--stage: {stage!r}{nearest(stage, STAGES)}")
    if round is not None and (stage is None or not 1 <= round <= rounds):
        raise ConfigError(f"--round: {round}; allowed: 1 to ROUNDS ({rounds}), with --stage")
    for flag, machine in (("--devices", devices), ("--topology", topology)):
        if machine is not None and not dry_run:
            raise ConfigError(f"{flag}: {machine!r} without --dry_run; allowed: with --dry_run")
    # A forecast takes every stage from those before it, and then shows the one asked for.
    asked, stage = (stage, None) if dry_run else (None, stage)
    given = {"SEEDS": seeds, "CORPUS": corpus, "INSTRUCTIONS": instructions}
    for name, value in (given | {"VOCABULARY_PATH": vocabulary}).items():
        if value is not None:
            files.path(value, name)  # an empty one is not the default
    if instructions is not None and not files.is_file(instructions):
        raise ConfigError(f"INSTRUCTIONS: {instructions!r}; allowed: a file of tasks")
    # They import the models, which checks can do without.
    from t5x_ext.generation import tuning
    from t5x_ext.generation.pipeline import Pipeline
    from t5x_ext.generation.rounds import Round
    from t5x_ext.generation.text_models import ModelSource

    if seeds is None:
        corpus = corpus or bundled("corpus.jsonl")
        evaluation = evaluation or (bundled("evaluation"),)
    rows = [r for p in evaluation for file in evaluation_files(p) for r in read_evaluation(file)]
    wants_passages = responses_cfg.num_passages > 0 and stage in (None, "responses")
    passages = Corpus(corpus) if corpus and wants_passages else None
    pipeline = Pipeline(
        directory=files.path(output_dir, "SPECIALIZE_DIR"),
        base=ModelSource(checkpoint_path, quantization, vocabulary, dtype),
        round=Round(
            seeds=read_seeds(seeds or bundled("seeds.jsonl")),
            asking=instructions_cfg,
            answering=responses_cfg,
            evaluation=rows,
            num_rows=num_rows,
            instruction_decoding=instruction_decoding,
            response_decoding=response_decoding,
            contrast=contrast,
            batch_size=batch_size,
        ),
        tuning=tuning_cfg,
        evaluation=evaluation_cfg,
        evaluation_decoding=evaluation_decoding,
        shots=shots,
        num_rounds=rounds,
        new_instructions=new_instructions,
        instructions=instructions,
    )
    if stage in (None, "evaluate"):
        pipeline.check_shots()  # evaluation comes last, hours after this
    only = None if stage is None else round or 1
    pipeline.check_fits_context(
        writes=stage in (None, "instructions") and pipeline.writes_tasks(only),
        answers=stage in (None, "responses"),
        evaluates=stage in (None, "evaluate"),
    )
    if stage in (None, "responses"):
        tuning.check_answers(tuning_cfg, responses_cfg.max_new_tokens)
    if stage in (None, "train"):
        tuning.check_context(tuning_cfg, pipeline.base)
    if passages is not None:  # last: to build the index of a large corpus takes long
        pipeline = pipeline.with_index(
            (find_index(passages, bm25_cfg) or CorpusSample(passages))
            if dry_run
            else open_index(passages, bm25_cfg)
        )
    if dry_run:
        _show_forecast(pipeline, _machine(devices, topology), asked, round or 1)
        return
    summarize_config_fn(output_dir, None, 0)
    if stage is not None:
        _run_stage(pipeline, stage, round or 1)
        return
    for number in range(1, rounds + 1):
        _write_rows(pipeline, number)
        memory.give_back()  # arrays of tuning have other sizes than those of writing
        _run_stage(pipeline, "train", number)
        memory.give_back()
    if rows:
        _run_stage(pipeline, "evaluate", rounds)


def _write_rows(pipeline: Pipeline, number: int) -> None:
    written = pipeline.write_rows(number)
    _show_written(number, "rows", written, pipeline.round.num_rows)


def _run_stage(pipeline: Pipeline, stage: str, number: int) -> None:
    if stage == "instructions":
        tasks = pipeline.write_instructions(number)
        if tasks is None:
            show(f"round {number}: answers tasks that are there already")
        else:
            _show_written(number, "tasks", tasks, pipeline.round.num_rows)
    elif stage == "responses":
        rows = pipeline.write_responses(number)
        _show_written(number, "rows", rows, pipeline.round.num_rows)
    elif stage == "train":
        from t5x_ext.train import train

        show(f"round {number}: adapter -> {pipeline.tune(number, train)}")
    else:
        pipeline.evaluate()
        table = pipeline.directory / "scores.md"
        show(*files.read_text(table).splitlines(), f"scores -> {table}")


def _machine(devices: str | None, topology: str | None) -> Machine | None:
    from t5x_ext.planning.devices import parse_devices, parse_topology

    if devices is not None and topology is not None:
        raise ConfigError("--devices and --topology: allowed: one of them")
    if topology is not None:
        return parse_topology(topology)
    return None if devices is None else parse_devices(devices)


def _show_forecast(
    pipeline: Pipeline, machine: Machine | None, stage: str | None, number: int
) -> None:
    """Prints what every stage, or one stage of a round, will ask of the model."""
    from t5x_ext.generation.costs import estimate_costs
    from t5x_ext.generation.forecast import forecast

    this, expected = pipeline.round, forecast(pipeline)
    costs = estimate_costs(pipeline, machine)
    lines = [
        f"{len(this.seeds):,} seeds, {len(this.index or ()):,} passages, "
        f"{len(this.evaluation):,} evaluation rows; {this.num_rows:,} rows wanted in each round",
        "",
        f"{'':<24}{'prompts':>10}{'tokens read':>14}{'written':>12}{'minutes':>10}{'GB':>8}",
    ]
    begins = {None: "", "evaluate": "evaluate "}.get(stage, f"round {number} {stage}")
    shown = [work for work in expected.work if work.stage.startswith(begins)]
    for work in shown:
        lines.append(
            f"{work.stage:<24}{work.prompts:>10,}{work.read:>14,}{work.written:>12,}"
            f"{costs.secs(work) / 60:>10,.1f}{costs.memory_bytes(work) / 1e9:>8.1f}"
        )
    read, written = sum(work.read for work in shown), sum(work.written for work in shown)
    minutes = sum(map(costs.secs, shown)) / 60
    lines += [
        f"{'all':<24}{'':>10}{read:>14,}{written:>12,}{minutes:>10,.1f}",
        *expected.basis,
        f"machine: {costs.speed.name}, {costs.speed.flops_per_sec / 1e9:,.0f} GFLOP/s and "
        f"{costs.speed.bytes_per_sec / 1e9:,.1f} GB/s; loading and compiling are left out",
    ]
    for number, sample in enumerate(expected.samples, start=1):
        lines += ["", f"--- sample prompt {number} ---", *sample.split("\n")]
    show(*lines)


def _show_written(number: int, what: str, written: Written, wanted: int) -> None:
    counts = written.counts.most_common()
    show(
        f"round {number}: {what} -> {written.path}",
        *(f"  {count:>8,} {name}" for name, count in counts),
    )
    if written.counts["kept"] < wanted:
        kept = written.counts["kept"]
        note(f"round {number}: {kept} {what} of {wanted}: no more tasks came")


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", metavar="NAME", help=f"one stage: {', '.join(STAGES)}")
    parser.add_argument(
        "--round",
        type=bounds.int_flag(1),
        metavar="N",
        help="the round of --stage (default: 1)",
    )
    parser.add_argument(
        "--dry_run",
        action="store_const",
        const=True,
        help="print counts, tokens, time, memory and sample prompts; read no weights",
    )
    parser.add_argument(
        "--devices", metavar="NxGPU", help="for --dry_run: 1xH200, ... (default: this machine)"
    )
    parser.add_argument("--topology", metavar="SLICE", help="for --dry_run: a TPU slice, v5e:2x4")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return gin_utils.run(specialize, argv, gin_file="runs/specialize.gin", add_flags=_add_flags)


if __name__ == "__main__":
    sys.exit(main())
