"""Tells before a run whether it fits, how long it takes and what it costs.

    python -m t5x_ext.plan --gin_file=models/t5_1_1_xl.gin --gin_file=runs/plan.gin \\
        --gin.BATCH_SIZE=128 --topology v5e:4x4

Give the gin files and bindings of the run itself, or runs/plan.gin, which asks for less. The real
train step is compiled for the machine; no data is read and no accelerator is used. XL takes
minutes on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from t5x_ext import errors, gin_utils
from t5x_ext.planning import devices

_MAX_COMPILES = 6


def make_setup(bound: dict[str, Any], with_decoding: bool) -> Any:
    """Turns the arguments of `t5x_ext.train.train` into a `planning.plans.Setup`.

    Args:
        bound: the arguments that gin supplies.
        with_decoding: plan decoding of a batch as well, also where the run decodes nothing.
    """
    from t5x_ext.partitioning import PjitPartitioner
    from t5x_ext.planning.compiling import Workload
    from t5x_ext.planning.plans import Setup
    from t5x_ext.training.trainer import Trainer

    def workload(cfg: Any) -> Workload:
        lengths = cfg.task_feature_lengths
        return Workload(cfg.batch_size, lengths["inputs"], lengths["targets"], cfg.pack)

    training = bound["train_dataset_cfg"]
    decoding = bound.get("infer_eval_dataset_cfg")
    if decoding is None and with_decoding:
        decoding = training
    relative, total = bound.get("relative_steps"), bound.get("total_steps")
    return Setup(
        model=bound["model"],
        partitioner=bound.get("partitioner", PjitPartitioner()),
        trainer=bound.get("trainer_cls", Trainer)(),
        workload=workload(training),
        num_steps=total if relative is None else relative,
        decoding=decoding and dataclasses.replace(workload(decoding), pack=False),
    )


def _bound_arguments(flags: gin_utils.GinFlags) -> dict[str, Any]:
    """What the gin files give to `t5x_ext.train.train`."""
    import gin

    from t5x_ext.train import train

    gin_utils.parse(flags.files, flags.bindings, flags.search_paths, train)
    return gin.get_bindings(train)


def _report(line: str) -> None:
    print(f"plan: {line}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="t5x_ext plan",
        usage="t5x_ext plan --gin_file=FILE [--gin.NAME=VALUE ...] "
        "(--topology NAME | --devices NxNAME) [options]",
        description=__doc__.split("\n\n")[0],
        parents=[gin_utils.gin_flags()],
        allow_abbrev=False,
    )
    add = parser.add_argument
    machine = parser.add_mutually_exclusive_group(required=True)
    machine.add_argument("--topology", metavar="NAME", help="a TPU slice, such as v5e:4x4")
    machine.add_argument("--devices", metavar="NxNAME", help="GPUs of one node, such as 8xH200")
    add("--price_per_chip_hour", type=float, metavar="DOLLARS", help="default: the list price")
    add("--decode", action="store_true", help="plan decoding also where the run decodes nothing")
    add("--max_compiles", type=int, default=_MAX_COMPILES, metavar="N",
        help="changes to try where it does not fit (default: %(default)s; 0 for none)")  # fmt: skip
    add("--json", action="store_true", help="print one JSON object instead")
    return parser


def _prepare(machine: devices.Machine) -> None:
    """Sets what JAX and libtpu read from the environment; to be called before they are loaded."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if machine.topology is None:
        count = f"--xla_force_host_platform_device_count={machine.count}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0 also where the run does not fit."""
    flags, args = gin_utils.parse_flags(_parser(), argv)

    def call() -> None:
        if args.topology:
            machine = devices.parse_topology(args.topology)
        else:
            machine = devices.parse_devices(args.devices)
        _prepare(machine)
        from t5x_ext.planning import plans, proposals, tables

        setup = make_setup(_bound_arguments(flags), args.decode)
        _report(f"compiling for {machine.name}")
        plan = plans.make_plan(setup, machine, args.price_per_chip_hour)
        found = None
        if not plan.fits and args.max_compiles:
            found = proposals.find_proposals(plan, args.max_compiles, _report)
        if args.json:
            print(json.dumps(plan.as_record() | {"proposals": _records(found)}))
        else:
            print(tables.render(plan, found))

    return errors.exit_status(call)


def _records(found: Sequence[Any] | None) -> list[dict[str, Any]]:
    return [{"settings": one.settings} | one.plan.as_record() for one in found or ()]


if __name__ == "__main__":
    sys.exit(main())
