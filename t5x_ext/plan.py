"""Tells before a run whether it fits, how long it takes and what it costs.

    python -m t5x_ext.plan --gin_file=models/t5_1_1_xl.gin --gin_file=runs/plan.gin \\
        --gin.BATCH_SIZE=128 --topology v5e:4x4

Give the gin files and bindings of the run itself, or runs/plan.gin, which asks for less. The real
train step is compiled for the machine, and so is decoding where the run decodes (infer, eval) or
--decode is given; no data is read and no accelerator is used. XL takes minutes on two cores.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from t5x_ext import bounds, errors, files, gin_utils
from t5x_ext.configs import CheckpointConfig, RestoreCheckpointConfig, SuperNIConfig
from t5x_ext.gin_strict.binding import bound_to
from t5x_ext.models import BaseTransformerModel
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning import plans, proposals, study_plans, study_tables, tables
from t5x_ext.planning.devices import Machine, parse_devices, parse_topology
from t5x_ext.planning.lowering import Workload
from t5x_ext.planning.plans import Setup
from t5x_ext.planning.study_plans import StudySetup
from t5x_ext.runs.length import RunLength
from t5x_ext.terminal import Parser, command, note, show, show_json
from t5x_ext.train import train
from t5x_ext.training.trainer import Trainer

_PROPOSALS = 3
_MAX_COMPILES = 8


@dataclasses.dataclass(frozen=True)
class Decoding:
    """What the command line says of decoding; None is as the run has it.

    Attributes:
        wanted: also plan decoding if the run does not decode.
        prompts: in a batch, global.
        prompt_length: tokens of each.
        output_length: tokens made, at most.
    """

    wanted: bool = False
    prompts: int | None = None
    prompt_length: int | None = None
    output_length: int | None = None

    def batch(
        self, model: BaseTransformerModel, batch_size: int, lengths: Mapping[str, int]
    ) -> Workload:
        """A run's batch size and lengths, but for what is said here.

        Raises:
            ConfigError: they are too long for the model.
        """
        asked = {
            "inputs": self.prompt_length or lengths["inputs"],
            "targets": self.output_length or lengths["targets"],
        }
        is_run = asked == dict(lengths)
        what = "" if is_run else f"--prompt_length, --output_length: {asked}"
        model.check_context(asked, what)
        return Workload(self.prompts or batch_size, asked["inputs"], asked["targets"])


def decoding_setup(bound: dict[str, Any], decoding: Decoding) -> Setup:
    """What a run that only decodes does.

    Args:
        bound: the arguments that gin gives to `t5x_ext.infer.infer` or `t5x_ext.eval.evaluate`.
        decoding: what the command line says of it.

    Raises:
        ConfigError: model or lengths are not set, or ADAPTER does not fit the model.
    """
    from t5x_ext.runs.adapters import with_adapter

    cfg = bound.get("dataset_cfg")
    if cfg is None or cfg.task_feature_lengths is None or "model" not in bound:
        raise errors.ConfigError("no decoding to plan: MODEL or TASK_FEATURE_LENGTHS is not set")
    model = with_adapter(bound["model"], bound.get("restore_checkpoint_cfg"))
    load = decoding.batch(model, cfg.batch_size, cfg.task_feature_lengths)
    partitioner = bound.get("partitioner", PjitPartitioner())
    return Setup(model, partitioner, Trainer(), load, decoding=load, trains=False)


def train_setup(bound: dict[str, Any], decoding: Decoding) -> Setup:
    """What a training run does.

    Args:
        bound: the arguments that gin gives to `t5x_ext.train.train`.
        decoding: what the command line says of it.

    Raises:
        ConfigError: model or lengths are not set, or ADAPTER does not fit the model.
    """
    from t5x_ext.runs.adapters import with_adapter

    training = bound.get("train_dataset_cfg")
    if training is None or training.task_feature_lengths is None or "model" not in bound:
        raise errors.ConfigError(
            "no run to plan: give the gin files of a run or of a study, or add "
            "--gin_file=runs/plan.gin to a model's"
        )

    lengths = training.task_feature_lengths
    decoded = bound.get("infer_eval_dataset_cfg") or (training if decoding.wanted else None)
    checkpoints = bound.get("checkpoint_cfg", CheckpointConfig())
    model = with_adapter(bound["model"], checkpoints.restore)
    model.check_context(lengths)
    model.check_pack(training.pack)
    num_steps, includes_initial = _num_steps(bound, checkpoints.restore)
    return Setup(
        model=model,
        partitioner=bound.get("partitioner", PjitPartitioner()),
        trainer=bound.get("trainer_cls", Trainer)(),
        workload=Workload(
            training.batch_size, lengths["inputs"], lengths["targets"], training.pack
        ),
        num_steps=num_steps,
        includes_initial=includes_initial,
        decoding=decoded
        and decoding.batch(model, decoded.batch_size, decoded.task_feature_lengths or lengths),
        use_hardware_rng=bound.get("use_hardware_rng", False),
    )


def _num_steps(
    bound: dict[str, Any], restore: RestoreCheckpointConfig | None
) -> tuple[int | None, bool]:
    """Steps of a run, and whether those of its initial checkpoint are among them: it is not here.

    Raises:
        ConfigError: the checkpoint is damaged, or already beyond TRAIN_STEPS.
    """
    total, relative = bound.get("total_steps"), bound.get("relative_steps")
    if relative is not None or total is None:
        return relative, False
    if restore is None or not restore.paths:
        return total, False
    start = _step_of(restore)
    if start is None:
        return total, True
    RunLength(total).check_initial(start, restore.paths[0])
    return total - start, False


def _step_of(restore: RestoreCheckpointConfig) -> int | None:
    """The step of an initial checkpoint; None if neither its files, here, nor its name tell."""
    from t5x_ext.checkpoints import open_source, selection
    from t5x_ext.checkpoints.directories import step_in_name

    first = restore.paths[0]
    if files.is_remote(first) or not os.path.exists(first):
        return step_in_name(first)
    path = selection.select_one(restore)
    return None if path is None else open_source(path).step


def study_setup(bound: dict[str, Any]) -> StudySetup:
    """What a whole study does; task files are read for their numbers of instances.

    Args:
        bound: the arguments that gin gives to `t5x_ext.study.study`.
    """
    from t5x_ext.data import datasets
    from t5x_ext.generation.text_models import max_tokens
    from t5x_ext.studies.arms import recipes_of
    from t5x_ext.studies.joined_rows import estimate_rows
    from t5x_ext.studies.named_data import is_named
    from t5x_ext.studies.row_counts import RowCounts
    from t5x_ext.studies.sizes import study_size

    recipe, tasks = bound["recipe"], bound.get("tasks")
    has_adapters = bound["model"].module.lora is not None
    full = [arm.name for arm in bound["arms"] if has_adapters and arm.tuning == "full"]
    arms = [arm for arm in bound["arms"] if arm.name not in full]
    superni_cfg = bound.get("superni_cfg", SuperNIConfig())
    datasets.set_context(superni_cfg, None, bound["model"].features)
    counts = RowCounts(superni_cfg, bound.get("test_examples"))
    size = study_size(
        arms,
        bound["initials"],
        recipe,
        bound.get("seeds", (0,)),
        tasks,
        counts,
        bound.get("generated", ()),
        max_tokens(bound["model"].config),
    )
    for owner, each in recipes_of(recipe, bound["initials"], arms):
        each.check_model(bound["model"], owner)
    lengths = recipe.task_feature_lengths["inputs"], recipe.task_feature_lengths["targets"]
    longest = max(
        (arm.decoding_settings.longest_output(lengths[1]) for arm in arms), default=lengths[1]
    )
    setup = Setup(
        model=bound["model"],
        partitioner=bound.get("partitioner", PjitPartitioner()),
        trainer=recipe.trainer(1),
        workload=Workload(recipe.batch_size, *lengths, recipe.pack),
        decoding=Workload(bound.get("eval_batch_size", 100), lengths[0], longest),
        microbatches_name="cells/studies.Recipe.num_microbatches",
    )
    typical_rows = None
    # Named data: a plan has no texts to estimate by, and takes every row.
    is_estimated = not any(arm.data for arm in arms) and not any(map(is_named, tasks or ()))
    if recipe.pack == bounds.PER_BATCH and is_estimated:
        names = tasks or counts.store.names("test")
        typical_rows = functools.partial(
            estimate_rows, arms, names, recipe, counts.store, setup.model.features
        )
    return StudySetup(setup, size, bound.get("experts", 1), typical_rows, tuple(full))


def _setup(flags: gin_utils.GinFlags, decoding: Decoding = Decoding()) -> Setup | StudySetup:
    """Reads the gin files of a run or of a study."""
    # Only some of the arguments matter here, so that none has to be given.
    arguments = tuple(inspect.signature(train).parameters)
    gin_utils.parse(
        flags.files, flags.bindings, flags.search_paths, train, arguments, gin_utils.NO_VOCABULARY
    )
    if "t5x_ext.study" in sys.modules:  # a gin file imports it
        bound = bound_to(sys.modules["t5x_ext.study"].study)
        if bound:
            return study_setup(bound)
    for name, function in (("t5x_ext.infer", "infer"), ("t5x_ext.eval", "evaluate")):
        bound = bound_to(getattr(sys.modules[name], function)) if name in sys.modules else {}
        if bound:
            return decoding_setup(bound, decoding)
    return train_setup(bound_to(train), decoding)


def _report(line: str) -> None:
    note(f"plan: {line}")


def _parser() -> Parser:
    parser = Parser(
        "plan",
        __doc__,
        usage="t5x_ext plan --gin_file=FILE [--gin.NAME=VALUE ...] "
        "(--topology NAME | --devices NxNAME) [options]",
        parents=[gin_utils.gin_flags()],
    )
    add = parser.add_argument
    machine = parser.add_mutually_exclusive_group(required=True)
    machine.add_argument("--topology", metavar="NAME", help="a TPU slice, such as v5e:4x4")
    machine.add_argument("--devices", metavar="NxNAME", help="GPUs of one node, such as 8xH200")
    add(
        "--price_per_chip_hour",
        type=bounds.real_flag(0),
        metavar="DOLLARS",
        help="price to use instead of the built-in one",
    )
    add(
        "--start_secs",
        type=bounds.real_flag(0),
        metavar="SECONDS",
        help="for a study: how long a process that tunes one model takes to start "
        "(default: as long as compiling takes here)",
    )
    add(
        "--groups_only",
        action="store_true",
        help="for a study: do not plan one model after the other on the whole machine, which takes "
        "about as many compilations again",
    )
    add("--decode", action="store_true", help="also plan decoding if the run does not decode")
    rows, tokens = bounds.int_flag(1, bounds.MAX_ROWS), bounds.int_flag(1, bounds.MAX_TOKENS)
    add(
        "--prompts",
        type=rows,
        metavar="N",
        help="prompts in the batch to decode (default: BATCH_SIZE)",
    )
    add(
        "--prompt_length",
        type=tokens,
        metavar="N",
        help="tokens of each prompt (default: TASK_FEATURE_LENGTHS)",
    )
    add(
        "--output_length",
        type=tokens,
        metavar="N",
        help="tokens of each output (default: TASK_FEATURE_LENGTHS)",
    )
    add(
        "--proposals",
        type=bounds.int_flag(0, 100),
        default=_PROPOSALS,
        metavar="N",
        help="propose N changes if the run does not fit (default: %(default)s)",
    )
    add(
        "--max_compiles",
        type=bounds.int_flag(0, 1000),
        default=_MAX_COMPILES,
        metavar="N",
        help="compile at most N changes to find them (default: %(default)s)",
    )
    add("--json", action="store_true", help="print one JSON object instead")
    return parser


def _use_virtual_devices(machine: Machine) -> None:
    """Lets JAX see the host only, as many times as a machine without libtpu's help has chips."""
    jax.config.update("jax_platforms", "cpu")
    if machine.topology is None:
        count = f"--xla_force_host_platform_device_count={machine.count}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; returns its exit status: 0 also where the run does not fit."""
    flags, args = gin_utils.parse_flags(_parser(), argv)
    by_devices = args.devices is not None
    machine = parse_devices(args.devices) if by_devices else parse_topology(args.topology)
    _use_virtual_devices(machine)
    said = args.prompts, args.prompt_length, args.output_length
    setup = _setup(flags, Decoding(args.decode or any(said), *said))
    price = args.price_per_chip_hour
    if isinstance(setup, StudySetup):
        study = study_plans.make_study_plan(
            setup, machine, price, args.start_secs, _report, args.groups_only
        )
        plan = study.together
    else:
        study = None
        _report(f"compiling for {machine.name}")
        plan = plans.make_plan(setup, machine, price)
    found = None
    if not plan.fits and args.proposals and plan.setup.trains:
        found = proposals.find_proposals(plan, args.proposals, args.max_compiles, _report)
    if args.json:
        record = plan.as_record() | {"proposals": _records(found)}
        show_json(record | {"study": study and study.as_record()})
        return
    text = study_tables.render(study, found) if study else tables.render(plan, found)
    show(*text.split("\n"))


def _records(found: Sequence[proposals.Proposal] | None) -> list[dict[str, Any]]:
    return [{"settings": one.settings} | one.plan.as_record() for one in found or ()]


if __name__ == "__main__":
    sys.exit(main())
