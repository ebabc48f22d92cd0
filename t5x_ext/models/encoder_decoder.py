"""T5X's encoder-decoder model: prompts are encoded, targets are decoded."""

from __future__ import annotations

import dataclasses
from typing import Any

from t5x_ext.data.features import EncoderDecoderFeatures
from t5x_ext.models import losses
from t5x_ext.models.base_model import BaseTransformerModel
from t5x_ext.models.generation import EncoderDecoderGenerator, Generator
from t5x_ext.models.network import Network


@dataclasses.dataclass(frozen=True)
class EncoderDecoderModel(BaseTransformerModel):
    """A network with an encoder; see `BaseTransformerModel` for the fields."""

    module: Network
    input_vocabulary: Any = None
    output_vocabulary: Any = None
    optimizer_def: Any = None
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    loss_normalizing_factor: losses.LossNormalizingFactor = "NUM_REAL_TARGET_TOKENS"
    decode_fn: Any = None

    @property
    def features(self) -> EncoderDecoderFeatures:
        return EncoderDecoderFeatures()

    @property
    def generator(self) -> Generator:
        if self.module.has_cache:
            return EncoderDecoderGenerator(self.module)
        from t5x_ext.models.recomputing import RecomputingEncoderDecoderGenerator

        return RecomputingEncoderDecoderGenerator(self.module)
