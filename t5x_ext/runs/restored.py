"""Restored checkpoints with a split to decode or to score, as `eval` and `infer` take them."""

from __future__ import annotations

import functools
import hashlib
import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from t5x_ext import multihost
from t5x_ext.configs import DatasetConfig, RestoreCheckpointConfig, SuperNIConfig
from t5x_ext.data.records import Example
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.likelihood import Scorer
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.decoding.prompts import check_examples
from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.runs.evaluation import first_of_each_task, make_decoder
from t5x_ext.training.trainer import Program, Trainer

if TYPE_CHECKING:
    from t5x_ext.checkpoints.adapters import Adapter


class RestoredModel(NamedTuple):
    """A restored model and the examples to decode.

    Attributes:
      program: compiled loss.
      decoder: compiled decoding.
      scorer: compiled scoring of targets, in the decoder's batches.
      params: parameters on the mesh.
      step: updates the parameters have seen.
      examples: the split.
      dataset_cfg: as given, with lengths.
      signature: identifies weights, prompts and settings, for resuming.
    """

    program: Program
    decoder: Decoder
    scorer: Scorer
    params: Params
    step: int
    examples: list[Example]
    dataset_cfg: DatasetConfig
    signature: str


def _sign(
    decoder: Decoder,
    dataset_cfg: DatasetConfig,
    weights: str,
    prompts: str,
    restore_cfg: RestoreCheckpointConfig,
) -> str:
    """What determines predictions, as JSON.

    Optional settings are included only when set, so that older signatures stay valid.

    Args:
      decoder: how to decode, with its model.
      dataset_cfg: gives lengths.
      weights: digest of the values read.
      prompts: digest of all tokens.
      restore_cfg: gives the dtype that the values were read in.
    """
    model = decoder.model
    lora = model.module.lora
    own_ids = OutputIds.of(model.output_vocabulary)
    may_be_set = {
        "lora": lora and lora.describe(),
        "quantization": model.module.quantization,
        "inputs_bidirectional_attention": model.inputs_bidirectional_attention,
        "network": model.module.fingerprint,
        "eos_ids": decoder.output_ids.eos if decoder.output_ids != own_ids else None,
    }
    known = {
        "weights": weights,
        "prompts": prompts,
        "model": model.config.describe(),
        "vocabulary": model.output_vocabulary.fingerprint,
        "dtype": restore_cfg.dtype,
        "lengths": dict(dataset_cfg.task_feature_lengths or {}),
        "decoding": repr(decoder.method),
    }
    return json.dumps(known | {name: value for name, value in may_be_set.items() if value})


def restore_each(
    model: BaseTransformerModel,
    dataset_cfg: DatasetConfig,
    restore_cfg: RestoreCheckpointConfig,
    superni_cfg: SuperNIConfig,
    partitioner: PjitPartitioner,
    num_examples: int | None = None,
) -> Iterator[RestoredModel]:
    """Loads a split, and one after the other the parameters of each checkpoint that is named.

    Args:
      model: the model and its vocabularies.
      dataset_cfg: the split, batch size and lengths.
      restore_cfg: the checkpoints.
      superni_cfg: how `superni.*` names become data.
      partitioner: the mesh.
      num_examples: examples of each task; None takes all.

    Raises:
      ConfigError: no checkpoint is named, it does not fit the model, it was trained with another
        mask of prompts, its adapter is not as stated, or the batch does not fit the mesh.
    """
    if not restore_cfg.paths:
        raise ConfigError("CHECKPOINT_PATH: not set; a checkpoint or a MODEL_DIR is needed")
    model.check_vocabulary()
    model.check_context(dataset_cfg.task_feature_lengths)
    if jax.process_count() > 1:
        # JAX's service catches it, for training runs to save. Here nothing is lost.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from t5x_ext.checkpoints import adapters

    # A wrong path is refused before the data, whose imports take long.
    checkpoints = _find_checkpoints(restore_cfg, model)

    @functools.lru_cache(maxsize=1)  # the first one is asked for twice
    def open_adapter(path: str | None) -> adapters.Adapter | None:
        return None if path is None else adapters.open_adapter(path, model.config)

    first = open_adapter(checkpoints[0].adapter_path)
    if first is None:
        restore_cfg.lora.refuse_none(checkpoints[0].path)
    else:
        first.check_stated(restore_cfg.lora, model.config)
        model = first.on(model)
    program = Program(model, partitioner, Trainer())
    abstract_params = program.abstract_params()
    dataset_cfg, examples = _load_split(model, dataset_cfg, superni_cfg, num_examples)

    @functools.cache
    def programs_that_end_at(eos_ids: tuple[int, ...]) -> tuple[Decoder, Scorer]:
        decoder = make_decoder(model, partitioner, dataset_cfg, eos_ids=eos_ids)
        return decoder, Scorer.like(decoder)

    prompts = _hash_prompts(examples)
    for path, adapter_path, eos_ids in checkpoints:
        decoder, scorer = programs_that_end_at(eos_ids)
        adapter = open_adapter(adapter_path)
        if (adapter and adapter.lora) != (first and first.lora):
            raise ConfigError(
                f"CHECKPOINT_PATH: {adapter_path or path} has other adapters than "
                f"{checkpoints[0].path}; allowed: checkpoints of one network"
            )
        if adapter is not None:
            adapter.warn_of_kernels(model.module.quantization, path)
        weights = adapters.load_weights(
            abstract_params, path, adapter, restore_cfg.dtype, model.config
        )
        _warn_of_prompt(adapter, path, weights.source.meta, dataset_cfg)
        signature = _sign(decoder, dataset_cfg, weights.digest, prompts, restore_cfg)
        multihost.check_same({"weights, prompts and settings": signature})
        yield RestoredModel(
            program,
            decoder,
            scorer,
            weights.params,
            weights.step,
            examples,
            dataset_cfg,
            signature,
        )
        del weights  # before the next checkpoint comes in


class _Checkpoint(NamedTuple):
    """A checkpoint to restore.

    Attributes:
      path: of the whole model.
      adapter_path: of the adapter over it, or None.
      eos_ids: ids that end an answer by its files.
    """

    path: str
    adapter_path: str | None
    eos_ids: tuple[int, ...]


def _find_checkpoints(
    restore_cfg: RestoreCheckpointConfig, model: BaseTransformerModel
) -> list[_Checkpoint]:
    """The checkpoints that are named.

    Raises:
      ConfigError: one cannot be opened, or was trained with another mask of prompts.
    """
    from t5x_ext.checkpoints import adapters, open_source, selection
    from t5x_ext.checkpoints.meta import eos_ids_for

    found = []
    for selected in selection.select(restore_cfg):
        path, adapter_path = adapters.split_path(selected, restore_cfg.adapter)
        source = open_source(path)
        stated = adapters.bidirectional_in(source, adapter_path)
        if stated not in (None, model.inputs_bidirectional_attention):
            raise ConfigError(
                f"DecoderOnlyModel.inputs_bidirectional_attention: {not stated}; allowed: {stated},"
                f" with which {adapter_path or path} was trained"
            )
        found.append(_Checkpoint(path, adapter_path, eos_ids_for(model, source.meta)))
    return found


def _load_split(
    model: BaseTransformerModel,
    dataset_cfg: DatasetConfig,
    superni_cfg: SuperNIConfig,
    num_examples: int | None,
) -> tuple[DatasetConfig, list[Example]]:
    """The split's config, with lengths, and its examples.

    Raises:
      ConfigError: it is empty, or does not fit the model.
    """
    from t5x_ext.data import datasets

    datasets.set_context(superni_cfg, model.output_vocabulary, model.features)
    examples = first_of_each_task(datasets.load_flat(dataset_cfg), num_examples)
    if not examples:
        raise ConfigError(
            f"{dataset_cfg.mixture_or_task_name}: split {dataset_cfg.split!r} holds no examples; "
            "allowed: a split with at least one"
        )
    datasets.tell_cuts([examples], dataset_cfg)
    if model.features.joined:
        check_examples(examples)
    dataset_cfg = datasets.with_lengths(dataset_cfg, examples)
    model.check_context(dataset_cfg.task_feature_lengths)
    return dataset_cfg, examples


def _hash_prompts(examples: Sequence[Example]) -> str:
    """A digest of all tokens that are read."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.inputs.tobytes() + b"|")
    return digest.hexdigest()


def _warn_of_prompt(
    adapter: Adapter | None, path: str, meta: Mapping[str, Any], cfg: DatasetConfig
) -> None:
    """Says where a model is used with another prompt than it was tuned with.

    Args:
      adapter: over it, which was tuned later.
      path: of the whole model.
      meta: of its checkpoint.
      cfg: what it is used on.
    """
    from t5x_ext.checkpoints import adapters
    from t5x_ext.checkpoints.meta import PROMPT
    from t5x_ext.data import datasets

    used = datasets.prompt_of(cfg)
    if adapter is None:
        adapters.warn_of_prompt(path, meta.get(PROMPT), used)
    else:
        adapter.warn_of_prompt(used)
