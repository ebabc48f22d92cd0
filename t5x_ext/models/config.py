"""What all families of models are configured by, and checked for.

Nothing here imports Flax: a mistake in a config is told before that is loaded.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self, cast

import jax.numpy as jnp

from t5x_ext import bounds
from t5x_ext.errors import ConfigError

COMPUTE_DTYPES = ("float32", "bfloat16")
ACTIVATIONS = ("relu", "gelu", "gelu_exact", "silu", "linear")
ATTENTION_PATHS = ("auto", "xla", "flash")
REMAT_POLICIES = ("none", "minimal", "balanced", "full")  # from keeping most to keeping least

_HOW_COMPUTED = ("remat_policy", "attention", "scan_layers")
# What of a config is of one training or one machine, and may be another with the same weights.
_OF_A_RUN = (*_HOW_COMPUTED, "dtype", "dropout_rate", "max_length", "embedding_stddev")


class CacheShape(NamedTuple):
    """Keys and values that decoding keeps of each position.

    Attributes:
      num_layers: layers that attend to decoded positions.
      num_kv_heads: key heads G of each.
      head_dim: C.
      dtype: of keys and values.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: str

    @property
    def bytes_per_position(self) -> int:
        """Keys and values of one position of one row, in all layers."""
        numbers = 2 * self.num_layers * self.num_kv_heads * self.head_dim
        return numbers * jnp.dtype(self.dtype).itemsize


class ModelConfig(abc.ABC):
    """A family's frozen dataclass; these are the fields that the built-in families share.

    Attributes:
      family: names the class in checkpoints.
      has_encoder: whether prompts are encoded; else prompt and response are one sequence.
      can_remat: whether `remat_policy` can be chosen.
      hugging_face_modules: linear layers, by the last two parts of their names here, and what
        Hugging Face calls them. Those that have one name there are stored as one.
      vocab_size: rows of the embedding; may exceed the vocabulary.
      emb_dim: width D of the residual stream.
      dtype: compute dtype, 'float32' or 'bfloat16' (parameters, norms and softmax stay float32).
      mlp_activations: of the feed-forward block, see `T5Config`.
      dropout_rate: used in training only.
      remat_policy: what the backward pass computes again, see `t5_config.T5Config`.
      attention: 'xla', 'flash' (a TPU's or GPU's kernel), or 'auto', which takes one where it can.
      scan_layers: False writes the layers out in the compiled program.
      max_length: positions the model was made for, longer rows are refused; None for any number.
    """

    family: ClassVar[str]
    has_encoder: ClassVar[bool]
    can_remat: ClassVar[bool] = True
    hugging_face_modules: ClassVar[Mapping[str, str]] = MappingProxyType({})

    vocab_size: int
    emb_dim: int
    dtype: Any
    mlp_activations: Sequence[str]
    dropout_rate: float
    remat_policy: str
    attention: str
    scan_layers: bool
    max_length: int | None

    @abc.abstractmethod
    def build(self) -> Any:
        """The `flax.nnx.Module`, built without arrays."""

    @property
    @abc.abstractmethod
    def cache_shape(self) -> CacheShape:
        """What decoding keeps of each position."""

    @abc.abstractmethod
    def forward_flops(self, rows: int, input_length: int, target_length: int) -> int | None:
        """FLOPs of the products of one forward pass, 2 per multiply-add, padding included.

        Projections, attention over every pair of positions, feed-forward blocks and scores count;
        look-ups, norms and softmax do not. None if nobody has counted them.

        Args:
          rows: B, rows of the batch.
          input_length: L, positions of a row's prompt.
          target_length: T, positions of a row's target. A decoder-only row has L + T positions.
        """

    def module_names(self, path: str) -> tuple[str, ...]:
        """All names of a linear layer: "decoder/layers/mlp/wo" and, say, "mlp/down_proj"."""
        name = self.hugging_face_modules.get(_last_two(path))
        return (path,) if name is None else (path, name)

    def fused_group(self, path: str) -> str | None:
        """Names what is stored as one with a linear layer; None if it is stored alone."""
        parent, _, _ = _last_two(path).partition("/")
        name = self.hugging_face_modules.get(_last_two(path))
        siblings = [
            ours
            for ours, theirs in self.hugging_face_modules.items()
            if theirs == name and ours.startswith(f"{parent}/")
        ]
        return f"{path.rpartition('/')[0]}:{name}" if len(siblings) > 1 else None

    def describe(self) -> dict[str, Any]:
        """What determines results, as JSON; how they are computed is left out.

        Fields that came later (`metadata={"later": True}`) count only where they are set: the keys
        of stored results, which are hashes of this, then stay what they were.
        """
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(cast(Any, self))
            if field.name not in _HOW_COMPUTED
            and not (field.metadata.get("later") and getattr(self, field.name) == field.default)
        }
        return fields if self.family == "t5" else {"family": self.family, **fields}

    def first_difference(self, other: Self) -> str | None:
        """The first field by which the same weights compute something else; None without."""
        names = (field.name for field in dataclasses.fields(cast(Any, self)))
        kept = (name for name in names if name not in _OF_A_RUN)
        return next((n for n in kept if getattr(self, n) != getattr(other, n)), None)

    def replace(self, **changes: Any) -> Self:
        """The config with other values of some fields."""
        return cast(Self, dataclasses.replace(cast(Any, self), **changes))

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype).name)
        if self.dtype not in COMPUTE_DTYPES:
            allowed = ", ".join(COMPUTE_DTYPES)
            raise self.error("dtype", f"{allowed} (float16 overflows)")
        for field, choices in (
            ("remat_policy", REMAT_POLICIES),
            ("attention", ATTENTION_PATHS),
        ):
            if getattr(self, field) not in choices:
                raise self.error(field, ", ".join(choices))
        bounds.check_share(self._name("dropout_rate"), self.dropout_rate)

    def check_sizes(self, *fields: str, low: int = 1) -> None:
        """Raises ConfigError for fields that are not `low` to 2^31 - 1, as an axis may be long."""
        for field in fields:
            bounds.check_int(self._name(field), getattr(self, field), low, bounds.MAX_SIZE)

    def check_reals(self, low: float, *fields: str) -> None:
        """Raises ConfigError for fields that are not finite numbers of at least `low`."""
        for field in fields:
            bounds.check_real(self._name(field), getattr(self, field), low)

    def check_activations(self, field: str) -> None:
        """Freezes a field of activation names; raises ConfigError for one that is unknown."""
        names: Sequence[str] = tuple(getattr(self, field))
        object.__setattr__(self, field, names)
        for name in names:
            if name not in ACTIVATIONS:
                raise self.error(field, ", ".join(ACTIVATIONS))

    def error(self, field: str, allowed: str) -> ConfigError:
        """The error for a field's value."""
        return ConfigError(f"{self._name(field)}: {getattr(self, field)!r}; allowed: {allowed}")

    def _name(self, field: str) -> str:
        return f"{type(self).__name__}.{field}"


def _last_two(path: str) -> str:
    return "/".join(path.split("/")[-2:])
