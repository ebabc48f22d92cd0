"""Plans as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from t5x_ext.models.params import count_params
from t5x_ext.planning import compiling
from t5x_ext.planning.compiling import Compiled
from t5x_ext.planning.devices import GIB, PRICE_SOURCE
from t5x_ext.planning.plans import Plan
from t5x_ext.planning.proposals import Proposal

_NOTES = """\
Step time: for every instruction the larger of FLOPs / peak and HBM bytes / bandwidth, times the \
rounds of its loops, plus what collectives take beyond the work beside them. Left out: vector \
arithmetic, latency, input, evaluation, checkpoints. A real step is slower."""


def render(plan: Plan, proposals: Sequence[Proposal] | None) -> str:
    """The report of the command.

    Args:
      plan: what was asked for.
      proposals: changes that fit, where it does not; None where none were looked for.
    """
    parts = [_head(plan), _memory(plan)]
    if plan.train and plan.train.totals:
        parts += [_costs(plan, plan.train), _time(plan)]
    if plan.decoding:
        parts.append(_decoding(plan, plan.decoding))
    parts.append(_verdict(plan, proposals))
    return "\n\n".join(parts)


def _head(plan: Plan) -> str:
    setup, load = plan.setup, plan.setup.workload
    mesh = " x ".join(f"{axis} {size}" for axis, size in setup.partitioner.mesh.shape.items())
    config = setup.model.config
    packed = ", packed" if load.pack else ""
    return _align(
        [
            ("machine", f"{plan.machine.name}, {plan.machine.count} devices: {mesh}"),
            (
                "model",
                f"{count_params(setup.model.specs):,} parameters, {config.dtype}, "
                f"remat {config.remat_policy}",
            ),
            (
                "batch",
                f"{load.rows} rows of {load.input_length} + {load.target_length} tokens{packed}, "
                f"{setup.num_microbatches} microbatches",
            ),
            ("method", compiling.describe_method(plan.machine)),
        ]
    )


def _memory(plan: Plan) -> str:
    available = plan.machine.device.memory_bytes
    rows = [("memory of a device", "")]
    if plan.train:
        memory = plan.train.memory
        rows += [
            ("  parameters", _gib(memory.params)),
            ("  optimizer", _gib(memory.optimizer)),
            ("  activations, gradients and the rest", _gib(memory.temporaries)),
        ]
    rows.append(("  peak of a train step", _gib(plan.needed_bytes)))
    if plan.decoding_needed_bytes is not None:
        rows.append(("  peak of decoding", _gib(plan.decoding_needed_bytes)))
    rows.append(("  available", _gib(available)))
    return _align(rows)


def _costs(plan: Plan, compiled: Compiled) -> str:
    totals = compiled.totals
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
    return _align(rows)


def _time(plan: Plan) -> str:
    totals = plan.train.totals
    steps = plan.setup.num_steps
    rows = [
        ("time and cost (estimates)", ""),
        (
            "  step",
            f"{_ms(plan.step_secs)}: operations {_ms(totals.operation_secs)}, "
            f"waiting for collectives {_ms(totals.exposed_secs)}",
        ),
        ("  model FLOPs utilization", f"{plan.utilization:.1%}"),
        ("  tokens a second", f"{plan.tokens_per_sec:,.0f} (padding included)"),
    ]
    if steps is None:
        rows.append(("  run", "set TRAIN_STEPS: how many steps TRAIN_EPOCHS takes, the data tells"))
    else:
        price = f"at ${plan.price_per_chip_hour:.2f} a chip-hour"
        rows.append(
            ("  run", f"{steps:,} steps: {plan.hours:,.2f} hours, ${plan.dollars:,.2f} {price}")
        )
    if plan.price_per_chip_hour == plan.machine.device.price_per_hour:
        rows.append(("  prices", PRICE_SOURCE))
    return _align(rows) + "\n" + _NOTES


def _decoding(plan: Plan, compiled: Compiled) -> str:
    load, totals = plan.setup.decoding, compiled.totals
    rows = [
        (
            "decoding a batch",
            f"{load.rows} rows of {load.input_length} tokens, {load.target_length} made",
        )
    ]
    if totals:
        rows += [
            ("  time at most", _ms(totals.step_secs)),
            ("  compiled FLOPs", _tera(totals.flops)),
            ("  HBM traffic", _gb(totals.hbm_bytes)),
        ]
    return _align(rows)


def _verdict(plan: Plan, proposals: Sequence[Proposal] | None) -> str:
    if plan.fits:
        left = plan.machine.device.memory_bytes - plan.needed_bytes
        return f"fits, {_gib(left)} to spare"
    text = f"does not fit: {_gib(plan.missing_bytes)} too much on each device"
    if proposals is None:
        return text
    if not proposals:
        return text + "; no change that was tried fits"
    rows = [("", "peak", "step", "dollars an hour", "change")]
    for proposal in proposals:
        changed = proposal.plan
        secs = "-" if changed.step_secs is None else _ms(changed.step_secs)
        hourly = changed.machine.count * changed.price_per_chip_hour
        change = "; ".join(proposal.settings)
        rows.append(("", _gib(changed.needed_bytes), secs, f"{hourly:,.2f}", change))
    return f"{text}; these fit (compiled):\n{_align(rows)}"


def _align(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _gib(num_bytes: float) -> str:
    """Memory, in powers of 1024."""
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 2**20:.1f} MiB"


def _gb(num_bytes: float) -> str:
    """Traffic, in powers of 1000 as bandwidths are."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def _tera(flops: float) -> str:
    return f"{flops / 1e12:,.1f} TFLOP" if flops >= 1e12 else f"{flops / 1e9:,.1f} GFLOP"


def _ms(secs: float) -> str:
    return f"{secs * 1e3:,.1f} ms"
