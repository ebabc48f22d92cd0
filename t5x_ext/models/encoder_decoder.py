"""A model to train: network, vocabularies, optimizer and loss settings under T5X's names."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from t5x_ext.errors import ConfigError
from t5x_ext.models import losses, network, params
from t5x_ext.models.output_loss import OutputLoss, output_loss_sums
from t5x_ext.models.params import Params


@dataclasses.dataclass(frozen=True)
class EncoderDecoderModel:
    """Everything about a T5 that does not change while it trains.

    Attributes:
      module: `network.Transformer`, the network and its config.
      input_vocabulary: vocabulary of prompts (`mixtures.vocabularies`).
      output_vocabulary: vocabulary of targets and predictions.
      optimizer_def: `training.optimizers.Adafactor` or `AdamW`.
      z_loss: factor of log(Z)^2.
      label_smoothing: in [0, 1).
      loss_normalizing_factor: see `losses.loss_denominator`.
      decode_fn: how predictions are decoded: a method of `t5x_ext.decoding`, or T5X's
        `decoding.beam_search` or `decoding.temperature_sample`; None is greedy.
    """

    module: network.Transformer
    input_vocabulary: Any = None
    output_vocabulary: Any = None
    optimizer_def: Any = None
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    loss_normalizing_factor: losses.LossNormalizingFactor = "NUM_REAL_TARGET_TOKENS"
    decode_fn: Any = None

    def __post_init__(self) -> None:
        losses.check_normalizing_factor(self.loss_normalizing_factor)
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(f"label_smoothing: {self.label_smoothing}; allowed: [0, 1)")

    @property
    def config(self) -> network.T5Config:
        """Shape and numerics of the network."""
        return self.module.config

    @property
    def specs(self) -> Params:
        """The tree of `ParamSpec` of this model."""
        return network.param_specs(self.config)

    def predict_batch_with_aux(self, num_decodes: int = 1) -> tuple[Any, int]:
        """How to decode; under T5X's name, so that its gin files can set `num_decodes`.

        Args:
          num_decodes: beams or samples where `decode_fn` is one of T5X's functions, or None (more
            than 1 is then a beam search, as in T5X).

        Returns:
          `decode_fn` and `num_decodes`, for `decoding.t5x_names.method_of`.
        """
        return self.decode_fn, num_decodes

    def check_vocabulary(self) -> None:
        """Raises ConfigError for SeqIO's vocabularies, and for more ids than embedding rows."""
        for field in ("input_vocabulary", "output_vocabulary"):
            vocabulary = getattr(self, field)
            if type(vocabulary).__module__.startswith("seqio."):
                raise ConfigError(
                    f"EncoderDecoderModel.{field}: SeqIO's own {type(vocabulary).__name__}; "
                    "allowed: that of t5x_ext.seqio, which `import seqio` gives in a gin file"
                )
            if vocabulary is not None and vocabulary.vocab_size > self.config.vocab_size:
                raise ConfigError(
                    f"T5Config.vocab_size: {self.config.vocab_size} rows are fewer than the "
                    f"{vocabulary.vocab_size} ids of {field}; allowed: >= that many"
                )

    def init_params(self, key: jax.Array) -> Params:
        """Random parameters in float32."""
        return params.init_params(self.specs, key)

    def loss_sums(
        self, model_params: Params, batch: dict[str, jax.Array], dropout_key: jax.Array | None
    ) -> losses.LossSums:
        """Loss of a batch in sums over tokens; `loss_denominator` turns them into the loss.

        Args:
          model_params: parameters.
          batch: converted features, see `t5x_ext.data.batching`.
          dropout_key: None switches dropout off.
        """
        hidden = network.hidden_states(self.config, model_params, batch, dropout_key)
        weights = losses.apply_weighting_rule(
            self.loss_normalizing_factor,
            batch["decoder_loss_weights"].astype(jnp.float32),
            batch.get("decoder_segment_ids"),
        )
        table, factor = network.output_table(self.config, model_params)
        settings = OutputLoss(self.label_smoothing, self.z_loss, factor)
        targets = batch["decoder_target_tokens"]
        return output_loss_sums(settings, hidden, table, targets, weights)
