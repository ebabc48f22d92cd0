"""Shows what a checkpoint holds, on any host: kind, step, config and every tensor.

    t5x_ext inspect runs/mine
    python -m t5x_ext.inspect_checkpoint runs/mine

CHECKPOINT is anything that INITIAL_CHECKPOINT_PATH takes, local or gs://. No values are read
(except for --values), no accelerator is touched and no model has to be named.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_ext.terminal import Parser, command, show, show_json


def inspect(path: str) -> dict[str, Any]:
    """Describes a checkpoint.

    Returns:
        {"path", "kind", "step", "sha256", "tokenizer" (a directory or None), "config" (or None),
        "parameters", "bytes", "tensors": {name: {"shape", "dtype"}}}; of an adapter, also
        "adapter": {"rank", "alpha", "targets", "base" (its name), "base_sha256",
        "base_quantization", "prompt" (None if it does not say)}: its parameters are those that
        are trained.

    Raises:
        ConfigError: There is no checkpoint, or it is damaged, or not of a model we know.
    """
    # JAX, which --help does not need.
    from t5x_ext.checkpoints import open_source, peft
    from t5x_ext.checkpoints.adapters import is_peft
    from t5x_ext.models.families import config_to_json

    source = peft.open_source(path) if is_peft(path) else open_source(path)
    counts = {name: math.prod(tensor.shape) for name, tensor in source.tensors.items()}
    adapter = _adapter(source.meta)
    return ({"adapter": adapter} if adapter else {}) | {
        "path": source.path,
        "kind": source.kind,
        "step": source.step,
        "sha256": source.digest,
        "tokenizer": source.tokenizer_dir,
        "config": config_to_json(source.config) if source.config else None,
        "parameters": sum(counts.values()),
        "bytes": sum(counts[n] * tensor.dtype.itemsize for n, tensor in source.tensors.items()),
        "tensors": {
            name: {"shape": list(tensor.shape), "dtype": tensor.dtype.name}
            for name, tensor in sorted(source.tensors.items())
        },
    }


def _hash_values(path: str) -> str:
    from t5x_ext.checkpoints import hash_values, peft
    from t5x_ext.checkpoints.adapters import is_peft
    from t5x_ext.checkpoints.digests import hash_tensors

    return hash_tensors(peft.open_source(path).tensors) if is_peft(path) else hash_values(path)


def _adapter(meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a run with LoRA, or a directory of PEFT's, says of its adapter."""
    stated = meta.get("adapter")
    if stated is None:
        return None
    lora, base = stated["lora"], stated["base"]
    facts = {name: lora[name] for name in ("rank", "alpha", "targets")}
    of_base = {"base": base["path"]} | {f"base_{k}": base[k] for k in ("sha256", "quantization")}
    return facts | of_base | {"prompt": meta.get("prompt")}


def _lines(summary: dict[str, Any]) -> list[str]:
    config = summary["config"] or {"config": "not stated"}
    width = max(map(len, summary["tensors"]))
    tensors = (
        f"  {name:<{width}}  {tensor['dtype']:<8}  {tensor['shape']}"
        for name, tensor in summary["tensors"].items()
    )
    return [
        f"{summary['path']}: {summary['kind']}, step {summary['step']}",
        f"sha256 {summary['sha256']}",
        *([f"values sha256 {summary['values_sha256']}"] if "values_sha256" in summary else []),
        f"tokenizer {summary['tokenizer'] or 'none'}",
        *(_adapter_lines(summary["adapter"]) if "adapter" in summary else []),
        ", ".join(f"{name} {value}" for name, value in config.items()),
        *tensors,
        f"{len(summary['tensors'])} tensors, {summary['parameters']:,} parameters,"
        f" {summary['bytes']:,} bytes",
    ]


def _adapter_lines(adapter: dict[str, Any]) -> list[str]:
    targets = adapter["targets"]
    shown = targets if isinstance(targets, str) else ", ".join(targets)
    base = adapter["base"] or "not stated"
    quantised = " in NF4" if adapter["base_quantization"] == "nf4" else ""
    prompt = [f"prompt {adapter['prompt']}"] if adapter["prompt"] else []
    return [
        f"adapter of rank {adapter['rank']}, alpha {adapter['alpha']:g}, on {shown}",
        f"base {base}{quantised}, fingerprint {adapter['base_sha256'] or 'none'}",
        *prompt,
    ]


def _parser() -> Parser:
    parser = Parser("inspect", __doc__)
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a checkpoint, a MODEL_DIR or an adapter"
    )
    parser.add_argument(
        "--values",
        action="store_true",
        help="read and hash all values, optimizer included: equal for runs that computed the same",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(argv)
    summary = inspect(args.checkpoint)
    if args.values:
        summary["values_sha256"] = _hash_values(args.checkpoint)
    if args.json:
        show_json(summary)
    else:
        show(*_lines(summary))


if __name__ == "__main__":
    sys.exit(main())
