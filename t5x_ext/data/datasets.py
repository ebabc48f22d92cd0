"""From a `DatasetConfig` to examples and batches: the door through which commands get data."""

from __future__ import annotations

import importlib
from typing import Any

import jax

import mixtures
from t5x_ext.configs import DatasetConfig, SuperNIConfig
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.examples import load_mixture
from t5x_ext.data.records import Example, Member


def set_context(superni: SuperNIConfig, vocabulary: Any) -> None:
    """Makes `superni.*` names resolve under this configuration and vocabulary."""
    mixtures.configure(
        data_dir=superni.data_dir,
        vocabulary=vocabulary,
        split_policy=superni.split_policy,
        budget_order=superni.budget_order,
        budget_seed=superni.budget_seed,
        trim=superni.trim,
        missing=superni.missing,
    )


def load(cfg: DatasetConfig) -> list[Member]:
    """Loads and tokenises the examples a config asks for, task by task."""
    if cfg.module:
        importlib.import_module(cfg.module)
    name = mixtures.resolve(cfg.mixture_or_task_name, prompt=cfg.prompt, budget=cfg.budget)
    return load_mixture(name, cfg.split, cfg.task_feature_lengths, cfg.use_cached)


def load_flat(cfg: DatasetConfig) -> list[Example]:
    """Every example exactly once, in the order of the data."""
    return [example for member in load(cfg) for example in member.examples]


def train_batches(cfg: DatasetConfig, seed: int, members: list[Member] | None = None):
    """This host's endless training batches.

    Args:
      cfg: the dataset; `cfg.seed` wins over `seed`.
      seed: the run's seed.
      members: examples loaded before; None loads them.
    """
    return TrainBatches(
        load(cfg) if members is None else members,
        batch_size=cfg.batch_size,
        lengths=cfg.task_feature_lengths,
        pack=cfg.pack,
        seed=seed if cfg.seed is None else cfg.seed,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
    )
