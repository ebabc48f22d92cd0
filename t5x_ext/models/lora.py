"""LoRA as it is configured: which products get an adapter, and how large it is.

An adapter adds a product of two narrow matrices to a product with a frozen kernel,

    y = x W + s (x A) B        A: [in, rank], B: [rank, out], s = alpha / rank,

(Hu et al. 2021, arXiv:2106.09685), with the names and rules of PEFT. Nothing here imports Flax;
`blocks.lora` has the computation.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from t5x_ext import bounds
from t5x_ext.errors import ConfigError

ALL = "all"
DEFAULT = "adapter"  # the name of an adapter that was loaded without one


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Adapters on the linear layers of a network's blocks.

    Embeddings and the output projection have none.

    Attributes:
      rank: width of an adapter.
      alpha: an adapter's product counts alpha / rank times.
      dropout: share of an adapter's input that is zero in training.
      targets: "all", a list of suffixes of module names ("query", "self_attention/query"), or one
        regular expression for whole names, with "." or "/" between their parts. A family's Hugging
        Face names count as well ("q_proj", "Wqkv").
      rslora: alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023, arXiv:2312.03732).
      rank_pattern: other ranks, by suffix or regular expression.
      alpha_pattern: other alphas, by suffix or regular expression.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str | Sequence[str] = ALL
    rslora: bool = False
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        bounds.check_int("LoRA.rank", self.rank, 1, bounds.MAX_TOKENS)
        for pattern, rank in self.rank_pattern.items():
            bounds.check_int(f"LoRA.rank_pattern[{pattern!r}]", rank, 1, bounds.MAX_TOKENS)
        bounds.check_positive("LoRA.alpha", self.alpha)
        for pattern, alpha in self.alpha_pattern.items():
            bounds.check_positive(f"LoRA.alpha_pattern[{pattern!r}]", alpha)
        bounds.check_share("LoRA.dropout", self.dropout)
        if isinstance(self.targets, Iterable) and not isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(self.targets))
        is_named = isinstance(self.targets, str | tuple) and all(
            isinstance(name, str) for name in self.targets
        )
        if not self.targets or not is_named:
            raise ConfigError(f"LoRA.targets: {self.targets!r}; allowed: 'all', names, or a regex")
        regexes = {
            "targets": [self.targets] if isinstance(self.targets, str) else [],
            "rank_pattern": self.rank_pattern,
            "alpha_pattern": self.alpha_pattern,
        }
        for field, patterns in regexes.items():
            for pattern in patterns:
                _check_regex(f"LoRA.{field}", pattern)

    def __hash__(self) -> int:
        return hash(tuple(sorted((key, str(value)) for key, value in self.describe().items())))

    def describe(self) -> dict[str, Any]:
        """All fields as JSON; `LoRA(**fields)` is the same again."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        patterns = {name: dict(fields[name]) for name in ("rank_pattern", "alpha_pattern")}
        return fields | {"targets": targets} | patterns

    def matches(self, names: Iterable[str]) -> bool:
        """Whether a module is a target, under any of its names."""
        if self.targets == ALL:
            return True
        return any(_matches(target, name) for target in self._patterns() for name in names)

    def check_targets(self, modules: Mapping[str, Iterable[str]]) -> None:
        """Refuses targets and patterns that match none of a network's modules.

        Args:
          modules: every module that can have an adapter, with all its names.

        Raises:
          ConfigError: a target or a pattern matches nothing.
        """
        every = [name for names in modules.values() for name in names]
        for field in ("targets", "rank_pattern", "alpha_pattern"):
            for pattern in self._patterns() if field == "targets" else getattr(self, field):
                if field == "targets":
                    found = pattern == ALL or any(_matches(pattern, name) for name in every)
                else:
                    found = _find([pattern], every) is not None
                if not found:
                    known = sorted({name.rsplit("/", 1)[-1] for name in modules})
                    names = ", ".join(known)
                    if isinstance(pattern, re.Pattern):
                        names += f" in a list ({pattern.pattern!r} is a regex for whole names)"
                    raise ConfigError(
                        f"LoRA.{field}: {_plain(pattern)!r} matches no linear layer of this model;"
                        f" allowed: 'all', or names such as {names}"
                    )

    def check_fused(self, first: Sequence[str], other: Sequence[str]) -> None:
        """Refuses patterns that tell parts of one tensor apart; PEFT has one rank and alpha for it.

        Args:
          first: all names of a part, its own first.
          other: those of another part.

        Raises:
          ConfigError: their ranks or alphas differ.
        """
        for field in ("rank", "alpha"):
            patterns, default = getattr(self, f"{field}_pattern"), getattr(self, field)
            values = [_pick(patterns, names, default) for names in (other, first)]
            if values[0] != values[1]:
                pattern = _find(patterns, other) or _find(patterns, first)
                parts = [names[0].rpartition("/")[2] for names in (other, first)]
                fused = first[-1].rpartition("/")[2]
                raise ConfigError(
                    f"LoRA.{field}_pattern: {pattern!r} gives {parts[0]} {values[0]} and "
                    f"{parts[1]} {values[1]}, but they are one tensor, {fused}, and share A; "
                    f"allowed: one {field} for all of it, as with the pattern {fused!r}"
                )

    def rank_of(self, names: Sequence[str]) -> int:
        """Rank of a module, given all its names."""
        return _pick(self.rank_pattern, names, self.rank)

    def alpha_of(self, names: Sequence[str]) -> float:
        """Alpha of a module, given all its names."""
        return _pick(self.alpha_pattern, names, self.alpha)

    def scale_of(self, names: Sequence[str]) -> float:
        """What the adapter of a module is multiplied with."""
        alpha, rank = self.alpha_of(names), self.rank_of(names)
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def _patterns(self) -> tuple[Any, ...]:
        if isinstance(self.targets, str):
            return (ALL,) if self.targets == ALL else (re.compile(_slashed(self.targets)),)
        return tuple(self.targets)


def create_lora(
    rank: int | None = None,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: str | Sequence[str] = ALL,
    rslora: bool = False,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
) -> LoRA | None:
    """The adapter that a gin file asks for; None without a rank, which tunes all parameters.

    Args:
      rank: LORA_RANK.
      alpha: LORA_ALPHA.
      dropout: LORA_DROPOUT.
      targets: LORA_TARGETS.
      rslora: see `LoRA`.
      rank_pattern: see `LoRA`.
      alpha_pattern: see `LoRA`.
    """
    if rank is None:
        return None
    patterns = rank_pattern or {}, alpha_pattern or {}
    return LoRA(rank, alpha, dropout, targets, rslora, *patterns)


def _matches(pattern: str | re.Pattern[str], name: str) -> bool:
    if isinstance(pattern, re.Pattern):
        return pattern.fullmatch(name) is not None
    suffix = pattern.replace(".", "/")
    return name == suffix or name.endswith(f"/{suffix}")


def _pick(patterns: Mapping[str, Any], names: Sequence[str], default: Any) -> Any:
    """The value of the first pattern that fits."""
    found = _find(patterns, names)
    return default if found is None else patterns[found]


def _find(patterns: Iterable[str], names: Sequence[str]) -> str | None:
    """The first pattern that fits; as in PEFT a pattern is a regex for a suffix."""
    for pattern in patterns:
        regex = re.compile(rf"(.*/)?({_slashed(pattern)})")
        if any(regex.fullmatch(name) for name in names):
            return pattern
    return None


def _check_regex(field: str, regex: str) -> None:
    try:
        re.compile(regex)
    except re.error as error:
        raise ConfigError(
            f"{field}: {regex!r}; allowed: names, or a regular expression ({error})"
        ) from None


def _slashed(regex: str) -> str:
    r"""A regex over dotted names as one over ours: `\.` and `/` mean the same."""
    return regex.replace(r"\.", "/")


def _plain(pattern: Any) -> str:
    return pattern.pattern if isinstance(pattern, re.Pattern) else pattern
