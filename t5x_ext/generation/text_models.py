"""Models and adapters as generation asks for them.

A batch goes to the model in groups of one limit and one set of stops; the model sorts each by
length, and its outputs depend on neither.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mixtures.vocabularies import Vocabulary, open_vocabulary
from t5x_ext import bounds, files
from t5x_ext.checkpoints.adapters import open_adapter
from t5x_ext.checkpoints.fingerprints import fingerprint_base
from t5x_ext.checkpoints.meta import ADAPTER
from t5x_ext.checkpoints.params import open_source
from t5x_ext.checkpoints.sources import Source
from t5x_ext.data.features import DecoderOnlyFeatures
from t5x_ext.decoding import Method
from t5x_ext.errors import ConfigError
from t5x_ext.generation.requests import Completion, CompletionRequest, TextModel
from t5x_ext.models.config import ModelConfig
from t5x_ext.text_model import Model


@dataclasses.dataclass(frozen=True, eq=False)
class Writer:
    """Who writes a text: a model, alone or with one of its adapters.

    Attributes:
        identity: of its parameters and how it computes, as a hash; files record it.
        count_tokens: of a prompt, whatever the model adds to it included.
        max_tokens: of a prompt and its answer together.
        load: gives the model. It is called when the first text is wanted: where all are written,
            no weights are read.
        adapter: name of one of the model's adapters; None for the model alone.
    """

    identity: str
    count_tokens: Callable[[str], int]
    max_tokens: int
    load: Callable[[], Model]
    adapter: str | None = None

    @classmethod
    def of(cls, model: Model, identity: str, adapter: str | None = None) -> Writer:
        """A writer of a model in memory.

        Args:
            model: decoder-only, with a vocabulary.
            identity: names its parameters, those of the adapter included.
            adapter: see `Writer`; a model that was loaded with one unnamed adapter uses that.

        Raises:
            ConfigError: the model has no vocabulary.
        """
        if model.vocabulary is None:
            raise ConfigError(f"{model.path}: has no vocabulary; allowed: a model that reads texts")
        counter = token_counter(model.vocabulary)
        return cls(identity, counter, max_tokens(model.config), lambda: model, adapter)

    def text_model(
        self, method: Method, batch_size: int, amateur: Writer | None = None
    ) -> TextModel:
        """What the stages of generation ask for.

        Args:
            method: how tokens are chosen; a `Sampling` brings its own seed.
            batch_size: answers at a time; none depends on it.
            amateur: whom a `Contrastive` method is set against. With the same `load` as this
                writer, both are rows of one batch over one copy of the base.
        """
        return TextModel(
            complete=functools.partial(self._complete, method, batch_size, amateur),
            count_tokens=self.count_tokens,
            max_tokens=self.max_tokens,
            model=self.identity,
            method=repr(method) + (f"; amateur {amateur.identity}" if amateur else ""),
        )

    def _complete(
        self,
        method: Method,
        batch_size: int,
        amateur: Writer | None,
        requests: Sequence[CompletionRequest],
    ) -> Iterator[tuple[int, Completion]]:
        if not requests:
            return
        model = self.load()
        other: Any = None
        if amateur is not None:
            other = amateur.adapter if amateur.load is self.load else amateur.load()
        groups = defaultdict(list)
        for place, request in enumerate(requests):
            groups[request.max_new_tokens, request.stops].append(place)
        for (limit, stops), places in groups.items():
            asked = [requests[place] for place in places]
            outputs = model.generate_outputs(
                [list(request.contexts) for request in asked],
                max_new_tokens=limit,
                decoding=method,
                batch_size=batch_size,
                max_input_tokens=max(1, self.max_tokens - limit),
                weights=[[math.exp(w) for w in request.log_weights] for request in asked],
                adapter=self.adapter,
                amateur=other,
                stop=stops,
                numbers=[request.number for request in asked],
            )
            for place, output in zip(places, outputs, strict=True):
                yield place, Completion(output.text or "", output.finish, output.log_prob)


class Described(NamedTuple):
    """A model without its parameters."""

    source: Source
    config: ModelConfig
    vocabulary: Vocabulary


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """How to load a model.

    Attributes:
        path: a decoder-only model of any layout.
        quantization: 'nf4', or None; see `Model.load`.
        vocabulary: a path, where the checkpoint has none.
        dtype: 'float32' or 'bfloat16', of parameters and computation.
    """

    path: str
    quantization: str | None = None
    vocabulary: str | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.quantization not in (None, "nf4"):
            raise ConfigError(f"QUANTIZATION: {self.quantization!r}; allowed: 'nf4', None")

    def describe(self) -> Described:
        """What is known of the model without reading its parameters; found out once.

        Raises:
            ConfigError: there is no checkpoint, it has no vocabulary, or is no decoder-only model.
        """
        return self._described

    @functools.cached_property
    def _described(self) -> Described:
        source = open_source(self.path)
        if source.config is None or source.config.has_encoder:
            raise ConfigError(f"{self.path}: not a decoder-only model that states its shape")
        if ADAPTER in source.meta:
            raise ConfigError(f"{self.path}: holds an adapter; allowed: its base")
        place = self.vocabulary or source.tokenizer_dir
        if place is None:
            raise ConfigError(f"{self.path}: has no vocabulary; give VOCABULARY_PATH")
        return Described(source, source.config, open_vocabulary(place))

    def counter(self) -> TextModel:
        """Counts the tokens of prompts as the model does, and writes nothing.

        Raises:
            ConfigError: see `describe`.
        """
        _, config, vocabulary = self.describe()
        counter, limit = token_counter(vocabulary), max_tokens(config)
        return TextModel(lambda requests: (), counter, limit, self.path, "none")

    def open(self, adapters: Mapping[str, str] | None = None) -> dict[str | None, Writer]:
        """Writers of the model alone, under None, and with each of its adapters, under its name.

        They share one copy of the base, which is read when the first of them writes.

        Args:
            adapters: directories of PEFT's or runs with LORA_RANK, by name.

        Raises:
            ConfigError: see `describe`; or an adapter is of another base.
        """
        named = dict(adapters or {})
        source, config, vocabulary = self.describe()
        base = fingerprint_base(source)
        for path in named.values():
            open_adapter(path, config).check_base(base, self.path)
        counter, limit = token_counter(vocabulary), max_tokens(config)

        @functools.cache
        def load() -> Model:
            return Model.load(
                self.path,
                dtype=self.dtype,
                vocabulary=self.vocabulary,
                adapters=named or None,
                quantization=self.quantization,
            )

        def writer(adapter: str | None) -> Writer:
            parts = [base, _adapter_identity(named[adapter]) if adapter else None]
            facts = repr([*parts, self.quantization, self.dtype, vocabulary.fingerprint])
            identity = hashlib.sha256(facts.encode()).hexdigest()[:16]
            return Writer(identity, counter, limit, load, adapter)

        return {name: writer(name) for name in (None, *named)}


def token_counter(vocabulary: Vocabulary) -> Callable[[str], int]:
    """Counts the tokens of prompts to a decoder-only model."""
    features = DecoderOnlyFeatures()
    return lambda text: len(features.prompt_tokens(vocabulary, text))


def max_tokens(config: ModelConfig) -> int:
    """Tokens that a prompt and its completion may have together."""
    return config.max_length or bounds.MAX_TOKENS


def _adapter_identity(adapter: str) -> str:
    """A hash of a PEFT directory's weights, or of a run's."""
    file = files.path(adapter, "ADAPTER") / "adapter_model.safetensors"
    if not files.is_file(file):
        return open_source(adapter).digest
    return hashlib.sha256(files.read_bytes(file)).hexdigest()
