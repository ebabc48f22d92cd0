"""Converts a checkpoint between Hugging Face's layout, T5X's and ours, tensor by tensor.

    python -m t5x_ext.convert --to t5x_ext google/t5-xl-lm-adapt checkpoints/t5_xl_lm_adapt
    python -m t5x_ext.convert --to hf runs/mine/checkpoint_2000 export/mine
    python -m t5x_ext.convert --to peft runs/adapter export/adapter
    python -m t5x_ext.convert --to hf --adapter export/adapter --merge_into original BASE DST
    python -m t5x_ext.convert --to peft --combine runs/law,runs/sports --weights 0.5,0.5 BASE DST

SRC is any checkpoint that INITIAL_CHECKPOINT_PATH takes, local or gs://. Every tensor of it is used
exactly once; a missing, unknown or mis-shaped one is refused by name before anything is written.
DST is complete or absent. Unless told otherwise, the result is opened again and every byte of it
compared with SRC. Memory does not grow with the model, only with its largest tensor; but comparing
the logits of a merged model loads it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from t5x_ext import accelerators
from t5x_ext.checkpoints import merging, trees
from t5x_ext.checkpoints.conversion import KINDS, PEFT, convert
from t5x_ext.errors import ConfigError
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.families import FAMILIES
from t5x_ext.terminal import Parser, command, show, show_json


def _read_config(gin_file: str) -> ModelConfig:
    import gin

    from t5x_ext import gin_utils

    gin_utils.parse([gin_file], not_needed=gin_utils.NO_VOCABULARY)
    bound = [family for family in FAMILIES.values() if _is_bound(family)]
    if len(bound) != 1:
        names = ", ".join(family.__name__ for family in FAMILIES.values())
        found = ", ".join(family.__name__ for family in bound) or "none"
        raise ConfigError(
            f"{gin_file}: binds {found} of the models' configs; allowed: one of {names}"
        )
    return gin.get_configurable(bound[0])()


def _is_bound(family: type[ModelConfig]) -> bool:
    import gin

    try:
        return bool(gin.get_bindings(family, resolve_references=False))
    except ValueError:  # the file does not name it
        return False


def _lines(summary: dict[str, Any]) -> list[str]:
    source, destination = summary["source"], summary["destination"]
    config = summary["config"] or {"config": "not stated"}
    checked = "every tensor compared" if summary["verified"] else "not compared"
    merged = summary.get("merged")
    return [
        *(_merge_lines(merged) if merged else []),
        f"{source['path']} ({source['kind']}, step {source['step']})",
        f"-> {destination['path']} ({destination['kind']}), {checked}",
        f"{summary['tensors']} tensors, {summary['parameters']:,} parameters,"
        f" {summary['bytes']:,} bytes, {summary['seconds']} s",
        f"source sha256 {source['sha256']}",
        ", ".join(f"{name} {value}" for name, value in config.items()),
    ]


def _merge_lines(merged: dict[str, Any]) -> list[str]:
    lines = [f"{merged['adapter']} merged into the {merged['into']} base"]
    for base, change in (merged["largest_change"] or {}).items():
        lines.append(f"largest change of a logit against it over the {base} base: {change:.2g}")
    return lines


def _paths(text: str) -> list[str]:
    paths = text.split(",")
    if not all(paths):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: paths with commas between them")
    return paths


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}; allowed: numbers with commas between them"
        ) from None


def _parser() -> Parser:
    parser = Parser("convert", __doc__)
    parser.add_argument("source", metavar="SRC", help="the checkpoint, or a MODEL_DIR")
    parser.add_argument("destination", metavar="DST", help="directory to create")
    parser.add_argument(
        "--from",
        dest="source_kind",
        default="auto",
        choices=(*KINDS, "gguf", "auto"),
        help="refuse SRC unless it has this layout (default: auto, any layout)",
    )
    parser.add_argument("--to", required=True, choices=(*KINDS, PEFT), help="what to write")
    parser.add_argument(
        "--dtype", choices=trees.DTYPES, help="cast all tensors (default: keep their dtypes)"
    )
    parser.add_argument(
        "--scan_layers",
        action="store_true",
        help="with --to t5x: for examples/scalable_t5 instead of examples/t5",
    )
    parser.add_argument(
        "--gin_file",
        metavar="FILE",
        help="model file, such as models/t5_1_1_xl.gin: SRC must match it, and DST records it",
    )
    parser.add_argument(
        "--adapter", metavar="DIR", help="merge this adapter, PEFT's or a run with LoRA, into SRC"
    )
    parser.add_argument(
        "--merge_into",
        choices=merging.BASES,
        help="merge into SRC as it is, or as NF4 stores it (what QUANTIZATION = 'nf4' tunes over)",
    )
    parser.add_argument(
        "--combine",
        metavar="DIR,DIR",
        type=_paths,
        help="with --to peft: write the weighted sum of these adapters, PEFT's or runs with LoRA;"
        " SRC is their base",
    )
    parser.add_argument(
        "--weights",
        metavar="W,W",
        type=_numbers,
        help="of each adapter of --combine (default: 1/n); as --weights=-0.5,1 if negative",
    )
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare the result with SRC, which reads both again (default: yes)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(argv)
    accelerators.skip_absent_tpu()
    summary = convert(
        args.source,
        args.destination,
        args.to,
        args.source_kind,
        dtype=args.dtype,
        scan_layers=args.scan_layers,
        config=None if args.gin_file is None else _read_config(args.gin_file),
        verify=args.verify,
        adapter=args.adapter,
        merge_into=args.merge_into,
        combine=args.combine,
        weights=args.weights,
    )
    if args.json:
        show_json(summary)
    else:
        show(*_lines(summary))


if __name__ == "__main__":
    sys.exit(main())
