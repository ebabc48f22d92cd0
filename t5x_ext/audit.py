"""Examines task data before a run: lengths, truncation, leaks, label skew, unknown pieces.

    python -m t5x_ext.audit --mixture superni.ql.def_pos2.held_in.all --limits 512,1024
    python -m t5x_ext.audit --gin_file=models/t5_1_1_tiny.gin --gin_file=runs/train.gin \\
        --gin.MIXTURE_OR_TASK_NAME="'my_task.jsonl'"

    python -m t5x_ext.audit --synthetic runs/mine/train.jsonl --evaluation DIR_OR_FILE

The last form examines rows that a model wrote: repetitions, words in a row shared with evaluation
rows, openings, verbs and nouns, lengths.

For a script: --fail_on leak,shared_inputs exits with status 1 where one of these is found.

With gin files, give what the run itself is given: mixture, lengths, vocabulary and data settings
are taken from there. Tasks are compared with every other task of the data directory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import gin

from t5x_ext import bounds, errors, files, gin_utils
from t5x_ext.audits.tasks import DEFAULT_LIMITS, Settings, audit
from t5x_ext.configs import SuperNIConfig
from t5x_ext.terminal import Parser, command, note, show, show_json


def audit_synthetic(
    rows: str, evaluation: Sequence[str] = (), seeds: Sequence[str] = (), corpus: Sequence[str] = ()
) -> dict[str, Any]:
    """Measures rows that a model wrote; see `t5x_ext.generation.audit.audit_rows`.

    Beside a round's train.jsonl lie the files that it follows from: `yields` counts them, see
    `t5x_ext.generation.yields`; it is None where there are none.

    Args:
        rows: a JSONL file of instruction, input and output.
        evaluation: files, or directories of them, of evaluation rows; their test split is read.
        seeds: files of seeds.
        corpus: files of passages.

    Raises:
        ConfigError: a file cannot be read.
    """
    from t5x_ext.generation import audit as synthetic
    from t5x_ext.generation.records import evaluation_files, read_evaluation, read_seeds
    from t5x_ext.generation.yields import yields_of
    from t5x_ext.retrieval import Corpus

    found = synthetic.audit_rows(
        synthetic.read_rows(rows),
        [
            row
            for path in evaluation
            for file in evaluation_files(path)
            for row in read_evaluation(file)
        ],
        [seed for path in seeds for seed in read_seeds(path)],
        [(found.id, found.whole) for path in corpus for *_, found in Corpus(path).scan()],
    )
    yields = yields_of(rows)
    return found | {"yields": dataclasses.asdict(yields) if yields else None}


def _macro(name: str) -> Any:
    """The value of a gin macro, None if it is not set."""
    try:
        gin.query_parameter(f"{name}/gin.macro.value")
    except ValueError:
        return None
    with gin.config_scope(name):
        return gin.get_configurable("gin.macro")()


def _configured_superni() -> SuperNIConfig:
    try:
        return gin.get_configurable(SuperNIConfig)()
    except ValueError:  # no gin file names it
        return SuperNIConfig()


def _settings(flags: gin_utils.GinFlags, args: argparse.Namespace) -> Settings:
    """Joins the flags with what gin files and bindings say; flags win."""
    if not flags.files and not flags.bindings:
        settings = Settings(mixtures=tuple(args.mixture))
    else:
        gin_utils.parse(flags.files, flags.bindings, flags.search_paths)
        mixture, lengths = _macro("MIXTURE_OR_TASK_NAME"), _macro("TASK_FEATURE_LENGTHS")
        if lengths is not None:
            bounds.check_lengths("TASK_FEATURE_LENGTHS", lengths)
        limits = () if lengths is None else ((lengths["inputs"], lengths["targets"]),)
        settings = Settings(
            mixtures=tuple(args.mixture or ([mixture] if mixture else [])),
            limits=tuple(dict.fromkeys(limits + DEFAULT_LIMITS)),
            superni=_configured_superni(),
            vocabulary=_macro("VOCABULARY"),
            prompt=_macro("PROMPT"),
            budget=_macro("BUDGET"),
            module=_macro("MIXTURE_OR_TASK_MODULE"),
        )
    if not settings.mixtures:
        raise errors.ConfigError(
            "no mixture to audit: give --mixture NAME, or gin files that set MIXTURE_OR_TASK_NAME"
        )
    changes: dict[str, Any] = {}
    if args.limits is not None:
        changes["limits"] = _parse_limits(args.limits)
    if args.vocabulary is not None:
        changes["vocabulary"] = args.vocabulary
    if args.data_dir is not None:
        changes["superni"] = dataclasses.replace(settings.superni, data_dir=args.data_dir)
    return dataclasses.replace(settings, **changes)


def _parse_limits(text: str) -> tuple[tuple[int, int], ...]:
    """Reads '512,1024/256' as ((512, 128), (1024, 256))."""
    limits = []
    for part in text.split(","):
        inputs, slash, targets = part.strip().partition("/")
        lengths = (inputs, targets if slash else "128")
        if not all(
            re.fullmatch("[0-9]{1,7}", length) and 2 <= int(length) <= bounds.MAX_TOKENS
            for length in lengths
        ):
            raise errors.ConfigError(
                f"--limits: '{part}'; allowed: tokens of inputs, or inputs/targets, such as "
                f"512,1024/128; 2 to {bounds.MAX_TOKENS:,} each"
            )
        limits.append((int(lengths[0]), int(lengths[1])))
    return tuple(dict.fromkeys(limits))


def _parser() -> Parser:
    parser = Parser(
        "audit",
        __doc__,
        usage="t5x_ext audit (--gin_file=FILE [--gin.NAME=VALUE ...] | --mixture NAME) [options]",
        parents=[gin_utils.gin_flags()],
    )
    add = parser.add_argument
    add(
        "--mixture",
        action="append",
        default=[],
        metavar="NAME",
        help="a scope, task, file or SeqIO name; repeat it for several",
    )
    add(
        "--data_dir",
        metavar="DIR",
        help="task files (default: $SUPERNI_DIR, else the bundled suite)",
    )
    add(
        "--vocabulary",
        metavar="PATH",
        help="SentencePiece file or model directory (default: the bundled one)",
    )
    add(
        "--limits",
        metavar="LIST",
        help="tokens of inputs, or inputs/targets, to try: 512,1024 or 512/64,1024/128",
    )
    add("--synthetic", metavar="FILE", help="rows that a model wrote, to examine instead")
    for name, what in (
        ("evaluation", "evaluation rows, a file or a directory of them"),
        ("seeds", "seeds from which the rows were written"),
        ("corpus", "passages, compared with the evaluation rows too"),
    ):
        add(
            f"--{name}",
            action="append",
            default=[],
            metavar="FILE",
            help=f"with --synthetic: {what}",
        )
    add(
        "--fail_on",
        metavar="LIST",
        help="kinds of findings that make the status 1, joined by commas, such as "
        "leak,long_targets; 'any' is all of them; with --synthetic: " + ", ".join(_OF_ROWS),
    )
    add("--json", action="store_true", help="print one JSON object instead")
    add("--out", metavar="DIR", help="also write audit.json and audit.txt there")
    return parser


_ANY = "any"
_OF_ROWS = ("duplicates", "seed_copies", "shared")  # findings of the synthetic audit


def _parse_kinds(text: str | None, is_synthetic: bool) -> list[str]:
    """The kinds of findings of --fail_on, as results name them.

    Raises:
        ConfigError: there is no such kind.
    """
    from t5x_ext.audits.flags import KINDS

    known = list(_OF_ROWS if is_synthetic else KINDS)
    by_name = {kind.replace(" ", "_"): kind for kind in known}
    asked = [] if text is None else [name.strip().replace(" ", "_") for name in text.split(",")]
    for name in asked:
        if name not in by_name and name != _ANY:
            allowed = errors.nearest(name, [*by_name, _ANY])
            raise errors.ConfigError(f"--fail_on: {name!r}{allowed}")
    return known if _ANY in asked else [by_name[name] for name in asked]


def _count(result: dict[str, Any], kind: str) -> int:
    """Findings of a kind in what `audit` or `audit_synthetic` returned."""
    if "flags" in result:
        return sum(flag["kind"] == kind for flag in result["flags"])
    return len(result[kind]["both"] if kind == "duplicates" else result[kind])


# The flags that only one of the two audits reads.
_OF_SYNTHETIC = ("evaluation", "seeds", "corpus")
_OF_TASKS = ("mixture", "limits", "data_dir", "vocabulary")


def _check_flags(flags: gin_utils.GinFlags, args: argparse.Namespace) -> None:
    """Refuses a flag that the audit asked for would not read, and a path that no file can have."""
    is_synthetic = args.synthetic is not None
    other = _OF_TASKS if is_synthetic else _OF_SYNTHETIC
    given = [f"--{name}" for name in other if getattr(args, name) not in (None, [])]
    if is_synthetic and (flags.files or flags.bindings):
        given.append("--gin_file, --gin.NAME")
    if given:
        where = "not with" if is_synthetic else "only with"
        raise errors.ConfigError(f"{', '.join(given)}: allowed {where} --synthetic FILE")
    for name in ("synthetic", "data_dir", "vocabulary", "out"):
        if getattr(args, name) is not None:
            files.path(getattr(args, name), f"--{name}")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 1 where --fail_on names what was found."""
    flags, args = gin_utils.parse_flags(_parser(), argv)
    _check_flags(flags, args)
    kinds = _parse_kinds(args.fail_on, args.synthetic is not None)
    if args.synthetic is not None:
        from t5x_ext.generation import audit_text

        result = audit_synthetic(args.synthetic, args.evaluation, args.seeds, args.corpus)
        text = audit_text.render(result)
    else:
        from t5x_ext.audits import text as task_text

        result = audit(_settings(flags, args))
        text = task_text.render(result)
    if args.out is not None:
        out = files.path(args.out, "--out")
        files.write_text(out / "audit.json", json.dumps(result) + "\n")
        files.write_text(out / "audit.txt", text + "\n")
    if args.json:
        show_json(result)
    else:
        show(*text.split("\n"))
    found = [f"{count} {kind}" for kind in kinds if (count := _count(result, kind))]
    if found:
        note(f"error: --fail_on: found {', '.join(found)}; allowed: none")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
