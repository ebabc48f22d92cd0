"""From a `DatasetConfig` to examples and batches: the door through which commands get data."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import mixtures.lookup
from mixtures.tasks import RowTask
from t5x_ext import multihost
from t5x_ext.configs import DatasetConfig, SuperNIConfig
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.cuts import cut_lines, joined_cuts
from t5x_ext.data.features import Features
from t5x_ext.data.opening import UNCUT, load_examples, open_members
from t5x_ext.data.records import Example
from t5x_ext.data.tables import ExampleTable, JoinedTable, as_table
from t5x_ext.errors import ConfigError
from t5x_ext.terminal import note


def set_context(superni: SuperNIConfig, vocabulary: Any, features: Features | None = None) -> None:
    """Makes `superni.*` names resolve under this configuration, vocabulary and kind of model."""
    mixtures.configure(
        data_dir=superni.data_dir,
        vocabulary=vocabulary,
        split_policy=superni.split_policy,
        budget_order=superni.budget_order,
        budget_seed=superni.budget_seed,
        trim=superni.trim,
        missing=superni.missing,
        joined=features is not None and features.joined,
    )


def _checked_name(cfg: DatasetConfig) -> str:
    """The registered name of a config's data, which has its split and the model's vocabulary."""
    name = resolve(cfg)
    if not has_split(cfg):
        raise ConfigError(f"{cfg.mixture_or_task_name}: no split {cfg.split!r}; {_splits_of(cfg)}")
    _check_vocabularies(name)
    return name


def with_lengths(cfg: DatasetConfig, examples: Sequence[Example]) -> DatasetConfig:
    """The same config with task_feature_lengths: those given, else the longest of the examples."""
    if cfg.task_feature_lengths is not None:
        return cfg
    table = as_table(examples)
    columns = {"inputs": table.input_lengths, "targets": table.target_lengths}
    lengths = {side: int(column.max(initial=2)) for side, column in columns.items()}
    return dataclasses.replace(cfg, task_feature_lengths=lengths)


def tell_cuts(parts: Iterable[Sequence[Example]], cfg: DatasetConfig) -> None:
    """Says how many prompts and targets of each task do not fit the config's lengths.

    Args:
      parts: the examples.
      cfg: what they were opened by.
    """
    if multihost.is_primary():
        cuts = joined_cuts(as_table(part).cuts for part in parts)
        note(*cut_lines(cuts, cfg.task_feature_lengths, cfg.split))


def has_split(cfg: DatasetConfig) -> bool:
    """Whether the data of a config has the split it names."""
    return cfg.split in mixtures.lookup.find(resolve(cfg)).splits


def _splits_of(cfg: DatasetConfig) -> str:
    allowed = ", ".join(sorted(mixtures.lookup.find(resolve(cfg)).splits))
    own, is_own, _ = cfg.mixture_or_task_name.rpartition(".jsonl")
    return f"allowed: {allowed}" + (f"; expected as {own}.{cfg.split}.jsonl" if is_own else "")


def import_tasks(module: str | None) -> None:
    """Imports the module that MIXTURE_OR_TASK_MODULE names, for what it registers; None is none.

    Raises:
      ConfigError: there is no such module. What it raises itself passes through.
    """
    if module is None:
        return
    allowed = "a module on Python's path (PYTHONPATH), such as my_project.my_tasks"
    if not isinstance(module, str) or not all(module.split(".")):
        raise ConfigError(f"MIXTURE_OR_TASK_MODULE: {module!r}; allowed: {allowed}")
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        # The module may miss another one. Then the traceback says where it asks for it.
        if not error.name or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"MIXTURE_OR_TASK_MODULE: {module!r}: no such module; allowed: {allowed}"
        ) from None


def resolve(cfg: DatasetConfig) -> str:
    """The registered SeqIO name of a config's data, its module imported."""
    import_tasks(cfg.module)
    return mixtures.resolve(cfg.mixture_or_task_name, prompt=cfg.prompt, budget=cfg.budget)


def prompt_of(cfg: DatasetConfig) -> str | None:
    """The name of the prompt that a config's rows are written with; None if a task has none."""
    resolve(cfg)
    return mixtures.lookup.prompt_of(cfg.mixture_or_task_name, cfg.prompt)


def _check_vocabularies(name: str) -> None:
    """Refuses tasks whose ids mean other pieces than the model's (names of ours never do)."""
    provider = mixtures.lookup.find(name)
    if isinstance(provider, RowTask):
        return
    wanted = mixtures.current_context().vocabulary.as_seqio()
    for task in getattr(provider, "tasks", [provider]):
        for side in ("inputs", "targets"):
            vocabulary = task.output_features[side].vocabulary
            if vocabulary != wanted:
                raise ConfigError(
                    f"{task.name}: its {side} use {vocabulary}, the model uses {wanted}; "
                    "allowed: the same vocabulary (macro VOCABULARY)"
                )


def load_flat(cfg: DatasetConfig) -> list[Example]:
    """Every example a config asks for exactly once, in the order of the data, in memory.

    Raises:
      ConfigError: there is no such split, or a task was registered with another vocabulary than
        the model's; see also `open_members`.
      mixtures.errors.DataError: the name or its data is wrong.
    """
    lengths = cfg.task_feature_lengths or UNCUT
    return load_examples(_checked_name(cfg), cfg.split, lengths, cfg.use_cached)


def open_flat(cfg: DatasetConfig) -> ExampleTable:
    """Like `load_flat`, but examples beyond `memory_limit_bytes` are on disk, without their texts.

    Raises:
      ConfigError: see `load_flat`, like the next.
      mixtures.errors.DataError: see there.
    """
    lengths = cfg.task_feature_lengths or UNCUT
    members = open_members(
        _checked_name(cfg), cfg.split, lengths, cfg.use_cached, cfg.memory_limit_bytes
    )
    return JoinedTable([member.examples for member in members])


def train_batches(
    cfg: DatasetConfig,
    features: Features,
    seed: int,
    host_rows: Callable[[int], tuple[int, int]] | None = None,
    multiple: int = 1,
) -> TrainBatches:
    """This host's endless training batches.

    Args:
      cfg: the dataset; `cfg.seed` wins over `seed`.
      features: what a batch holds.
      seed: the run's seed.
      host_rows: the rows of a batch that this host needs; see `TrainBatches`.
      multiple: see `TrainBatches`.

    Raises:
      ConfigError: see `load_flat` and `TrainBatches`.
      mixtures.errors.DataError: the name or its data is wrong.
    """
    assert cfg.task_feature_lengths is not None  # the command refuses that
    seed = seed if cfg.seed is None else cfg.seed
    members = open_members(
        _checked_name(cfg),
        cfg.split,
        cfg.task_feature_lengths,
        cfg.use_cached,
        cfg.memory_limit_bytes,
        draw_seed=seed,
    )
    return TrainBatches(
        members,
        batch_size=cfg.batch_size,
        lengths=cfg.task_feature_lengths,
        pack=cfg.pack,
        seed=seed,
        host_rows=host_rows,
        shuffle=cfg.shuffle,
        features=features,
        multiple=multiple,
    )
