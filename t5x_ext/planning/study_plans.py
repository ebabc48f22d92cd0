"""A plan of a whole study: its models in groups, and the same models with one process for each."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from t5x_ext.planning import fitting
from t5x_ext.planning.devices import Machine
from t5x_ext.planning.groups import make_groups, program_size
from t5x_ext.planning.lowering import Workload
from t5x_ext.planning.plans import Plan, Setup, add_decoding, make_plan
from t5x_ext.planning.proposals import divides, spread_mesh
from t5x_ext.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class ModelSize:
    """One model of a study: a cell, or an initial model that the study makes.

    Attributes:
      start: the initial model it is tuned from; only models of one start are tuned together. Of
        an initial model its own name.
      steps: train steps; 0 if nothing is tuned. An upper bound where rows are packed.
      prompts: prompts that are decoded with it.
      is_initial: whether others start from it; it is tuned alone.
      trainer: its schedule; only models with equal ones are tuned together.
    """

    start: str
    steps: int
    prompts: int
    is_initial: bool = False
    trainer: Trainer = Trainer()


@dataclasses.dataclass(frozen=True)
class TextSize:
    """Texts that a model of the study writes, to be trained on.

    Attributes:
      name: what they are.
      workload: one batch, decoded to the longest possible text.
      batches: how many.
    """

    name: str
    workload: Workload
    batches: int


@dataclasses.dataclass(frozen=True)
class StudySize:
    """The whole grid, with the initial models that it makes and the texts that models write.

    Attributes:
      models: every cell, and every initial model that is made.
      tasks: test-track tasks of the study.
      tasks_without_file: how many of them count as the mean of the others.
      texts: written for training.
    """

    models: tuple[ModelSize, ...]
    tasks: int
    tasks_without_file: int
    texts: tuple[TextSize, ...] = ()

    @property
    def tuned(self) -> int:
        """Models that are tuned: all but those of zero-shot cells."""
        return sum(model.steps > 0 for model in self.models)


@dataclasses.dataclass(frozen=True)
class StudySetup:
    """A study as its configuration states it.

    Attributes:
      setup: one model of it, and one batch of its prompts.
      size: all models.
      experts: models tuned together; 'auto' for as many as fit.
      typical_rows: what batches take a multiple of -> rows of a typical one, for step times;
        None for those of `setup`, which memory has to suffice for.
      left_out: arms that tune all parameters where the others tune adapters: another program.
    """

    setup: Setup
    size: StudySize
    experts: int | str
    typical_rows: Callable[[int], int] | None = None
    left_out: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Kind:
    """Groups of one start whose models make steps within a factor of two: a row of the table.

    Attributes:
      groups: models that are in the machine at the same time.
    """

    groups: tuple[tuple[ModelSize, ...], ...]

    @property
    def models(self) -> list[ModelSize]:
        """The models of all groups."""
        return [model for group in self.groups for model in group]

    @property
    def steps_range(self) -> tuple[int, int]:
        """Fewest and most steps of its models."""
        steps = [model.steps for model in self.models]
        return min(steps), max(steps)


def group_secs(
    group: Sequence[ModelSize], step_secs: float, decoding_secs: float, rows: int, sharing: int = 1
) -> float:
    """Seconds of tuning and decoding a group: it lasts as long as its longest model.

    Args:
      group: its models.
      step_secs: of a train step of the group.
      decoding_secs: of decoding one batch of each of its models' prompts.
      rows: prompts in a batch of one model.
      sharing: neighbours whose prompts share batches: the adapters of a slot.
    """
    steps = max(model.steps for model in group)
    prompts = [model.prompts for model in group]
    in_slots = [sum(prompts[at : at + sharing]) for at in range(0, len(group), sharing)]
    batches = -(-max(in_slots) // rows)
    return steps * step_secs + batches * decoding_secs


def make_kinds(models: Sequence[ModelSize], experts: int) -> list[Kind]:
    """Models in the groups that the study makes of them, initial models first.

    The study keeps models apart whose examples pad to other lengths as well; that is known only
    once they are tokenised.

    Args:
      models: all models.
      experts: tuned together at most.
    """
    kinds: dict[Any, list[tuple[ModelSize, ...]]] = defaultdict(list)
    for group in make_groups(
        models,
        experts,
        lambda model: model.steps,
        lambda model: (model.is_initial, model.start, model.trainer),
    ):
        first = group[0]
        kinds[not first.is_initial, first.start, first.steps.bit_length()].append(tuple(group))
    return [Kind(tuple(kinds[key])) for key in sorted(kinds)]


# Where to tune models of a kind: in groups, or in a process each, on a slot's devices or on all.
PLACES = ("in_groups", "alone_on_a_slot", "alone_on_the_machine")


@dataclasses.dataclass(frozen=True)
class StudyPlan:
    """What came out for a study on a machine.

    Attributes:
      study: what was asked for.
      together: the program of the models that are tuned together.
      slot: one model in every slot; the same plan where that is what fits.
      whole: one model on the whole machine; None if that is the same, cannot be, or was not
        asked for.
      start_secs: what a process takes before its first step; None for what compiling its programs
        took here.
      texts: for each of the study's texts the plan of decoding a batch of them.
    """

    study: StudySetup
    together: Plan
    slot: Plan
    whole: Plan | None = None
    start_secs: float | None = None
    texts: tuple[Plan, ...] = ()

    def text_hours(self, index: int) -> float | None:
        """Hours of the machine for one of the study's texts."""
        secs = self.texts[index].decoding_secs
        return None if secs is None else secs * self.study.size.texts[index].batches / 3600

    @property
    def slots(self) -> int:
        """Parts of the machine that hold separate models."""
        return _slots(self.together.setup)

    @property
    def kinds(self) -> list[Kind]:
        """The models in groups."""
        return make_kinds(self.study.size.models, self.together.setup.experts)

    def hours(self, kind: Kind) -> float | None:
        """Hours of the machine for one kind, in groups; a model alone takes a slot's time."""
        alone, together = _times(self.slot), _times(self.together)
        if not (alone and together):
            return None
        secs = (
            group_secs(group, *alone)
            if len(group) == 1
            else group_secs(group, *together, sharing=self._sharing(group))
            for group in kind.groups
        )
        return sum(secs) / 3600

    def _sharing(self, group: Sequence[ModelSize]) -> int:
        """Models of a group whose prompts share batches; see `group_secs`."""
        setup = self.together.setup
        if not setup.model.module.frozen:
            return 1
        return program_size(len(group), setup.experts, self.slots) // self.slots

    def alone_hours(self, kind: Kind, plan: Plan | None) -> float | None:
        """Hours for one kind with a process for each model, one after the other.

        Args:
          kind: the models.
          plan: of one model: `slot` for a machine of a slot's devices, or `whole`.
        """
        times = plan and _times(plan)
        if not times:
            return None
        start = self.start_secs
        if start is None:
            start = plan.train.compile_secs + plan.decoding.compile_secs
        return sum(start + group_secs([model], *times) for model in kind.models) / 3600

    def dollars(self, hours: float | None, devices: int | None = None) -> float | None:
        """What that many hours of that many devices cost; None takes the machine's."""
        devices = self.together.machine.count if devices is None else devices
        return None if hours is None else hours * devices * self.together.price_per_chip_hour

    def costs(self, kind: Kind) -> dict[str, float | None]:
        """Dollars for one kind by place (see `PLACES`); None is not known."""
        of_slot = self.together.machine.count // self.slots
        groups, slot, machine = PLACES
        return {
            groups: self.dollars(self.hours(kind)),
            slot: self.dollars(self.alone_hours(kind, self.slot), of_slot),
            machine: self.dollars(self.alone_hours(kind, self.whole)),
        }

    def cheapest(self, kind: Kind) -> str | None:
        """The place where one kind costs least; None where no cost is known."""
        known = {place: cost for place, cost in self.costs(kind).items() if cost is not None}
        return min(known, key=known.__getitem__) if known else None

    @property
    def least_dollars(self) -> float | None:
        """For all kinds, each where it costs least; None where one's is not known."""
        total = 0.0
        for kind in self.kinds:
            place = self.cheapest(kind)
            if place is None:
                return None
            total += self.costs(kind)[place] or 0.0
        return total

    def as_record(self) -> dict[str, Any]:
        """What `--json` prints of it: models by kind, each with hours and dollars."""
        size = self.study.size
        kinds: list[dict[str, Any]] = [
            {
                "start": kind.models[0].start,
                "is_initial": kind.models[0].is_initial,
                "models": len(kind.models),
                "groups": len(kind.groups),
                "steps": kind.steps_range,
                "hours": self.hours(kind),
                "hours_alone_on_a_slot": self.alone_hours(kind, self.slot),
                "hours_alone_on_the_machine": self.alone_hours(kind, self.whole),
                "dollars": self.costs(kind),
                "cheapest": self.cheapest(kind),
            }
            for kind in self.kinds
        ]
        texts: list[dict[str, Any]] = [
            {
                "name": text.name,
                "batches": text.batches,
                "rows": text.workload.rows,
                "memory_bytes": plan.decoding_needed_bytes,
                "hours": self.text_hours(index),
            }
            for index, (text, plan) in enumerate(zip(size.texts, self.texts, strict=False))
        ]
        parts = [part["hours"] for part in (*kinds, *texts)]
        hours = None if None in parts else sum(parts)
        return {
            "models": size.tuned,
            "tasks": size.tasks,
            "tasks_without_file": size.tasks_without_file,
            "experts": self.together.setup.experts,
            "slots": self.slots,
            "hours": hours,
            "dollars": self.dollars(hours),
            "dollars_where_cheapest": self.least_dollars,
            "kinds": kinds,
            "texts": texts,
            "left_out": self.study.left_out,
        }


def make_study_plan(
    study: StudySetup,
    machine: Machine,
    price_per_chip_hour: float | None = None,
    start_secs: float | None = None,
    report: Callable[[str], None] = lambda line: None,
    groups_only: bool = False,
) -> StudyPlan:
    """Compiles what a study does, for a machine, and finds how many models fit together.

    Args:
      study: the study.
      machine: what it would run on.
      price_per_chip_hour: US dollars; None takes the built-in price.
      start_secs: see `StudyPlan`.
      report: receives a line before each compilation.
      groups_only: leave out what one model on the whole machine takes.

    Raises:
      ConfigError: mesh, batch, model and number of models do not divide.
    """
    setup = study.setup.on(machine)
    slots = _slots(setup)
    fitting.check_experts(study.experts, slots)

    @functools.cache
    def plan_of(per_slot: int) -> Plan:
        report(f"compiling the step of {per_slot * slots} models")
        some = dataclasses.replace(setup, experts=per_slot * slots, decoding=None)
        return make_plan(some, machine, price_per_chip_hour)

    if study.experts == fitting.AUTO:
        models = study.size.models  # in groups as large as can be:
        most = max(len(group) for kind in make_kinds(models, len(models)) for group in kind.groups)
        per_slot = max(
            1,
            fitting.most_per_slot(
                lambda number: plan_of(number).needed_bytes,
                machine.device.memory_bytes,
                -(-most // slots),
            ),
        )
    else:
        assert isinstance(study.experts, int)  # check_experts has refused other words
        per_slot = study.experts // slots

    def timed(plan: Plan) -> Plan:
        """The same plan, with the costs of a step of typical batches."""
        if not plan.fits or study.typical_rows is None:
            return plan
        partitioner, microbatches = plan.setup.partitioner, plan.setup.num_microbatches
        rows = study.typical_rows(partitioner.num_batch_shards * microbatches)
        if rows == plan.setup.workload.rows:
            return plan
        report(f"compiling the step of {rows} rows")
        workload = dataclasses.replace(plan.setup.workload, rows=rows)
        typical = make_plan(
            dataclasses.replace(plan.setup, workload=workload), machine, price_per_chip_hour
        )
        return dataclasses.replace(plan, setup=typical.setup, train=typical.train)

    together = timed(plan_of(per_slot))
    report("compiling decoding")
    together = add_decoding(together, setup.decoding)
    if not together.fits:
        return StudyPlan(study, together, together)
    if per_slot == 1:
        slot = together
    elif setup.model.module.frozen:
        slot = _with_decoding_of(together, timed(plan_of(1)))
    else:
        slot = add_decoding(timed(plan_of(1)), setup.decoding)
    one = _on_the_whole(setup, machine)
    whole = None
    if slots > 1 and not groups_only and divides(one):
        report("compiling for one model on the whole machine")
        whole = timed(make_plan(one, machine, price_per_chip_hour))
    return StudyPlan(
        study, together, slot, whole, start_secs, _plan_texts(study.size, slot, report)
    )


def _plan_texts(size: StudySize, slot: Plan, report: Callable[[str], None]) -> tuple[Plan, ...]:
    """Decoding of each text's batches by one model, those of one shape compiled once."""
    plans: dict[Workload, Plan] = {}
    for text in size.texts:
        if text.workload not in plans:
            report(f"compiling the decoding of {text.name}")
            plans[text.workload] = add_decoding(slot, text.workload)
    return tuple(plans[text.workload] for text in size.texts)


def _with_decoding_of(together: Plan, slot: Plan) -> Plan:
    """The plan of one adapter in each slot: a batch takes as long as with rows of several."""
    return dataclasses.replace(
        slot,
        setup=dataclasses.replace(slot.setup, decoding=together.setup.decoding),
        decoding=together.decoding,
        decoding_needed_bytes=together.decoding_needed_bytes,
    )


def _on_the_whole(setup: Setup, machine: Machine) -> Setup:
    """One model over all devices; its memory needs no microbatches there."""
    one = dataclasses.replace(
        setup,
        partitioner=dataclasses.replace(setup.partitioner, expert=1, data=-1),
        trainer=dataclasses.replace(setup.trainer, num_microbatches=1),
    )
    return dataclasses.replace(one, partitioner=spread_mesh(one, machine))


def _slots(setup: Setup) -> int:
    return setup.partitioner.num_expert_slots


def _times(plan: Plan) -> tuple[float, float, int] | None:
    """What `group_secs` takes; None if it is not known."""
    if plan.step_secs is None or plan.decoding_secs is None:
        return None
    return plan.step_secs, plan.decoding_secs, plan.setup.decoding.rows
