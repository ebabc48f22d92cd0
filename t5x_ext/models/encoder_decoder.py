"""T5X's encoder-decoder model: prompts are encoded, targets are decoded."""

from __future__ import annotations

import dataclasses
from typing import Any

from t5x_ext.data.features import EncoderDecoderFeatures
from t5x_ext.models.base_model import BaseTransformerModel
from t5x_ext.models.generation import EncoderDecoderGenerator
from t5x_ext.models.network import Network


@dataclasses.dataclass(frozen=True)
class EncoderDecoderModel(BaseTransformerModel):
    """A network with an encoder; see `BaseTransformerModel`.

    Attributes:
      input_vocabulary: vocabulary of prompts (`mixtures.vocabularies`).
      output_vocabulary: vocabulary of targets and predictions.
    """

    module: Network
    input_vocabulary: Any = None
    output_vocabulary: Any = None
    optimizer_def: Any = None

    @property
    def features(self) -> EncoderDecoderFeatures:
        return EncoderDecoderFeatures()

    @property
    def generator(self) -> EncoderDecoderGenerator:
        return EncoderDecoderGenerator(self.module)
