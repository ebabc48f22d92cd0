"""T5X's decoder-only model: prompt and response are one sequence."""

from __future__ import annotations

import dataclasses
from typing import Any

from t5x_ext.data.features import DecoderOnlyFeatures
from t5x_ext.models import losses
from t5x_ext.models.base_model import BaseTransformerModel
from t5x_ext.models.generation import DecoderOnlyGenerator, Generator
from t5x_ext.models.network import Network
from t5x_ext.partitioning import active_partitioner


@dataclasses.dataclass(frozen=True)
class DecoderOnlyModel(BaseTransformerModel):
    """A network without an encoder; see `BaseTransformerModel` for the other fields.

    Attributes:
      vocabulary: of prompts and responses (`mixtures.vocabularies`).
      inputs_bidirectional_attention: whether the tokens of a prompt see each other whatever their
        order, as in a prefix language model: all of them, a BOS and the last token included, as in
        T5X, in training as in decoding. ALiBi then lowers keys on both sides by their distance.
      loss_on_prompt: whether the prompt's tokens count in the loss as the response's do.
    """

    module: Network
    vocabulary: Any = None
    optimizer_def: Any = None
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    loss_normalizing_factor: losses.LossNormalizingFactor = "NUM_REAL_TARGET_TOKENS"
    decode_fn: Any = None
    inputs_bidirectional_attention: bool = False
    loss_on_prompt: bool = False

    @property
    def input_vocabulary(self) -> Any:
        return self.vocabulary

    @property
    def output_vocabulary(self) -> Any:
        return self.vocabulary

    @property
    def features(self) -> DecoderOnlyFeatures:
        return DecoderOnlyFeatures(self.loss_on_prompt, self.inputs_bidirectional_attention)

    @property
    def skips_unweighted(self) -> bool:
        # On TPUs, where collectives are to be hidden under the products, no part is left to chance.
        partitioner = active_partitioner()
        on_tpu = partitioner is not None and partitioner.platform == "tpu"
        return not (self.loss_on_prompt or on_tpu)

    @property
    def generator(self) -> Generator:
        if self.module.has_cache:
            return DecoderOnlyGenerator(self.module, self.inputs_bidirectional_attention)
        from t5x_ext.models.recomputing import RecomputingDecoderOnlyGenerator

        return RecomputingDecoderOnlyGenerator(self.module, self.inputs_bidirectional_attention)
