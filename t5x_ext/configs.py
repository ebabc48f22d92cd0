"""Plain records that gin fills in: what to read, where to start, what to save.

T5X users know these from `t5x.utils`: `from t5x_ext import configs as utils` in a gin file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from t5x_ext import bounds
from t5x_ext.errors import ConfigError
from t5x_ext.schedules import create_learning_rate_scheduler

__all__ = [
    "CheckpointConfig",
    "DatasetConfig",
    "RestoreCheckpointConfig",
    "SaveCheckpointConfig",
    "StatedLoRA",
    "SuperNIConfig",
    "create_learning_rate_scheduler",
]


RESTORE_MODES = ("specific", "latest", "best", "all")


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """Which examples, how long and how many at a time.

    Attributes:
      mixture_or_task_name: a registered SeqIO name, a `superni.<prompt>.<scope>.<budget>` name,
        a scope alone (with `prompt` and `budget`), or the path of a .json or .jsonl
        file of your own.
      task_feature_lengths: {'inputs': tokens, 'targets': tokens}, at most, EOS included. None
        takes the longest example's, for evaluation and decoding.
      split: 'train', 'validation' or 'test'.
      batch_size: examples, global; rows where `pack` is True.
      shuffle: False keeps the order of the data.
      seed: of shuffling and of drawing references; None takes the run's RANDOM_SEED.
      use_cached: read SeqIO's offline cache.
      pack: put several examples into one row. "batch" joins those of each batch in as few rows as
        hold them: steps see the same examples as without packing, in less time.
      module: a Python module to import first, for names it registers.
      prompt: prompt name, when `mixture_or_task_name` is a scope or a file.
      budget: 10, 'p1', 'all', ...: training examples per task, when it is a scope.
      memory_limit_bytes: what the examples of training, or of its held-out loss, may take in memory
        on each host, about; beyond it they are tokenised once into the local cache
        ($T5X_EXT_CACHE) and read from there.
    """

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int] | None
    split: str
    batch_size: int
    shuffle: bool = True
    seed: int | None = None
    use_cached: bool = False
    pack: bool | str = False
    module: str | None = None
    prompt: str | None = None
    budget: str | int | None = None
    memory_limit_bytes: int = 1 << 29

    def __post_init__(self) -> None:
        bounds.check_int("DatasetConfig.batch_size", self.batch_size, 1, bounds.MAX_ROWS)
        bounds.check_pack("DatasetConfig.pack", self.pack)
        bounds.check_int("DatasetConfig.memory_limit_bytes", self.memory_limit_bytes, 0, 1 << 50)
        if self.seed is not None:
            bounds.check_seed("DatasetConfig.seed", self.seed)
        if self.task_feature_lengths is not None:
            bounds.check_lengths("TASK_FEATURE_LENGTHS", self.task_feature_lengths)


@dataclasses.dataclass(frozen=True)
class SuperNIConfig:
    """How names that begin with `superni.` turn into data; see `mixtures.configure`.

    Attributes:
      data_dir: directory in the natural-instructions layout; None takes SUPERNI_DIR from the
        environment, else the bundled suite.
      split_policy: 'disjoint' or 'paper'.
      budget_order: 'seeded' or 'release'.
      budget_seed: which subset, under 'seeded'.
      trim: what long prompts lose: 'keep_question', 'keep_last_example' or 'right' (as in the
        reference code); see `mixtures.truncation`.
      missing: 'report' or 'refuse' tasks of a split list that have no file.
    """

    data_dir: str | None = None
    split_policy: str = "disjoint"
    budget_order: str = "seeded"
    budget_seed: int = 0
    trim: str = "keep_question"
    missing: str = "report"

    def __post_init__(self) -> None:
        bounds.check_seed("SuperNIConfig.budget_seed", self.budget_seed)


@dataclasses.dataclass(frozen=True)
class StatedLoRA:
    """What the LORA macros say of an adapter that exists: it has to be so.

    Evaluation takes the macros that an adapter was tuned with, and refuses another adapter; None
    leaves a setting to the adapter.

    Attributes:
      rank: LORA_RANK.
      alpha: LORA_ALPHA.
      dropout: LORA_DROPOUT; of training alone, so that any is right.
      targets: LORA_TARGETS.
    """

    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    targets: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.rank is not None:
            bounds.check_int("LORA_RANK", self.rank, 1, bounds.MAX_TOKENS)
        if self.alpha is not None:
            bounds.check_positive("LORA_ALPHA", self.alpha)
        if self.dropout is not None:
            bounds.check_share("LORA_DROPOUT", self.dropout)

    def refuse_none(self, path: str) -> None:
        """Refuses a checkpoint without an adapter where LORA_RANK asks for one.

        Raises:
          ConfigError: it does. The other macros alone ask for none, in training either.
        """
        if self.rank is not None:
            raise ConfigError(
                f"LORA_RANK: {self.rank!r}, but {path} has no adapter; allowed: None, an adapter "
                "as ADAPTER, or a run with LORA_RANK as CHECKPOINT_PATH"
            )


@dataclasses.dataclass(frozen=True)
class RestoreCheckpointConfig:
    """Where parameters come from.

    Attributes:
      path: a checkpoint or a MODEL_DIR, by `mode`; or several of them, for evaluation; None or an
        empty sequence starts at random.
      mode: 'specific': `path` is a checkpoint itself. 'latest': the newest checkpoint of a
        MODEL_DIR, or the checkpoint itself. 'best': the best one of a run with `best`. 'all': every
        checkpoint of a MODEL_DIR, one after the other, for evaluation.
      dtype: dtype to decode with parameters in, None for float32; training always holds them in
        float32.
      adapter: ADAPTER, a directory of PEFT's or a run with LoRA, over the parameters of `path`;
        None for none. A training run continues from it.
      lora: what the adapter has to be, for evaluation; a training run states its own.
    """

    path: str | Sequence[str] | None = None
    mode: str = "latest"
    dtype: str | None = "float32"
    adapter: str | None = None
    lora: StatedLoRA = StatedLoRA()

    def __post_init__(self) -> None:
        if self.mode not in RESTORE_MODES:
            raise ConfigError(
                f"RestoreCheckpointConfig.mode: {self.mode!r}; allowed: {', '.join(RESTORE_MODES)}"
            )

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a sequence; empty for a random start."""
        return (self.path,) if isinstance(self.path, str) else tuple(self.path or ())

    @property
    def is_several(self) -> bool:
        """Whether this may name more than one checkpoint."""
        return self.mode == "all" or len(self.paths) > 1


@dataclasses.dataclass(frozen=True)
class SaveCheckpointConfig:
    """What a run keeps.

    Attributes:
      period: steps between checkpoints; None saves at the end only.
      dtype: dtype of saved parameters.
      keep: number of newest checkpoints kept; None keeps all.
      checkpoint_steps: steps to save at besides.
      checksums: write what verifies every byte of a checkpoint whenever it is read again.
      best: KEEP_BEST, a number that evaluations log and whether 'min' or 'max' of it is best, such
        as ('eval/cross_entropy', 'min'). A step that is the best so far is saved, whatever the
        period, and kept besides the newest until there is a better one.
    """

    period: int | None = None
    dtype: str | None = "float32"
    keep: int | None = 2
    checkpoint_steps: Sequence[int] = ()
    checksums: bool = True
    best: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.best is not None:
            _check_best(self.best)
        for field in ("period", "keep"):
            if getattr(self, field) is not None:
                bounds.check_int(f"SaveCheckpointConfig.{field}", getattr(self, field), 1)
        for step in self.checkpoint_steps:
            bounds.check_int("SaveCheckpointConfig.checkpoint_steps", step, 1)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """`restore` starts a run, `save` keeps it; resuming needs neither, only the same MODEL_DIR."""

    restore: RestoreCheckpointConfig | None = None
    save: SaveCheckpointConfig | None = dataclasses.field(default_factory=SaveCheckpointConfig)


def _check_best(best: Sequence[str]) -> None:
    is_pair = isinstance(best, list | tuple) and len(best) == 2 and isinstance(best[0], str)
    group, _, name = best[0].partition("/") if is_pair else ("", "", "")
    if group not in ("eval", "infer_eval") or not name or best[1] not in ("min", "max"):
        raise ConfigError(
            f"SaveCheckpointConfig.best: {best!r:.80}; allowed: None, or a number that evaluations "
            "log, 'eval/...' or 'infer_eval/...', and 'min' or 'max': ('eval/cross_entropy', 'min')"
        )
