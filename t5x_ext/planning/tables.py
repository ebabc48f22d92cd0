"""Plans as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from t5x_ext.models.parameters import count_params
from t5x_ext.planning import compiling
from t5x_ext.planning.devices import GIB, PRICE_SOURCE
from t5x_ext.planning.lowering import Workload
from t5x_ext.planning.plans import Plan
from t5x_ext.planning.proposals import Proposal
from t5x_ext.planning.roofline import Totals

_NOTES = (
    "Times: for every instruction the larger of FLOPs / peak and HBM bytes / bandwidth, times the "
    "rounds of its loops, plus the collectives that computation does not hide. Not included: "
    "vector arithmetic, latency, input, evaluation, checkpoints, start-up. A real step is slower."
)

_INITIAL = (
    ", those of the initial checkpoint included: it is not here to tell how many; "
    "TRAIN_STEPS_RELATIVE plans the steps on top"
)


def render(plan: Plan, proposals: Sequence[Proposal] | None) -> str:
    """The report of the command.

    Args:
      plan: what was asked for.
      proposals: changes that fit, where it does not; None if none were looked for.
    """
    parts = [head(plan), memory(plan)]
    if plan.train and plan.train.totals:
        parts += [_costs(plan), _time(plan)]
    if plan.decoding and plan.decoding.totals:
        parts.append(_decoding(plan))
    if len(parts) > 2:
        parts.append(textwrap.fill(_NOTES, 100))
    parts.append(verdict(plan, proposals))
    return "\n\n".join(parts)


def head(plan: Plan) -> str:
    """What was planned."""
    setup, load = plan.setup, plan.setup.workload
    mesh = " x ".join(f"{axis} {size}" for axis, size in setup.partitioner.axis_sizes.items())
    config = setup.model.config
    packed = ", packed" if load.pack else ""
    many = f"{setup.experts} models with " if setup.experts > 1 else ""
    rows = [
        ("machine", f"{plan.machine.name}, {plan.machine.count} devices: {mesh}"),
        (
            "model",
            f"{count_params(setup.model.specs):,} parameters, {config.dtype}, "
            f"remat {config.remat_policy}",
        ),
    ]
    if setup.trains:
        unit = "microbatch" if setup.num_microbatches == 1 else "microbatches"
        batch = f"{load.rows} rows of {load.input_length} + {load.target_length} tokens{packed}"
        rows.append(("batch", f"{many}{batch}, {setup.num_microbatches} {unit}"))
    if setup.decoding:
        rows.append(("decoding", f"{many}{_prompts(setup.decoding)}"))
    return align([*rows, ("method", compiling.describe_method(plan.machine))])


def _prompts(load: Workload) -> str:
    return f"{load.rows} prompts of {load.input_length} tokens, {load.target_length} made"


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
    if plan.setup.trains:
        rows.append(("  peak of a train step", at_least + gib(plan.needed_bytes)))
    elif plan.decoding:
        rows.append(("  parameters", gib(plan.decoding.memory.params)))
    if plan.decoding_needed_bytes is not None:
        rows.append(("  peak of decoding", gib(plan.decoding_needed_bytes)))
    if plan.cache_bytes_per_position is not None:
        each = f"{plan.cache_bytes_per_position:,} bytes a row, on all devices together"
        rows.append(("  cached keys and values of a position", each))
    rows.append(("  available", gib(available)))
    return align(rows)


def _costs(plan: Plan) -> str:
    totals = plan.train.totals
    rows = [
        ("a train step on each device", ""),
        *_flops(plan, totals.flops),
        ("  HBM traffic", _gb(totals.hbm_bytes)),
        ("  sent to other devices", _gb(totals.wire_bytes)),
    ]
    rows += _collectives(totals)
    if totals.kernels_without_cost:
        rows.append(("  kernels that declare no cost", f"{totals.kernels_without_cost}: left out"))
    if totals.unknown_loops:
        rows.append(("  loops that data ends", f"{totals.unknown_loops}: counted once"))
    return align(rows)


def _flops(plan: Plan, compiled: float) -> list[tuple[str, str]]:
    """What the model takes by its config's formula, and what was compiled."""
    if plan.model_flops is None:
        name = type(plan.setup.model.config).__name__
        return [
            ("  model FLOPs", f"unknown: {name} does not define forward_flops"),
            ("  compiled FLOPs", _tera(compiled)),
        ]
    of_each = plan.model_flops / plan.machine.count
    return [
        ("  model FLOPs", f"{_tera(of_each)} (by formula, {_tera(plan.model_flops)} in all)"),
        ("  compiled FLOPs", f"{_tera(compiled)} ({compiled / of_each:.2f} x)"),
    ]


def _time(plan: Plan) -> str:
    totals = plan.train.totals
    rows = [
        ("time and cost (estimates)", ""),
        ("  step", _parts(totals)),
        (
            "  model FLOPs utilization",
            "unknown" if plan.utilization is None else f"{plan.utilization:.1%}",
        ),
        ("  tokens a second", f"{plan.tokens_per_sec:,.0f} (padding included)"),
    ]
    more = _INITIAL if plan.setup.includes_initial else ""
    if plan.hours is None:
        rows.append(("  run", "unknown: set TRAIN_STEPS; TRAIN_EPOCHS depends on the data"))
    else:
        rows += [
            ("  run", f"{plan.setup.num_steps:,} steps{more}"),
            ("  hours", f"{plan.hours:,.2f}"),
            ("  dollars", f"{plan.dollars:,.2f} at {plan.price_per_chip_hour:.2f} a chip-hour"),
        ]
    if plan.price_per_chip_hour == plan.machine.device.price_per_hour:
        rows.append(("  prices", PRICE_SOURCE))
    return align(rows)


def _decoding(plan: Plan) -> str:
    """What decoding a batch costs, and a token of it."""
    totals, token = plan.decoding.totals, plan.decoding.token
    held = "for every token: they do not fit whole, see docs/tpu.md"
    if plan.whole_weights:
        held = "once, before the first token"
    rows = [
        ("decoding a batch on each device", ""),
        ("  time", f"{_parts(totals)}; at most: to the longest outputs"),
        ("  compiled FLOPs", _tera(totals.flops)),
        ("  HBM traffic", _gb(totals.hbm_bytes)),
        ("  sent to other devices", _gb(totals.wire_bytes)),
        *_collectives(totals),
        ("  weights split by the batch's axes", f"gathered {held}"),
    ]
    if token:
        rows += [
            ("  of these, a token of all prompts", _parts(token)),
            ("    HBM traffic", _gb(token.hbm_bytes)),
            ("    sent to other devices", _gb(token.wire_bytes)),
            *((f"  {name}", text) for name, text in _collectives(token)),
        ]
    return align(rows)


def _collectives(totals: Totals) -> list[tuple[str, str]]:
    return [
        (f"    {kind} of {size}", f"{_gb(traffic.wire_bytes)} in {traffic.count:,.0f}")
        for (kind, size), traffic in sorted(totals.collectives.items())
    ]


def _parts(totals: Totals) -> str:
    """'5.0 ms: operations 4.0 ms, waiting for collectives 1.0 ms'."""
    return (
        f"{ms(totals.step_secs)}: operations {ms(totals.operation_secs)}, "
        f"waiting for collectives {ms(totals.exposed_secs)}"
    )


def verdict(plan: Plan, proposals: Sequence[Proposal] | None) -> str:
    """Whether it fits, and what would."""
    if plan.fits:
        needed = max(plan.needed_bytes, plan.decoding_needed_bytes or 0)
        left = plan.machine.device.memory_bytes - needed
        return f"fits, {gib(left)} to spare"
    bound = "more than " if plan.is_lower_bound else ""
    text = f"does not fit: {bound}{gib(plan.missing_bytes)} too much on each device"
    if plan.setup.trains and plan.needed_bytes <= plan.machine.device.memory_bytes:
        text += " while decoding"
    if (plan.decoding_needed_bytes or 0) > plan.machine.device.memory_bytes:
        text += "; fewer prompts a batch take less"
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
