"""Evaluation as the commands do it: loss on held-out examples, decoded and scored predictions."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from t5x_ext import multihost
from t5x_ext.configs import DatasetConfig, RestoreCheckpointConfig, SuperNIConfig
from t5x_ext.data.batching import eval_batches
from t5x_ext.data.epochs import share_out
from t5x_ext.data.records import Example
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.predict import predict
from t5x_ext.decoding.prompts import check_examples
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.aggregate import over_tasks
from t5x_ext.metrics.scoring import Measured, measure
from t5x_ext.models import BaseTransformerModel
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.training.trainer import Program, Trainer


def make_decoder(
    model: BaseTransformerModel,
    partitioner: PjitPartitioner,
    cfg: DatasetConfig,
    resident_bytes: int = 0,
) -> Decoder:
    """A decoder with the batch size and lengths of a dataset config, which states both.

    Args:
      model: gives the network and the output vocabulary.
      partitioner: the mesh.
      cfg: the dataset to decode.
      resident_bytes: see `Decoder`.
    """
    assert cfg.task_feature_lengths is not None
    return Decoder(
        model,
        partitioner,
        batch_size=cfg.batch_size,
        max_input_length=cfg.task_feature_lengths["inputs"],
        max_decode_length=cfg.task_feature_lengths["targets"],
        resident_bytes=resident_bytes,
    )


def evaluate_loss(
    program: Program,
    model_params: Params,
    examples: Sequence[Example],
    cfg: DatasetConfig,
    max_batches: int | None = None,
    between: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Means per target token over the examples: 'cross_entropy', 'accuracy', ...

    Args:
      program: compiled functions.
      model_params: parameters on the program's mesh.
      examples: held-out examples; the first reference of each is the target.
      cfg: gives batch size and lengths, which are set.
      max_batches: batches to take, of the examples that `first_of_all_tasks` picks for them; None
        takes all.
      between: called before every batch; what it raises ends the evaluation.
    """
    assert cfg.task_feature_lengths is not None
    batch_size = program.partitioner.round_up_batch(cfg.batch_size)
    if max_batches is not None:
        examples = first_of_all_tasks(examples, max_batches * batch_size)
    features = program.model.features
    batches = eval_batches(features, examples, batch_size, cfg.task_feature_lengths)

    def given() -> Iterator[dict[str, np.ndarray]]:
        for _, batch in batches:
            between()
            yield batch

    return program.evaluate(model_params, given())


def predict_and_score(
    decoder: Decoder,
    model_params: Params,
    examples: Sequence[Example],
    path: str | os.PathLike[str] | None = None,
    signature: str = "",
    show_progress: bool = False,
    between: Callable[[], None] = lambda: None,
) -> tuple[Measured, dict[str, float]]:
    """Scored rows in the order given, and means over tasks in percent; see `decoding.predict`."""
    rows = predict(decoder, model_params, examples, path, signature, show_progress, between=between)
    measured = measure(rows)
    return measured, {key: score.mean for key, score in over_tasks(measured).means.items()}


class Session(NamedTuple):
    """A restored model and the examples to decode.

    Attributes:
      program: compiled loss.
      decoder: compiled decoding.
      params: parameters on the mesh.
      step: updates the parameters have seen.
      examples: the split.
      dataset_cfg: as given, with lengths.
      signature: identifies weights, prompts and settings, for resuming.
    """

    program: Program
    decoder: Decoder
    params: Params
    step: int
    examples: list[Example]
    dataset_cfg: DatasetConfig
    signature: str


def first_of_each_task(examples: Sequence[Example], count: int | None) -> list[Example]:
    """The first `count` examples of every task, in the order given; None takes all."""
    seen: Counter[str] = Counter()
    kept = []
    for example in examples:
        seen[example.task] += 1
        if count is None or seen[example.task] <= count:
            kept.append(example)
    return kept


def first_of_all_tasks(examples: Sequence[Example], count: int) -> list[Example]:
    """The first examples of every task, in proportion to the tasks' sizes, in the order given.

    Of a single task these are its first `count` examples, as in T5X. Data of several tasks lie
    there task by task, so that their first examples would speak for one or two tasks alone.
    Batches are sorted by length, so a sample has to be taken before they are made, not of them.
    """
    if len(examples) <= count:
        return list(examples)
    sizes = Counter(example.task for example in examples)
    left = dict(zip(sizes, share_out(count, list(sizes.values())), strict=True))
    kept = []
    for example in examples:
        if left[example.task]:
            left[example.task] -= 1
            kept.append(example)
    return kept


def _is_bidirectional(model: BaseTransformerModel) -> bool:
    return getattr(model, "inputs_bidirectional_attention", False)


def _sign(
    decoder: Decoder,
    dataset_cfg: DatasetConfig,
    weights: str,
    prompts: str,
    restore_cfg: RestoreCheckpointConfig,
) -> str:
    """What determines predictions, as JSON.

    What does not stand in every signature counts only where it is set.

    Args:
      decoder: how to decode, with its model.
      dataset_cfg: gives lengths.
      weights: digest of the values read.
      prompts: digest of all tokens.
      restore_cfg: gives the dtype that the values were read in.
    """
    model = decoder.model
    lora = getattr(model.module, "lora", None)
    may_be_set = {
        "lora": lora and lora.describe(),
        "quantization": getattr(model.module, "quantization", None),
        "inputs_bidirectional_attention": _is_bidirectional(model),
        "network": model.module.fingerprint,
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
) -> Iterator[Session]:
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
        mask of prompts, or the batch does not fit the mesh.
    """
    if not restore_cfg.paths:
        raise ConfigError("CHECKPOINT_PATH: not set; a checkpoint or a MODEL_DIR is needed")
    model.check_vocabulary()
    model.check_context(dataset_cfg.task_feature_lengths)
    if jax.process_count() > 1:
        # JAX's service catches it, for training runs to save. Here nothing is lost.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from t5x_ext.checkpoints import adapters, open_source, selection
    from t5x_ext.checkpoints.meta import PROMPT

    # A wrong path is refused before the data, whose imports take long.
    paths = [
        adapters.split_path(path, restore_cfg.adapter) for path in selection.select(restore_cfg)
    ]
    for path, adapter_path in paths:
        stated = adapters.bidirectional_in(open_source(path), adapter_path)
        if stated not in (None, _is_bidirectional(model)):
            raise ConfigError(
                f"DecoderOnlyModel.inputs_bidirectional_attention: {not stated}; allowed: {stated},"
                f" with which {adapter_path or path} was trained"
            )

    @functools.lru_cache(maxsize=1)  # the first one is asked for twice
    def open_adapter(path: str | None) -> adapters.Adapter | None:
        return None if path is None else adapters.open_adapter(path, model.config)

    first = open_adapter(paths[0][1])
    if first is not None:
        model = first.on(model)
    program = Program(model, partitioner, Trainer())
    abstract_params = program.abstract_params()
    from t5x_ext.data import datasets

    datasets.set_context(superni_cfg, model.output_vocabulary, model.features)
    examples = first_of_each_task(datasets.load_flat(dataset_cfg), num_examples)
    if not examples:
        raise ConfigError(
            f"{dataset_cfg.mixture_or_task_name}: split {dataset_cfg.split!r} holds no examples; "
            "allowed: a split with at least one"
        )
    if model.features.joined:
        check_examples(examples)
    dataset_cfg = datasets.with_lengths(dataset_cfg, examples)
    model.check_context(dataset_cfg.task_feature_lengths)
    decoder = make_decoder(model, partitioner, dataset_cfg)
    prompts = hashlib.sha256()
    for example in examples:
        prompts.update(example.inputs.tobytes() + b"|")
    for path, adapter_path in paths:
        adapter = open_adapter(adapter_path)
        if (adapter and adapter.lora) != (first and first.lora):
            raise ConfigError(
                f"CHECKPOINT_PATH: {adapter_path or path} has other adapters than {paths[0][0]}; "
                "allowed: checkpoints of one network"
            )
        if adapter is not None:
            adapter.warn_of_kernels(getattr(model.module, "quantization", None), path)
        weights = adapters.load_weights(
            abstract_params, path, adapter, restore_cfg.dtype, model.config
        )
        # An adapter was tuned after its base.
        tuned = (
            (adapter.path, adapter.prompt) if adapter else (path, weights.source.meta.get(PROMPT))
        )
        adapters.warn_of_prompt(*tuned, datasets.prompt_of(dataset_cfg))
        signature = _sign(decoder, dataset_cfg, weights.digest, prompts.hexdigest(), restore_cfg)
        multihost.check_same({"weights, prompts and settings": signature})
        yield Session(
            program, decoder, weights.params, weights.step, examples, dataset_cfg, signature
        )
        del weights  # before the next checkpoint comes in
