"""Conversion of a checkpoint between layouts, tensor by tensor; see `t5x_ext.convert`."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from etils import epath

from t5x_ext.checkpoints import (
    combining,
    comparing,
    hugging_face,
    merging,
    own_layout,
    peft,
    t5x_layout,
    trees,
    watching,
)
from t5x_ext.checkpoints.adapters import Adapter, open_adapter
from t5x_ext.checkpoints.damage import reason
from t5x_ext.checkpoints.meta import ADAPTER
from t5x_ext.checkpoints.params import open_source
from t5x_ext.checkpoints.sources import Source
from t5x_ext.errors import ConfigError
from t5x_ext.models import network
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.families import config_to_json

KINDS = ("hf", "t5x", "t5x_ext")
PEFT = "peft"  # of a run with LoRA, or of adapters that are combined; written only


def convert(
    source_path: str,
    destination: str,
    to: str,
    source_kind: str = "auto",
    *,
    dtype: str | None = None,
    scan_layers: bool = False,
    config: ModelConfig | None = None,
    verify: bool = True,
    adapter: str | None = None,
    merge_into: str | None = None,
    combine: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Converts a checkpoint.

    Args:
        source_path: See `open_source`.
        destination: Directory to create.
        to: One of `KINDS`, or `PEFT`.
        source_kind: The kind that the source has to be; 'auto' takes any.
        dtype: 'float32' or 'bfloat16' for all tensors; None keeps each one's.
        scan_layers: For T5X: write for its scalable_t5 network.
        config: Replaces what T5X's checkpoints do not state and is inferred; the tensors are
            checked against it.
        verify: Compare the result with the source.
        adapter: A directory of PEFT's or a run with LoRA, to be merged into the source.
        merge_into: 'original', or 'dequantised' for an adapter tuned over a quantised base: the
            source's kernels then go through NF4 first.
        combine: Two or more adapters over the source, directories of PEFT's or runs with LoRA;
            their weighted sum is written, as one adapter.
        weights: Of each of these; None is 1/n for each of n.

    Returns:
        {"source": {"path", "kind", "step", "sha256"}, "destination": {"path", "kind"}, "tensors",
        "parameters", "bytes" (of the values written), "config", "verified", "seconds"}, and of a
        merged model "merged": {"adapter", "into", "largest_change" (of any logit, against the
        adapter over the original and the dequantised base; None unless verified)}. For adapters
        that are combined, "source" is their weighted sum.

    Raises:
        ConfigError: The source cannot be read or not be written as `to`; the destination exists,
            cannot be written, or differs from the source. Nothing is left at the destination.
    """
    began = time.monotonic()
    if to not in (*KINDS, PEFT):
        raise ConfigError(f"--to {to}: unknown; allowed: {', '.join((*KINDS, PEFT))}")
    base = _open_base(source_path, source_kind, config)
    _check_target(base, to, dtype, scan_layers, adapter)
    if combine is not None and (adapter is not None or merge_into is not None):
        raise ConfigError(
            "--combine with --adapter or --merge_into: allowed: one or the other; what --combine "
            "writes can be merged afterwards"
        )
    combined = _open_combined(base, combine, weights, to)
    opened = _open_adapter(base, adapter, merge_into, to)
    source = base
    if opened is not None and merge_into is not None:
        source = merging.merge_source(base, opened, merge_into, dtype)
    if combined is not None:
        source = combining.as_source(combined, base)
    _write(source, combined, destination, to, dtype, scan_layers, verify)
    merged = {}
    if opened is not None:
        written = open_source(destination)
        change = merging.largest_changes(base, opened, written) if verify else None
        merged = {"merged": {"adapter": adapter, "into": merge_into, "largest_change": change}}
    return (
        merged
        | _describe(source, destination, to, dtype)
        | {"verified": verify, "seconds": round(time.monotonic() - began, 1)}
    )


def _open_base(path: str, kind: str, config: ModelConfig | None) -> Source:
    """The checkpoint to convert, of the kind and the config that it has to be."""
    base = open_source(path)
    if kind not in ("auto", base.kind):
        raise ConfigError(f"{base.path}: is of kind {base.kind}, not {kind}")
    if config is None:
        return base
    specs = trees.named_leaves(network.Transformer(config).specs)
    trees.check_tree(base.path, dict(base.tensors), specs)
    base.check_config(config)
    return dataclasses.replace(base, config=config)


def _describe(source: Source, destination: str, to: str, dtype: str | None) -> dict[str, Any]:
    """What was converted into what; see `convert`."""
    return {
        "source": {
            "path": source.path,
            "kind": source.kind,
            "step": source.step,
            "sha256": source.digest,
        },
        "destination": {"path": destination, "kind": to},
        **_sizes(source, dtype),
        "config": config_to_json(source.config) if source.config else None,
    }


def _check_target(
    source: Source, to: str, dtype: str | None, scan_layers: bool, adapter: str | None
) -> None:
    """Raises ConfigError for what the layout that is to be written does not have."""
    if dtype is not None and to == PEFT:
        raise ConfigError(f"--dtype {dtype}: adapters are written in float32")
    if scan_layers and to != "t5x":
        raise ConfigError(f"--scan_layers: only T5X's layout has scanned layers, not {to}")
    if ADAPTER in source.meta and to in ("hf", "t5x") and adapter is None:
        raise ConfigError(
            f"{source.path}: holds an adapter, not a whole model; allowed: --to {PEFT}, or its "
            "base as SRC with --adapter and --merge_into"
        )


def _write(
    source: Source,
    combined: Adapter | None,
    destination: str,
    to: str,
    dtype: str | None,
    scan_layers: bool,
    verify: bool,
) -> None:
    """Writes the source in a layout, and compares what was written before it gets its name."""

    def check(written: epath.Path) -> None:
        if verify:
            with watching.shown(source, "comparing") as shown:
                comparing.compare(shown, written, dtype)

    with watching.shown(source, "writing") as shown, _one_line(source, destination):
        if to == "hf":
            hugging_face.write_hf(shown, destination, dtype, check=check)
        elif to == "t5x":
            t5x_layout.write_t5x(shown, destination, scan_layers, dtype, check=check)
        elif to == PEFT:
            _write_peft(shown, combined, destination, verify)
        else:
            own_layout.write_params(shown, destination, dtype, check=check)


def _sizes(source: Source, dtype: str | None) -> dict[str, int]:
    """Tensors, parameters, and bytes of the values as they are written."""
    tensors = source.tensors.values()
    parameters = [math.prod(tensor.shape) for tensor in tensors]
    widths = [np.dtype(dtype or tensor.dtype).itemsize for tensor in tensors]
    return {
        "tensors": len(parameters),
        "parameters": sum(parameters),
        "bytes": sum(count * width for count, width in zip(parameters, widths, strict=True)),
    }


def _open_adapter(
    source: Source, adapter: str | None, merge_into: str | None, to: str
) -> Adapter | None:
    """The adapter to be merged; None for none."""
    if adapter is None and merge_into is None:
        return None
    allowed = " or ".join(merging.BASES)
    if adapter is None or merge_into not in merging.BASES:
        raise ConfigError(
            f"--adapter {adapter} with --merge_into {merge_into}: allowed: both, and to merge into"
            f" {allowed}; an adapter tuned with QUANTIZATION = 'nf4' fits the latter only"
        )
    if to == PEFT:
        raise ConfigError(
            f"--to {PEFT}: writes an adapter; with --adapter, allowed: {', '.join(KINDS)}"
        )
    if ADAPTER in source.meta:
        raise ConfigError(
            f"{source.path}: holds an adapter itself; with --adapter, allowed: a base"
        )
    if source.config is None:
        raise ConfigError(f"{source.path}: does not state its config, which merging needs")
    return open_adapter(adapter, source.config)


def _open_combined(
    source: Source, paths: Sequence[str] | None, weights: Sequence[float] | None, to: str
) -> Adapter | None:
    """The combination of adapters that is to be written; None for none."""
    if paths is None:
        if weights is not None:
            raise ConfigError("--weights: without --combine; allowed: with it, one per adapter")
        return None
    if to != PEFT:
        raise ConfigError(f"--to {to}: --combine writes an adapter; allowed: --to {PEFT}")
    if ADAPTER in source.meta:
        raise ConfigError(
            f"{source.path}: holds an adapter itself; with --combine, allowed: a base"
        )
    if source.config is None:
        raise ConfigError(f"{source.path}: does not state its config, which combining needs")
    return combining.open_combined(source, paths, weights)


def _write_peft(source: Source, combined: Adapter | None, destination: str, verify: bool) -> None:
    """Writes a combined adapter, or else the run's, as a directory of PEFT's."""
    config = source.config
    if config is None or (combined is None and ADAPTER not in source.meta):
        raise ConfigError(
            f"{source.path}: holds a whole model; --to {PEFT} takes a run with LORA_RANK, or a "
            "base with --combine"
        )
    source.check_causal("PEFT")
    adapter = combined or open_adapter(source.path, config)

    def check(written: epath.Path) -> None:
        if verify:
            comparing.compare_adapter(adapter, written, config)

    peft.write(destination, config, adapter.stored, source.bidirectional, check)


@contextmanager
def _one_line(source: Source, destination: str) -> Iterator[None]:
    """Damaged files and full disks are the user's business, not defects."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        file = getattr(error, "filename", None)
        why = f"{file}: {reason(error)}" if file else reason(error)
        raise ConfigError(f"{source.path} to {destination}: {why}") from error
