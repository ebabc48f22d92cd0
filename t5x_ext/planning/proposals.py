"""Changes that make a run fit, each found to fit by compiling it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

from t5x_ext.errors import ConfigError
from t5x_ext.models.config import REMAT_POLICIES
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning.devices import GIB, Machine
from t5x_ext.planning.plans import Plan, Setup, least_bytes, make_plan

_MICROBATCHES = (2, 4, 8, 16)


@dataclasses.dataclass(frozen=True)
class Change:
    """A way to run with less memory on each device.

    Attributes:
      settings: flags to give, such as --gin.NUM_MICROBATCHES=2.
      setup: the changed run, laid over the machine's devices.
    """

    settings: tuple[str, ...]
    setup: Setup


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A change that fits, with the plan that shows it."""

    settings: tuple[str, ...]
    plan: Plan


def find_proposals(
    plan: Plan,
    wanted: int,
    max_compiles: int,
    report: Callable[[str], None] = lambda line: None,
) -> list[Proposal]:
    """Looks for the cheapest changes with which a plan fits.

    On the machine itself first, with one change before two, and on the next larger machines only
    where nothing else helps. A change is not compiled where what is known already says that it
    cannot fit: shapes tell parameters and optimizer, and each compilation tells what a batch row
    takes under its remat policy.

    Args:
      plan: one that does not fit.
      wanted: enough changes that fit.
      max_compiles: plans to compile at most; a compilation can take minutes.
      report: receives a line before and after each.

    Returns:
      What fits, the shortest step first.
    """
    found: list[Proposal] = []
    row_bytes: dict[str, float] = {}  # by remat policy
    _learn(row_bytes, plan)
    tried = 0
    machine: Machine | None = plan.machine
    while machine is not None and not found and tried < max_compiles:
        for change in _changes(plan, machine):
            if tried == max_compiles or len(found) == wanted:
                break
            if _expected_bytes(change, row_bytes) > machine.device.memory_bytes:
                continue
            tried += 1
            name = f"[{tried}/{max_compiles}] {' '.join(change.settings)}"
            report(f"{name}: compiling")
            attempt = make_plan(change.setup, machine, plan.price_per_chip_hour)
            report(f"{name}: {_outcome(attempt)}")
            _learn(row_bytes, attempt)
            if attempt.fits:
                found.append(Proposal(change.settings, attempt))
        machine = machine.larger()
    return sorted(found, key=_secs_per_model)


def _secs_per_model(proposal: Proposal) -> float:
    plan = proposal.plan
    return math.inf if plan.step_secs is None else plan.step_secs / plan.setup.experts


def _changes(plan: Plan, machine: Machine) -> Iterator[Change]:
    """What mesh, batch and model allow: one change before two, of each kind the weakest first."""
    setup = plan.setup
    config = setup.model.config
    present = REMAT_POLICIES.index(config.remat_policy)
    spreads = [False, True]
    parts_choices = [1, *(n for n in _MICROBATCHES if n > setup.num_microbatches)]
    policies = REMAT_POLICIES[present:] if config.can_remat else (config.remat_policy,)

    def weight(option: tuple[bool, int, str]) -> tuple[int, int, bool]:
        spread, parts, policy = option
        strengths = (int(spread), parts_choices.index(parts), policies.index(policy))
        return sum(s > 0 for s in strengths), sum(strengths), not spread

    flag = "--topology" if machine.topology else "--devices"
    for spread, parts, policy in sorted(
        itertools.product(spreads, parts_choices, policies), key=weight
    ):
        settings = [] if machine == plan.machine else [f"{flag} {machine.name}"]
        changed = setup
        if parts > 1:
            settings.append(f"--gin.{setup.microbatches_name}={parts}")
            trainer = dataclasses.replace(setup.trainer, num_microbatches=parts)
            changed = dataclasses.replace(changed, trainer=trainer)
        if policy != policies[0]:
            settings.append(f"--gin.REMAT_POLICY='\"{policy}\"'")
            changed = _with_policy(changed, policy)
        if spread:
            more, changed = _spread(changed, machine)
            if not more:
                continue
            settings += more
        if settings and divides(changed.on(machine)):
            yield Change(tuple(settings), changed.on(machine))


def _spread(setup: Setup, machine: Machine) -> tuple[list[str], Setup]:
    """Parameters over more devices or, where models share all of them, fewer models at once.

    Returns:
      The settings, and the changed run; no settings where it is spread already.
    """
    present = setup.partitioner
    if present.num_expert_slots == 1 and setup.experts > 1:
        experts = setup.experts // 2
        return [f"--gin.EXPERTS={experts}"], dataclasses.replace(setup, experts=experts)
    mesh = spread_mesh(setup, machine)
    changed = dataclasses.replace(setup, partitioner=mesh)
    if _mesh_shape(changed, machine) == _mesh_shape(setup, machine):
        return [], setup
    settings = [f"--gin.PjitPartitioner.fsdp={mesh.fsdp}"]
    if mesh.model != present.num_model_shards:
        settings.append(f"--gin.PjitPartitioner.model={mesh.model}")
    if present.num_expert_slots > 1:
        settings += [f"--gin.PjitPartitioner.expert={mesh.expert}", f"--gin.EXPERTS={mesh.expert}"]
        changed = dataclasses.replace(changed, experts=mesh.expert)
    return settings, changed


def _mesh_shape(setup: Setup, machine: Machine) -> dict[str, int] | None:
    """Devices along each axis; None where the mesh does not fit the machine."""
    try:
        return dict(setup.on(machine).partitioner.mesh.shape)
    except ConfigError:
        return None


def spread_mesh(setup: Setup, machine: Machine) -> PjitPartitioner:
    """Parameters split over all devices: by `model` only where there are too few rows for them.

    Where several models share the mesh, over twice the devices, so that half as many models do.
    """
    present = setup.partitioner
    if present.num_expert_slots > 1:
        slots, fsdp = present.num_expert_slots // 2, 2 * present.num_batch_shards
        return dataclasses.replace(present, expert=slots, data=1, fsdp=fsdp)
    rows = max(1, setup.workload.rows // setup.num_microbatches)
    model = present.num_model_shards
    while machine.count // model > rows:
        model *= 2
    return dataclasses.replace(
        present,
        num_partitions=None,
        model_parallel_submesh=None,
        data=1,
        fsdp=machine.count // model,
        model=model,
    )


def _with_policy(setup: Setup, policy: str) -> Setup:
    config = setup.model.config.replace(remat_policy=policy)
    module = setup.model.module.replace(config)
    return dataclasses.replace(setup, model=setup.model.replace(module=module))


def divides(setup: Setup) -> bool:
    """Whether mesh, batch and model divide."""
    try:
        setup.partitioner.check_batch(setup.workload.rows, setup.num_microbatches)
        setup.program.abstract_state()
    except ConfigError:
        return False
    return True


def _rows_at_once(setup: Setup) -> float:
    """Rows whose activations a device holds; a row that `model` splits counts as its part."""
    mesh = setup.partitioner
    parts = mesh.num_batch_shards * setup.num_microbatches * mesh.num_model_shards
    return setup.workload.rows * setup.experts / mesh.num_expert_slots / parts


def _learn(row_bytes: dict[str, float], plan: Plan) -> None:
    """Notes what a row takes under a policy, where a compilation has told it."""
    if not plan.is_lower_bound:
        rest = plan.needed_bytes - least_bytes(plan.setup)
        row_bytes[plan.setup.model.config.remat_policy] = rest / _rows_at_once(plan.setup)


def _expected_bytes(change: Change, row_bytes: dict[str, float]) -> float:
    """A guess at what a change needs that errs towards too little."""
    a_row = row_bytes.get(change.setup.model.config.remat_policy, 0)
    # Some of what was counted as rows does not grow with them.
    return least_bytes(change.setup) + 0.8 * a_row * _rows_at_once(change.setup)


def _outcome(plan: Plan) -> str:
    if not plan.fits:
        return f"{plan.missing_bytes / GIB:.2f} GiB too much"
    secs = "" if plan.step_secs is None else f", {plan.step_secs * 1e3:,.1f} ms a step"
    return f"fits{secs}"
