"""A model to train: network, vocabularies, optimizer and loss settings under T5X's names."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, Self, cast

import jax
import jax.numpy as jnp

from t5x_ext import bounds
from t5x_ext.data.features import Features, Lengths
from t5x_ext.errors import ConfigError
from t5x_ext.models import losses
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.generation import Generator, scores
from t5x_ext.models.network import Network
from t5x_ext.models.output_loss import OutputLoss, output_loss_sums
from t5x_ext.models.parameters import Params


class BaseTransformerModel(abc.ABC):
    """Everything about a model that does not change while it trains: a frozen dataclass.

    Attributes:
      module: the network: `network.Transformer`, `NNXNetwork` or `LinenNetwork`.
      input_vocabulary: of prompts (`mixtures.vocabularies`).
      output_vocabulary: of targets and predictions.
      optimizer_def: `training.optimizers.Adafactor` or `AdamW`.
      z_loss: factor of log(Z)^2.
      label_smoothing: in [0, 1).
      loss_normalizing_factor: see `losses.loss_denominator`.
      decode_fn: how predictions are decoded: a method of `t5x_ext.decoding`, or T5X's
        `decoding.beam_search` or `decoding.temperature_sample`; None is greedy.
      inputs_bidirectional_attention: see `DecoderOnlyModel`.
      loss_on_prompt: see `DecoderOnlyModel`.
    """

    module: Network
    input_vocabulary: Any
    output_vocabulary: Any
    optimizer_def: Any
    z_loss: float
    label_smoothing: float
    loss_normalizing_factor: losses.LossNormalizingFactor
    decode_fn: Any
    inputs_bidirectional_attention: bool = False
    loss_on_prompt: bool = False

    def __post_init__(self) -> None:
        losses.check_normalizing_factor(self.loss_normalizing_factor)
        bounds.check_share("label_smoothing", self.label_smoothing)
        bounds.check_real("z_loss", self.z_loss, 0.0)

    def replace(self, **changes: Any) -> Self:
        """The model with other values of some fields."""
        return cast(Self, dataclasses.replace(cast(Any, self), **changes))

    def with_adapters(self, count: int) -> Self:
        """The model with several adapters in its network, one of which each row of a batch uses."""
        return self.replace(module=dataclasses.replace(cast(Any, self.module), num_adapters=count))

    @property
    def config(self) -> ModelConfig:
        """Shape and numerics of the network."""
        return self.module.config

    @property
    def specs(self) -> Params:
        """The tree of `ParamSpec` of this model."""
        return self.module.specs

    @property
    @abc.abstractmethod
    def features(self) -> Features:
        """How the model takes examples in."""

    @property
    @abc.abstractmethod
    def generator(self) -> Generator:
        """The network as decoding sees it."""

    @property
    def skips_unweighted(self) -> bool:
        """Whether the loss looks for positions to leave out: see `OutputLoss`."""
        return False

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
                    f"{type(self).__name__}.{field}: SeqIO's own {type(vocabulary).__name__}; "
                    "allowed: that of t5x_ext.seqio, which `import seqio` gives in a gin file"
                )
            if vocabulary is not None and vocabulary.vocab_size > self.config.vocab_size:
                raise ConfigError(
                    f"{type(self.config).__name__}.vocab_size: {self.config.vocab_size} rows are "
                    f"fewer than the {vocabulary.vocab_size} ids of {field}; allowed: >= that many"
                )

    def check_context(self, lengths: Lengths | None, what: str = "") -> None:
        """Refuses rows that are longer than the network was made for.

        Hugging Face warns, and goes on with positions that the network has never seen. Whoever
        means that sets the config's `max_length`.

        Args:
          lengths: {'inputs': tokens of a prompt, 'targets': tokens of a target}, at most; None
            where examples have yet to tell.
          what: begins the message; where empty, `lengths` as the macro that sets them.

        Raises:
          ConfigError: they are longer together than the config's `max_length`, where it has one;
            in a model with an encoder, either of them is.
        """
        allowed = self.config.max_length
        if allowed is None or lengths is None:
            return
        if max(self.features.limits(lengths).values()) > allowed:
            name, joined = type(self.config).__name__, " in all" * self.features.joined
            raise ConfigError(
                f"{what or f'TASK_FEATURE_LENGTHS: {dict(lengths)}'}; allowed: {allowed}{joined}, "
                f"the model's context ({name}.max_length)"
            )

    def check_pack(self, pack: bool | str, what: str = "PACK") -> None:
        """Refuses PACK='batch' with NUM_TOTAL_TARGET_TOKENS.

        Joining rows changes the number of positions by which the loss is divided.

        Args:
          pack: see `DatasetConfig.pack`.
          what: begins the message: the setting.

        Raises:
          ConfigError: steps would not be those of the padded batches.
        """
        factor = self.loss_normalizing_factor
        if pack == bounds.PER_BATCH and factor == "NUM_TOTAL_TARGET_TOKENS":
            raise ConfigError(
                f"{what}: {pack!r}, with which LOSS_NORMALIZING_FACTOR {factor!r} would change "
                "with every batch's rows; allowed: True, False, or another factor"
            )

    def init_params(self, key: jax.Array) -> Params:
        """Random parameters in float32."""
        return self.module.init(key)

    def loss_sums(
        self, params: Params, batch: dict[str, jax.Array], dropout_key: jax.Array | None
    ) -> losses.LossSums:
        """Loss of a batch in sums over tokens; `loss_denominator` turns them into the loss.

        Args:
          params: parameters.
          batch: converted features, see `t5x_ext.data.batching`.
          dropout_key: None switches dropout off.

        Raises:
          ConfigError: the batch has no segment ids.
        """
        self._check_batch(batch)
        network = self.module.bind(params)
        hidden = network.hidden_states(batch, dropout_key)
        weights = losses.apply_weighting_rule(
            self.loss_normalizing_factor,
            batch["decoder_loss_weights"].astype(jnp.float32),
            batch["decoder_segment_ids"],
        )
        table, factor = network.output()
        targets = batch["decoder_target_tokens"]
        if table is None:
            logits = hidden.astype(jnp.float32)
            return losses.cross_entropy_sums(
                logits, targets, weights, self.label_smoothing, self.z_loss
            )
        settings = OutputLoss(self.label_smoothing, self.z_loss, factor, self.skips_unweighted)
        return output_loss_sums(settings, hidden, table, targets, weights)

    def logits(
        self,
        params: Params,
        batch: dict[str, jax.Array],
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Scores of every vocabulary row at every target position: float32 [B, T, V].

        Raises:
          ConfigError: the batch has no segment ids.
        """
        self._check_batch(batch)
        network = self.module.bind(params)
        return scores(network, network.hidden_states(batch, dropout_key))

    def _check_batch(self, batch: dict[str, jax.Array]) -> None:
        missing = next((name for name in self.features.segment_ids if name not in batch), None)
        if missing is not None:
            raise ConfigError(
                f"batch: has no {missing}; allowed: int32 ids that count from 1 in every row, 0 at "
                "padding"
            )
