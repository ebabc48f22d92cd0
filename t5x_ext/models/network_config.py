"""The config of a network that is your own: what the rest of the package has to know of it."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NoReturn

from t5x_ext.errors import ConfigError
from t5x_ext.models.config import CacheShape, ModelConfig


@dataclasses.dataclass(frozen=True)
class NetworkConfig(ModelConfig):
    """Config of an `NNXNetwork` or a `LinenNetwork`; subclass it to add fields of your own.

    Plans need the FLOPs of a step. They say "unknown" for a network whose config does not define
    `forward_flops`; everything else that they print is measured on the compiled program.

    Attributes:
      vocab_size: scores that the network gives at each position; may exceed the vocabulary.
      dtype: compute dtype, 'float32' or 'bfloat16'; the network has to use it.
      dropout_rate: in [0, 1); at 0, `hidden_states` is given no dropout key.
    """

    family: ClassVar[str] = "own"
    can_remat: ClassVar[bool] = False
    # How families are computed; a network of your own decides that by itself.
    remat_policy = "none"
    attention = "xla"
    scan_layers = False
    max_length = None

    vocab_size: int
    dtype: Any = "float32"
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_sizes("vocab_size")

    def build(self) -> NoReturn:
        raise ConfigError(
            f"network.Transformer.config: {type(self).__name__} does not build a network; "
            "allowed: NNXNetwork or LinenNetwork as the model's module"
        )

    @property
    def cache_shape(self) -> CacheShape:
        raise ConfigError(
            f"{type(self).__name__}.cache_shape: not defined; allowed for a network with `start` "
            "and `step`: the CacheShape of the keys and values that it keeps"
        )

    def forward_flops(self, rows: int, input_length: int, target_length: int) -> int | None:
        return None
