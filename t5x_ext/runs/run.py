"""One training run in one directory: start or resume, train, log, evaluate, save.

`train` runs it as a gin file says; a study runs it for its initial models.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from t5x_ext import multihost
from t5x_ext.checkpoints import Checkpointer, PreemptionGuard, load, selection
from t5x_ext.checkpoints.best import Best
from t5x_ext.checkpoints.meta import ADAPTER, CONFIG, carried_eos_ids, eos_ids_for, eos_ids_in
from t5x_ext.checkpoints.sources import BIDIRECTIONAL
from t5x_ext.configs import CheckpointConfig
from t5x_ext.data.batching import TrainBatches
from t5x_ext.models import DecoderOnlyModel, parameters
from t5x_ext.models.families import FAMILIES, config_to_json
from t5x_ext.runs import adapters
from t5x_ext.runs.evaluation_hook import Evaluation, EvaluationHook, evaluation_line
from t5x_ext.runs.hooks import LogHook, SaveHook
from t5x_ext.terminal import note
from t5x_ext.training.actions import BaseAction, restore_states, saved_states
from t5x_ext.training.logs import MetricLog
from t5x_ext.training.nonfinite import FiniteCheck
from t5x_ext.training.state import TrainState
from t5x_ext.training.trainer import Program, StepEvent, train_loop

ACTIONS, EVALUATION_DUE = "actions", "evaluation_due"  # in the meta of a run's checkpoints


def run_training(
    program: Program,
    batches: TrainBatches,
    model_dir: str,
    last_step: Callable[[int], int],
    checkpoint_cfg: CheckpointConfig,
    random_seed: int,
    meta: dict[str, Any],
    stats_period: int = 100,
    evaluation: Evaluation = Evaluation(),
    on_start: Callable[[MetricLog | None, int], None] = lambda log, step: None,
    hooks: Sequence[Callable[[StepEvent], bool | None]] = (),
    actions: Mapping[str, Sequence[BaseAction]] = MappingProxyType({}),
    wandb_project: str | None = None,
) -> tuple[TrainState, bool]:
    """Trains until the last step, or until SIGTERM.

    A run that finds checkpoints in `model_dir` resumes from the newest, data position included.

    Args:
      program: compiled functions.
      batches: training data; moved to the saved position when the run resumes.
      model_dir: directory of the run, created if absent; refused while another run uses it.
      last_step: step of the initial checkpoint -> step at which the run ends.
      checkpoint_cfg: where a new run starts, what is kept.
      random_seed: of initial values and dropout.
      meta: JSON kept with every checkpoint.
      stats_period: steps between progress lines and logged metrics.
      evaluation: what to evaluate.
      on_start: called with the log (None but on the primary process) and the first step, once the
        directory is this run's own and the start has been restored.
      hooks: called after every step, before saving; where one answers True, the run ends. With
        several processes all have to answer the same.
      actions: see `training.actions.BaseAction`.
      wandb_project: project of Weights & Biases to log to as well; None for none.

    Returns:
      The last state, and whether the run reached an end (False after SIGTERM).
    """
    multihost.check_same({"training data": json.dumps(batches.state())})
    save = checkpoint_cfg.save
    best = Best(*save.best) if save and save.best else None
    evaluation.check_best(best)
    checkpointer = Checkpointer(
        model_dir,
        keep=save.keep if save else None,
        save_period=save.period if save else None,
        save_dtype=save.dtype if save else None,
        checksums=save.checksums if save else True,
        best=best,
    )
    interrupted = False

    with contextlib.closing(batches), checkpointer, PreemptionGuard() as guard:
        base = adapters.load_base(program, checkpoint_cfg.restore)
        state, carried = _start(
            program, checkpoint_cfg, checkpointer, batches, random_seed, model_dir, base, actions
        )
        first, last = int(state.step), last_step(carried.initial_step)
        if carried.has_ended:
            multihost.say(
                f"step {first}: one of train.actions has ended the run; nothing is left to do"
            )
            last = first
        elif carried.is_resumed and first >= last and not carried.evaluation_due:
            multihost.say(f"step {first}: the run has ended; nothing is left to do")
        multihost.check_same({"start": f"step {first}, data at {json.dumps(batches.state())}"})
        frozen = base.params if base else {}
        may_skip = program.trainer.skip_nonfinite_steps
        finite = FiniteCheck(may_skip, carried.skipped_steps, multihost.say)
        metric_log = MetricLog(model_dir, first, wandb_project) if multihost.is_primary() else None
        log = LogHook(metric_log, first, last, stats_period, actions, finite if may_skip else None)
        ends = carried.eos_ids
        evaluating = EvaluationHook(
            program, log, evaluation, last, actions, guard.should_stop, ends
        )

        def interrupt() -> bool:
            nonlocal interrupted
            interrupted = evaluating.interrupted or guard.should_stop()
            return interrupted

        def describe_progress() -> dict[str, Any]:
            found: dict[str, Any] = {ACTIONS: saved_states(actions)} if actions else {}
            return found | {EVALUATION_DUE: evaluating.interrupted}

        facts = meta | {"initial_step": carried.initial_step, "random_seed": random_seed}
        facts |= _described(program, base) | carried_eos_ids(carried.eos_ids)
        saving = SaveHook(checkpointer, save, batches, finite, log, facts, describe_progress)
        with log:
            on_start(metric_log, first)
            started = time.monotonic()
            if carried.evaluation_due or (evaluation.before_training and not carried.is_resumed):
                if evaluating.evaluate(StepEvent(first, state, {}, None, frozen)):
                    last = first
            if carried.evaluation_due and not evaluating.interrupted:
                saving.add_evaluation(first)
            state = train_loop(
                program,
                state,
                batches,
                last,
                jax.random.fold_in(jax.random.key(random_seed), 1),
                [finite, log, evaluating, *hooks, saving],
                interrupt,
                frozen,
            )
            finite.check(state.params)
            if evaluating.seconds and multihost.is_primary():
                note(evaluation_line(evaluating.seconds, time.monotonic() - started))
            saving.save(StepEvent(int(state.step), state, {}, None), force=True)
    if save is not None:
        multihost.say(f"checkpoint -> {os.path.join(model_dir, f'checkpoint_{int(state.step)}')}")
        if best is not None and checkpointer.best_step() is not None:
            multihost.say(f"best by {best.metric}: checkpoint_{checkpointer.best_step()}")
    return state, not (interrupted or evaluating.interrupted)


class _Carried(NamedTuple):
    """What a run carries from checkpoint to checkpoint besides its state.

    Attributes:
      initial_step: step of the checkpoint that it began with.
      skipped_steps: steps left out since.
      is_resumed: whether the run goes on in its own directory.
      has_ended: whether one of its actions has ended it.
      evaluation_due: whether the evaluation after its last step was given up.
      eos_ids: ids that end an answer by the files of that checkpoint, or of its base.
    """

    initial_step: int
    skipped_steps: int = 0
    is_resumed: bool = False
    has_ended: bool = False
    evaluation_due: bool = False
    eos_ids: tuple[int, ...] = ()


def _start(
    program: Program,
    checkpoint_cfg: CheckpointConfig,
    checkpointer: Checkpointer,
    batches: TrainBatches,
    random_seed: int,
    model_dir: str,
    base: adapters.Base | None,
    actions: Mapping[str, Sequence[BaseAction]],
) -> tuple[TrainState, _Carried]:
    """The state to go on from, and what else the run carries along."""
    abstract = program.abstract_state()
    check = functools.partial(adapters.check_resumed, model_dir, base)
    restored = checkpointer.restore(abstract, check=check)
    if restored is not None:
        batches.restore(restored.data_state)
        step = int(restored.state.step)
        multihost.say(f"resuming at step {step}: parameters, optimizer and data")
        meta = restored.meta
        return restored.state, _Carried(
            meta["initial_step"],
            meta.get("skipped_steps", 0),
            is_resumed=True,
            has_ended=restore_states(actions, meta.get(ACTIONS, {})),
            evaluation_due=meta.get(EVALUATION_DUE, False),
            # Of adapters that were begun before runs kept them, the base has them still.
            eos_ids=base.eos_ids if base is not None else eos_ids_in(meta),
        )
    if base is not None:
        state = adapters.start(program, checkpoint_cfg.restore, random_seed, base)
        return state, _Carried(base.step, eos_ids=base.eos_ids)
    path = selection.select_one(checkpoint_cfg.restore)
    if path is None:
        count = parameters.count_params(program.model.specs)
        multihost.say(f"starting from random parameters ({count:,}), seed {random_seed}")
        return program.init_state(jax.random.key(random_seed)), _Carried(0)
    initial, source = load(path, abstract.params, config=program.model.config)
    multihost.say(f"starting from {path} (step {source.step}): parameters only, a new optimizer")
    carried = _Carried(source.step, eos_ids=eos_ids_for(program.model, source.meta))
    return program.state_from_params(initial, source.step), carried


def _described(program: Program, base: adapters.Base | None) -> dict[str, Any]:
    """The model's description that every checkpoint stores."""
    config = program.model.config
    # What the code of a user builds, no checkpoint can describe.
    found: dict[str, Any] = {CONFIG: config_to_json(config)} if config.family in FAMILIES else {}
    if isinstance(program.model, DecoderOnlyModel):
        found[BIDIRECTIONAL] = program.model.inputs_bidirectional_attention
    return found | ({ADAPTER: base.describe()} if base is not None else {})
