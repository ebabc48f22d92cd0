"""Plans as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from t5x_ext.models.parameters import count_params
from t5x_ext.planning import compiling
from t5x_ext.planning.devices import GIB, PRICE_SOURCE
from t5x_ext.planning.plans import Plan
from t5x_ext.planning.proposals import Proposal

_NOTES = (
    "Times: for every instruction the larger of FLOPs / peak and HBM bytes / bandwidth, times the "
    "rounds of its loops, plus what collectives take beyond the work beside them. Left out: vector "
    "arithmetic, latency, input, evaluation, checkpoints, start. A real step is slower."
)


def render(plan: Plan, proposals: Sequence[Proposal] | None) -> str:
    """The report of the command.

    Args:
      plan: what was asked for.
      proposals: changes that fit, where it does not; None where none were looked for.
    """
    parts = [head(plan), memory(plan)]
    if plan.train and plan.train.totals:
        parts += [_costs(plan), _time(plan)]
    parts.append(verdict(plan, proposals))
    return "\n\n".join(parts)


def head(plan: Plan) -> str:
    """What was planned."""
    setup, load = plan.setup, plan.setup.workload
    mesh = " x ".join(f"{axis} {size}" for axis, size in setup.partitioner.mesh.shape.items())
    config = setup.model.config
    packed = ", packed" if load.pack else ""
    many = f"{setup.experts} models with " if setup.experts > 1 else ""
    return align(
        [
            ("machine", f"{plan.machine.name}, {plan.machine.count} devices: {mesh}"),
            (
                "model",
                f"{count_params(setup.model.specs):,} parameters, {config.dtype}, "
                f"remat {config.remat_policy}",
            ),
            (
                "batch",
                f"{many}{load.rows} rows of {load.input_length} + {load.target_length} "
                f"tokens{packed}, {setup.num_microbatches} microbatches",
            ),
            ("method", compiling.describe_method(plan.machine)),
        ]
    )


def memory(plan: Plan) -> str:
    """What a device holds."""
    available = plan.machine.device.memory_bytes
    rows = [("memory of a device", "")]
    if plan.train:
        memory = plan.train.memory
        rows += [
            ("  parameters", gib(memory.params)),
            ("  optimizer", gib(memory.optimizer)),
            ("  activations, gradients and the rest", gib(memory.temporaries)),
        ]
    at_least = "more than " if plan.is_lower_bound else ""
    rows.append(("  peak of a train step", at_least + gib(plan.needed_bytes)))
    if plan.decoding_needed_bytes is not None:
        rows.append(("  peak of decoding", gib(plan.decoding_needed_bytes)))
    rows.append(("  available", gib(available)))
    return align(rows)


def _costs(plan: Plan) -> str:
    totals = plan.train.totals
    per_device = plan.model_flops / plan.machine.count
    rows = [
        ("a train step on each device", ""),
        ("  model FLOPs", f"{_tera(per_device)} (by formula, {_tera(plan.model_flops)} in all)"),
        ("  compiled FLOPs", f"{_tera(totals.flops)} ({totals.flops / per_device:.2f} x)"),
        ("  HBM traffic", _gb(totals.hbm_bytes)),
        ("  sent to other devices", _gb(totals.wire_bytes)),
    ]
    rows += [
        (f"    {kind} of {size}", f"{_gb(traffic.wire_bytes)} in {traffic.count:,.0f}")
        for (kind, size), traffic in sorted(totals.collectives.items())
    ]
    if totals.kernels_without_cost:
        rows.append(("  kernels that declare no cost", f"{totals.kernels_without_cost}: left out"))
    if totals.unknown_loops:
        rows.append(("  loops that data ends", f"{totals.unknown_loops}: counted once"))
    return align(rows)


def _time(plan: Plan) -> str:
    totals = plan.train.totals
    rows = [
        ("time and cost (estimates)", ""),
        (
            "  step",
            f"{ms(plan.step_secs)}: operations {ms(totals.operation_secs)}, "
            f"waiting for collectives {ms(totals.exposed_secs)}",
        ),
        ("  model FLOPs utilization", f"{plan.utilization:.1%}"),
        ("  tokens a second", f"{plan.tokens_per_sec:,.0f} (padding included)"),
    ]
    if plan.decoding_secs:
        load = plan.setup.decoding
        rows.append(
            (
                "  decoding a batch",
                f"{ms(plan.decoding_secs)} at most: {load.rows} rows of {load.input_length} "
                f"tokens, {load.target_length} made",
            )
        )
    if plan.hours is None:
        rows.append(("  run", "unknown: set TRAIN_STEPS; TRAIN_EPOCHS depends on the data"))
    else:
        rows += [
            ("  run", f"{plan.setup.num_steps:,} steps"),
            ("  hours", f"{plan.hours:,.2f}"),
            ("  dollars", f"{plan.dollars:,.2f} at {plan.price_per_chip_hour:.2f} a chip-hour"),
        ]
    if plan.price_per_chip_hour == plan.machine.device.price_per_hour:
        rows.append(("  prices", PRICE_SOURCE))
    return align(rows) + "\n\n" + textwrap.fill(_NOTES, 100)


def verdict(plan: Plan, proposals: Sequence[Proposal] | None) -> str:
    """Whether it fits, and what would."""
    if plan.fits:
        needed = max(plan.needed_bytes, plan.decoding_needed_bytes or 0)
        left = plan.machine.device.memory_bytes - needed
        return f"fits, {gib(left)} to spare"
    bound = "more than " if plan.is_lower_bound else ""
    text = f"does not fit: {bound}{gib(plan.missing_bytes)} too much on each device"
    if plan.needed_bytes <= plan.machine.device.memory_bytes:
        text += " while decoding; fewer prompts a batch take less"
    if proposals is None:
        return text
    if not proposals:
        return text + "; no change that was tried fits"
    rows = [("", "peak", "step", "1,000 steps", "change")]
    for proposal in proposals:
        changed = proposal.plan
        secs, dollars = "-", "-"
        if changed.step_secs is not None:
            secs = ms(changed.step_secs)
            hourly = changed.machine.count * changed.price_per_chip_hour
            dollars = f"${1000 * changed.step_secs / 3600 * hourly:,.2f}"
        change = " ".join(proposal.settings)
        rows.append(("", gib(changed.needed_bytes), secs, dollars, change))
    return f"{text}; these fit (compiled):\n{align(rows)}"


def align(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def gib(num_bytes: float) -> str:
    """Memory, in powers of 1024."""
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 2**20:.1f} MiB"


def _gb(num_bytes: float) -> str:
    """Traffic, in powers of 1000 as bandwidths are."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def _tera(flops: float) -> str:
    return f"{flops / 1e12:,.1f} TFLOP" if flops >= 1e12 else f"{flops / 1e9:,.1f} GFLOP"


def ms(secs: float) -> str:
    """Seconds as milliseconds."""
    return f"{secs * 1e3:,.1f} ms"
