"""A `Model` as generation asks for one.

A batch goes to the model in groups of one limit and one set of stops; the model sorts each by
length, and its outputs depend on neither.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mixtures.vocabularies import open_vocabulary
from t5x_ext import files
from t5x_ext.checkpoints.fingerprints import fingerprint_base
from t5x_ext.checkpoints.params import open_source
from t5x_ext.data.features import DecoderOnlyFeatures
from t5x_ext.decoding import Method
from t5x_ext.errors import ConfigError
from t5x_ext.generation.requests import Completion, Generator, Request
from t5x_ext.text_model import Model


class Weights(NamedTuple):
    """Where a model lies; see `Model.load`."""

    path: str
    adapter: str | None = None
    quantization: str | None = None
    vocabulary: str | None = None
    dtype: str = "float32"

    def load(self) -> Model:
        """Reads the weights."""
        return Model.load(
            self.path,
            dtype=self.dtype,
            vocabulary=self.vocabulary,
            adapter=self.adapter,
            quantization=self.quantization,
        )


def describe(weights: Weights, method: Method) -> Generator:
    """A model that counts tokens and says what it is, without its parameters; it cannot complete.

    Raises:
        ConfigError: there is no checkpoint, it has no vocabulary, or is no decoder-only model.
    """
    source = open_source(weights.path)
    if source.config is None or source.config.has_encoder:
        raise ConfigError(f"{weights.path}: not a decoder-only model that states its shape")
    place = weights.vocabulary or source.tokenizer_dir
    if place is None:
        raise ConfigError(f"{weights.path}: has no vocabulary; give VOCABULARY_PATH")
    vocabulary = open_vocabulary(place)
    features = DecoderOnlyFeatures()
    identity = [fingerprint_base(source), _adapter_identity(weights.adapter), weights.quantization]
    return Generator(
        complete=_cannot_complete,
        count_tokens=lambda text: len(features.prompt_tokens(vocabulary, text)),
        max_tokens=getattr(source.config, "max_length"),  # noqa: B009 (of decoder-only configs)
        model=hashlib.sha256(repr(identity).encode()).hexdigest()[:16],
        method=repr(method),
    )


def complete_with(model: Model, method: Method, batch_size: int) -> Any:
    """What `Generator.complete` asks for: answers of a loaded model.

    Args:
        model: decodes.
        method: how tokens are chosen; a `Sampling` brings its own seed.
        batch_size: answers at a time.
    """

    def complete(requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        groups = defaultdict(list)
        for place, request in enumerate(requests):
            groups[request.max_new_tokens, request.stops].append(place)
        for (limit, stops), places in groups.items():
            asked = [requests[place] for place in places]
            context = getattr(model.config, "max_length")  # noqa: B009 (of decoder-only configs)
            outputs = model.generate_outputs(
                [list(request.contexts) for request in asked],
                max_new_tokens=limit,
                decoding=method,
                batch_size=batch_size,
                max_input_tokens=max(1, context - limit),
                weights=[[math.exp(w) for w in request.log_weights] for request in asked],
                stop=stops,
                numbers=[request.number for request in asked],
            )
            for place, output in zip(places, outputs, strict=True):
                yield place, Completion(output.text or "", output.finish, output.log_prob)

    return complete


def _adapter_identity(adapter: str | None) -> str | None:
    """A hash of a PEFT directory's weights; the path of a run."""
    if adapter is None:
        return None
    file = files.path(adapter, "ADAPTER") / "adapter_model.safetensors"
    if not files.is_file(file):
        return str(file.parent)
    return hashlib.sha256(files.read_bytes(file)).hexdigest()


def _cannot_complete(requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
    raise ValueError("a described model has no parameters")
