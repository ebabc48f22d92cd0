"""Keys of initial models: the hash of what determines their parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mixtures
from mixtures.budgets import parse_budget
from mixtures.names import find_scope
from mixtures.prompts import get_prompt
from t5x_ext.checkpoints import fingerprint, open_source
from t5x_ext.checkpoints.meta import eos_ids_for
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel
from t5x_ext.studies.cells import RESULT_VERSION, digest
from t5x_ext.studies.recipes import InitialModel
from t5x_ext.studies.task_data import TaskData


def key_initials(
    initials: Mapping[str, InitialModel],
    described_model: Mapping[str, Any],
    policies: Mapping[str, Any],
    data: TaskData,
    further_eos_ids: Callable[[str], Sequence[int]] = lambda path: (),
) -> dict[str, str]:
    """A key per initial model: of its weights if it is given by path, else of how it is made.

    Args:
      initials: initial models by name.
      described_model: the model settings that determine results (`cells.describe_model`).
      policies: how task files become examples.
      data: gives the fingerprints of task files.
      further_eos_ids: path -> ids that end an answer by the files of a checkpoint, besides those
        of the vocabulary. Keys of checkpoints that have none are what they always were.

    Raises:
      ConfigError: a `base` is unknown or goes in a circle, or a checkpoint is missing.
    """
    keys: dict[str, str] = {}

    def key_of(name: str, seen: tuple[str, ...]) -> str:
        if name in seen:
            raise ConfigError(f"InitialModel {name}: bases form a circle: {' -> '.join(seen)}")
        if name not in initials:
            raise ConfigError(
                f"InitialModel {seen[-1]}: base {name!r} is not among the study's; "
                f"known: {', '.join(initials)}"
            )
        if name not in keys:
            keys[name] = make_key(initials[name], (*seen, name))
        return keys[name]

    def make_key(initial: InitialModel, seen: tuple[str, ...]) -> str:
        if initial.path:
            given: dict[str, Any] = {"weights": fingerprint(initial.path)}
            if ends := further_eos_ids(initial.path):
                given["eos_ids"] = [*ends]
            return digest(given)
        base = key_of(initial.base, seen) if initial.base else f"random {initial.seed}"
        made: dict[str, Any] = {"version": RESULT_VERSION, "base": base, "model": described_model}
        if initial.data:
            made |= {
                "data": data.fingerprint_named(initial.data),
                "prompt": initial.prompt and get_prompt(initial.prompt).versioned_name,
                "recipe": initial.recipe.describe(),
                "seed": initial.seed,
            }
        elif initial.scope:
            store = mixtures.current_context().store
            made |= {
                "data": data.fingerprint(find_scope(initial.scope, store).tasks),
                "prompt": get_prompt(initial.prompt or "").versioned_name,
                "budget": parse_budget(initial.budget).name,
                "recipe": initial.recipe.describe(),
                "seed": initial.seed,
                "policies": policies,
            }
        return digest(made)

    for name in initials:
        key_of(name, ())
    return keys


def find_further_eos_ids(model: BaseTransformerModel, path: str) -> tuple[int, ...]:
    """Ids that end an answer by the files of a checkpoint, besides those of the vocabulary."""
    own = OutputIds.of(model.output_vocabulary)
    every = own.ending_also_at(eos_ids_for(model, open_source(path).meta))
    return every.eos[len(own.eos) :]
