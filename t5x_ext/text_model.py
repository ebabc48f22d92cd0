"""A model for Python and notebooks: weights, vocabulary and devices behind text in, text out.

from t5x_ext import Model

model = Model.load("downloads/flan-t5-base")        # or a MODEL_DIR, or a T5X checkpoint
model.generate(["Translate to German: My name is Arthur."])
model.score(["Is the sky blue?"], ["yes"])          # log-probabilities
"""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mixtures.vocabularies import Vocabulary, open_vocabulary, save_tokenizer
from t5x_ext import files
from t5x_ext.accelerators import skip_absent_tpu
from t5x_ext.checkpoints import hugging_face, own_layout, t5x_layout, trees
from t5x_ext.checkpoints.adapters import (
    bidirectional_in,
    open_adapter,
    place,
    split_path,
    stack,
)
from t5x_ext.checkpoints.fingerprints import fingerprint_base
from t5x_ext.checkpoints.meta import ADAPTER, eos_ids_in
from t5x_ext.checkpoints.params import hash_params, load, open_source
from t5x_ext.checkpoints.sources import BIDIRECTIONAL, Index, LazyTensor, Source
from t5x_ext.decoding.calls import Calls
from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel, DecoderOnlyModel, EncoderDecoderModel, network
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.lora import DEFAULT, LoRA
from t5x_ext.models.parameters import Params, join, select, without
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.training.state import abstract_params

LAYOUTS = ("t5x_ext", "hf", "t5x")


@dataclasses.dataclass(frozen=True, eq=False)
class Model(Calls):
    """Parameters on devices, with what turns text into their inputs.

    Attributes:
      config: shape and numerics of the network.
      params: nested dict of arrays, see `Network.specs`.
      vocabulary: of prompts and answers; None if the checkpoint has none: only calls with token
        ids work then.
      partitioner: the mesh that `params` live on.
      path: the checkpoint they come from.
      step: updates they have seen; 0 if the checkpoint does not say.
      meta: what the checkpoint says of itself.
      adapters: names of the adapters that `params` hold besides, in their order; adapter 0, without
        a name, is none.
      default_adapter: the one of them that calls use which name none; None for none.
      lora: which layers they are on; None without.
      quantization: of the kernels of layers, 'nf4' or None.
      inputs_bidirectional_attention: see `DecoderOnlyModel`. What the checkpoint was trained with,
        if it says so; with adapters what they were, for rows of the base alone too.
    """

    config: ModelConfig
    params: Params
    vocabulary: Vocabulary | None
    partitioner: PjitPartitioner
    path: str = ""
    step: int = 0
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    adapters: Sequence[str] = ()
    lora: LoRA | None = None
    quantization: str | None = None
    inputs_bidirectional_attention: bool = False
    default_adapter: str | None = None

    @classmethod
    def load(
        cls,
        path: str,
        dtype: str = "float32",
        vocabulary: Vocabulary | files.StrPath | None = None,
        partitioner: PjitPartitioner | None = None,
        adapter: str | None = None,
        adapters: Mapping[str, str] | None = None,
        quantization: str | None = None,
    ) -> Model:
        """Loads a model of any layout onto the devices at hand.

        Args:
          path: what INITIAL_CHECKPOINT_PATH takes: a Hugging Face directory, a checkpoint of T5X,
            one of ours, or a MODEL_DIR (its newest checkpoint).
          dtype: 'float32' or 'bfloat16', of parameters and computation. bfloat16 halves the memory
            and is what accelerators are fast at; norms, softmax and logits stay float32.
          vocabulary: a vocabulary, or a path for `vocabularies.open_vocabulary`. None is the one
            next to the weights.
          partitioner: how to use several devices. None gives each a whole copy of the parameters
            and a part of every batch; `PjitPartitioner(fsdp=8)` splits the parameters over 8.
          adapter: a directory of PEFT's or a run with LoRA. All calls use it that name no other.
          adapters: several of them by name, over parameters that are held once. Calls say which
            each row uses; those that do not use none.
          quantization: 'nf4' holds the kernels of layers in four bits a number; None as they are.

        Raises:
          ConfigError: there is no checkpoint, or it does not state its shape, or an adapter is of
            another base, or no directory.
          mixtures.errors.DataError: the vocabulary cannot be read.
        """
        if dtype not in trees.DTYPES:
            raise ConfigError(f"Model.load: dtype: {dtype!r}; allowed: {', '.join(trees.DTYPES)}")
        if adapter is not None and adapters is not None:
            raise ConfigError("Model.load: adapter and adapters; allowed: one of them")
        if adapters is None:
            path, adapter = split_path(path, _checked("adapter", adapter))
            named = {} if adapter is None else {DEFAULT: adapter}
        else:
            named = _checked_names(adapters)
        source = open_source(path)
        if ADAPTER in source.meta:
            base = source.meta[ADAPTER]["base"]["path"]
            raise ConfigError(
                f"{path}: holds an adapter itself; with adapters, allowed: its base, {base}"
            )
        if source.config is None:
            raise ConfigError(
                f"{path}: does not state its model's shape; allowed: Hugging Face directories, T5X"
                " checkpoints, and what `convert` and runs of this version write"
            )
        vocabulary = source.tokenizer_dir if vocabulary is None else vocabulary
        if isinstance(vocabulary, str | os.PathLike):
            vocabulary = open_vocabulary(os.fspath(vocabulary))
        if vocabulary is not None and not hasattr(vocabulary, "vocab_size"):
            raise ConfigError(
                f"Model.load: vocabulary: {vocabulary!r:.60}; allowed: a path or a vocabulary"
            )
        config = source.config.replace(dtype=dtype)
        if partitioner is None:
            skip_absent_tpu()
            partitioner = PjitPartitioner()
        _described(config, vocabulary).check_vocabulary()
        loaded = {name: open_adapter(where, config) for name, where in named.items()}
        lora, stacked = stack([*loaded.values()], config) if loaded else (None, {})
        bidirectional = _is_bidirectional(source, named)
        described = _described(config, vocabulary, lora, len(loaded) + 1, quantization)
        wanted = abstract_params(described, partitioner)
        base = without(stacked, wanted)
        params, source = load(path, base, dtype)
        fingerprint = fingerprint_base(source) if loaded else ""
        for each in loaded.values():
            each.check_base(fingerprint, path)
            each.warn_of_kernels(quantization, path)
        params = join(params, place(stacked, select(stacked, wanted)))
        return cls(
            config,
            params,
            vocabulary,
            partitioner,
            source.path,
            max([source.step, *(each.step for each in loaded.values())]),
            source.meta,
            tuple(loaded),
            lora,
            quantization,
            bidirectional,
            DEFAULT if adapters is None and loaded else None,
        )

    def save(self, path: str, layout: str = "t5x_ext") -> None:
        """Writes parameters, config and vocabulary; complete or absent.

        Args:
          path: directory to create.
          layout: 't5x_ext' (ours), 'hf' (for `transformers`) or 't5x'.

        Raises:
          ConfigError: `path` exists, or the layout is none of these.
        """
        if layout not in LAYOUTS:
            raise ConfigError(f"Model.save: layout {layout!r}; allowed: {', '.join(LAYOUTS)}")
        if self.adapters or self.quantization:
            raise ConfigError(
                "Model.save: this one has adapters or quantised kernels; allowed: `t5x_ext convert "
                "--merge_into`, which says what merging changes"
            )
        with tempfile.TemporaryDirectory() as tokenizer_dir:
            if self.vocabulary is not None:
                save_tokenizer(self.vocabulary, tokenizer_dir)
            source = self._as_source(None if self.vocabulary is None else tokenizer_dir)
            if layout == "hf":
                hugging_face.write_hf(source, path)
            elif layout == "t5x":
                t5x_layout.write_t5x(source, path, scan_layers=False)
            else:
                own_layout.write_params(source, path)

    def _as_source(self, tokenizer_dir: str | None) -> Source:
        """This model as the writers see a checkpoint: arrays leave the devices one by one."""
        leaves = trees.named_leaves(self.params)
        meta = dict(self.meta)
        if self.inputs_bidirectional_attention or BIDIRECTIONAL in meta:
            meta[BIDIRECTIONAL] = self.inputs_bidirectional_attention
        return Source(
            kind="t5x_ext",
            path=self.path,
            tensors={
                name: LazyTensor(leaf.shape, np.dtype(leaf.dtype), _reader(leaf))
                for name, leaf in leaves.items()
            },
            config=self.config,
            step=self.step,
            digest_fn=lambda: hash_params(leaves),
            meta=meta,
            tokenizer_dir=tokenizer_dir,
        )

    @property
    def _stated_eos_ids(self) -> tuple[int, ...]:
        # T5's is its vocabulary's, which users replace by their own.
        if self.config.has_encoder and self.vocabulary is not None:
            return ()
        return eos_ids_in(self.meta)

    @functools.cached_property
    def _described(self) -> BaseTransformerModel:
        count = len(self.adapters) + 1
        model = _described(self.config, self.vocabulary, self.lora, count, self.quantization)
        if not isinstance(model, DecoderOnlyModel):
            return model
        bidirectional = self.inputs_bidirectional_attention
        return model.replace(inputs_bidirectional_attention=bidirectional)


def _described(
    config: ModelConfig,
    vocabulary: Vocabulary | None,
    lora: LoRA | None = None,
    num_adapters: int = 1,
    quantization: str | None = None,
) -> BaseTransformerModel:
    module = network.Transformer(config, lora, num_adapters if lora else None, quantization)
    if config.has_encoder:
        return EncoderDecoderModel(module, vocabulary, vocabulary)
    return DecoderOnlyModel(module, vocabulary)


def _checked(argument: str, path: Any) -> str | None:
    if path is not None and not isinstance(path, str | os.PathLike):
        raise ConfigError(f"Model.load: {argument}: {path!r}; allowed: a directory")
    return None if path is None else os.fspath(path)


def _checked_names(adapters: Any) -> dict[str, str]:
    """The directories of adapters by name.

    Raises:
      ConfigError: the value does not name directories.
    """
    if not isinstance(adapters, Mapping) or not all(
        isinstance(name, str) and name for name in adapters
    ):
        raise ConfigError(f"Model.load: adapters: {adapters!r:.60}; allowed: directories by name")
    named = {}
    for name, value in adapters.items():
        path = _checked(f"adapters[{name!r}]", value)
        if path is None:
            raise ConfigError(f"Model.load: adapters[{name!r}]: None; allowed: a directory")
        named[name] = path
    return named


def _is_bidirectional(source: Source, adapters: Mapping[str, str]) -> bool:
    """What a checkpoint says of its prompts, or the adapters over it.

    Raises:
      ConfigError: they say different things.
    """
    places: list[str | None] = [*adapters.values()] or [None]
    stated = {bool(bidirectional_in(source, adapter)) for adapter in places}
    if len(stated) > 1:
        raise ConfigError(
            f"Model.load: adapters {', '.join(adapters)} were tuned with and without "
            f"{BIDIRECTIONAL}; allowed: those of one kind"
        )
    return stated.pop()


def _reader(leaf: jax.Array) -> Any:
    def read(index: Index) -> np.ndarray:
        return np.ascontiguousarray(leaf[index])

    return read
