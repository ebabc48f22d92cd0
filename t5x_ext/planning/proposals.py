"""Changes that make a run fit, each found to fit by compiling it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from t5x_ext.errors import ConfigError
from t5x_ext.models.t5_config import SAVED_BY_REMAT_POLICY
from t5x_ext.planning import compiling
from t5x_ext.planning.devices import Machine
from t5x_ext.planning.plans import Plan, Setup, make_plan
from t5x_ext.training.trainer import Program

_REMAT_POLICIES = tuple(SAVED_BY_REMAT_POLICY)  # what they save falls from the first to the last
_MICROBATCHES = (2, 4, 8, 16)
_ENOUGH = 3  # proposals


@dataclasses.dataclass(frozen=True)
class Change:
    """A way to run with less memory on each device.

    Attributes:
      settings: what to write, such as 'REMAT_POLICY = "full"', in the order of their weight.
      setup: the changed run.
      machine: what it would run on.
    """

    settings: tuple[str, ...]
    setup: Setup
    machine: Machine


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A change that fits, with the plan that shows it."""

    settings: tuple[str, ...]
    plan: Plan


def find_proposals(
    plan: Plan,
    max_compiles: int,
    report: Callable[[str], None] = lambda line: None,
) -> list[Proposal]:
    """Looks for the cheapest changes with which a plan fits.

    On the machine itself first, with one change before two; on the next larger machines only
    where nothing else helps. What parameters, optimizer and gradients alone already fill is not
    compiled.

    Args:
      plan: one that does not fit.
      max_compiles: plans to compile at most; a compile can take minutes.
      report: receives a line on every plan that is tried.

    Returns:
      What fits, the shortest step first.
    """
    found: list[Proposal] = []
    tried = 0
    machine: Machine | None = plan.machine
    while machine is not None and not found and tried < max_compiles:
        for change in _changes(plan.setup, machine, is_larger=machine != plan.machine):
            if tried == max_compiles or len(found) == _ENOUGH:
                break
            if not _may_fit(change):
                continue
            tried += 1
            name = ", ".join(change.settings)
            report(f"[{tried}/{max_compiles}] {name}: compiling")
            attempt = make_plan(change.setup, change.machine, plan.price_per_chip_hour)
            report(f"[{tried}/{max_compiles}] {name}: {_outcome(attempt)}")
            if attempt.fits:
                found.append(Proposal(change.settings, attempt))
        machine = machine.larger()
    return sorted(found, key=lambda proposal: proposal.plan.step_secs or float("inf"))


def _changes(setup: Setup, machine: Machine, is_larger: bool) -> Iterator[Change]:
    """One change before two before three, and of each kind the weakest first."""
    choices = (
        [None, *_meshes(setup, machine)],
        [None, *(n for n in _MICROBATCHES if n > setup.num_microbatches)],
        [None, *_stronger_policies(setup)],
    )

    def weight(option: tuple[Any, ...]) -> tuple[Any, ...]:
        unused = tuple(choice is None for choice in option)
        strengths = sum(of.index(choice) for of, choice in zip(choices, option, strict=True))
        return len(option) - sum(unused), strengths, unused

    flag = "--topology" if machine.topology else "--devices"
    for fsdp, parts, policy in sorted(itertools.product(*choices), key=weight):
        settings = [f"{flag} {machine.name}"] if is_larger else []
        changed = setup
        if fsdp is not None:
            settings.append(f"PjitPartitioner.fsdp = {fsdp}")
            mesh = dataclasses.replace(setup.partitioner, data=-1, fsdp=fsdp)
            changed = dataclasses.replace(changed, partitioner=mesh)
        if parts is not None:
            settings.append(f"NUM_MICROBATCHES = {parts}")
            trainer = dataclasses.replace(setup.trainer, num_microbatches=parts)
            changed = dataclasses.replace(changed, trainer=trainer)
        if policy is not None:
            settings.append(f'REMAT_POLICY = "{policy}"')
            changed = _with_policy(changed, policy)
        if settings:
            yield Change(tuple(settings), changed, machine)


def _meshes(setup: Setup, machine: Machine) -> Sequence[int]:
    """Larger sizes of `fsdp` that divide the devices which the other axes leave."""
    shape = setup.partitioner.mesh.shape
    present = shape["fsdp"]
    most = machine.count // (shape["expert"] * shape["model"])
    return [n for n in range(2 * present, most + 1, present) if most % n == 0]


def _stronger_policies(setup: Setup) -> Sequence[str]:
    present = _REMAT_POLICIES.index(setup.model.config.remat_policy)
    return _REMAT_POLICIES[present + 1 :]


def _with_policy(setup: Setup, policy: str) -> Setup:
    config = dataclasses.replace(setup.model.config, remat_policy=policy)
    module = dataclasses.replace(setup.model.module, config=config)
    return dataclasses.replace(setup, model=dataclasses.replace(setup.model, module=module))


def _may_fit(change: Change) -> bool:
    """False where mesh and batch do not divide, or float32 parameters, optimizer and gradients
    alone exceed the memory."""
    try:
        setup = change.setup.on(change.machine)
        setup.partitioner.check_batch(setup.workload.rows, setup.num_microbatches)
        state = Program(setup.model, setup.partitioner, setup.trainer).abstract_state()
    except ConfigError:
        return False
    params = compiling.bytes_per_device(state.params)
    fixed = 2 * params + compiling.bytes_per_device(state.opt_state)
    return fixed < change.machine.device.memory_bytes


def _outcome(plan: Plan) -> str:
    if not plan.fits:
        return f"{plan.missing_bytes / compiling.GIB:.2f} GiB too much"
    secs = "" if plan.step_secs is None else f", {plan.step_secs * 1e3:,.1f} ms a step"
    return f"fits{secs}"
