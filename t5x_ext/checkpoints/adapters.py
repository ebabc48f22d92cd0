"""Adapters: what a run with LoRA leaves in MODEL_DIR, and the directories of PEFT.

An adapter is worth nothing without its base. A run's checkpoint therefore names it, by path and by
a fingerprint of its values, and is not used over another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from t5x_ext import files, multihost
from t5x_ext.checkpoints import trees
from t5x_ext.checkpoints.fingerprints import fingerprint_base
from t5x_ext.checkpoints.meta import ADAPTER, NOT_QUANTIZED, PROMPT, lora_in
from t5x_ext.checkpoints.params import PEFT_CONFIG, hash_params, load, open_source
from t5x_ext.checkpoints.sources import Source
from t5x_ext.configs import StatedLoRA
from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.network import Transformer
from t5x_ext.models.parameters import Params, ParamSpec, join, path_name, select, without
from t5x_ext.terminal import note

if TYPE_CHECKING:
    from t5x_ext.checkpoints.peft import StoredAdapter


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter in memory.

    Attributes:
      path: where it was read from.
      lora: which layers it is for, and its size.
      params: float32 arrays in the tree of `Network.trainable`.
      base_path: the base it was tuned over, as the run named it; None if it does not say.
      base_fingerprint: see `fingerprints`; None if it does not say.
      step: updates it has seen; 0 if it does not say.
      prompt: name of the prompt that it was tuned with; None if it does not say.
      base_quantization: of the kernels it was tuned over, "nf4" or "none"; None if it does not
        say.
    """

    path: str
    lora: LoRA
    params: Params
    base_path: str | None = None
    base_fingerprint: str | None = None
    step: int = 0
    prompt: Any = None
    base_quantization: str | None = None

    @property
    def stored(self) -> StoredAdapter:
        """All of it but its path, as a directory of PEFT's holds it."""
        from t5x_ext.checkpoints.peft import StoredAdapter

        return StoredAdapter(*(getattr(self, name) for name in StoredAdapter._fields))

    def check_base(self, fingerprint: str, path: str) -> None:
        """Refuses another base than the adapter's own; see `check_base`."""
        if self.base_fingerprint is not None:
            _check_base(self.path, self.base_path, self.base_fingerprint, fingerprint, path)

    def warn_of_kernels(self, quantization: str | None, path: str) -> None:
        """Says so in a line where the base's kernels are not as they were in tuning.

        Args:
          quantization: of the kernels that the adapter is used over, "nf4" or None.
          path: where they were read from.
        """
        if self.base_quantization is not None:
            own = self.base_path or "its base", self.base_quantization
            _warn_of_kernels(self.path, own, (path, quantization))

    def warn_of_prompt(self, prompt: str | None) -> None:
        """Says so in a line where prompts are written otherwise than in tuning.

        Args:
          prompt: name of the prompt that the adapter is used with; None if it has none.
        """
        warn_of_prompt(self.path, self.prompt, prompt)

    def check_stated(self, stated: StatedLoRA, config: ModelConfig) -> None:
        """Refuses LORA macros that say something else than the adapter; None says nothing.

        Args:
          stated: the macros.
          config: of the base.

        Raises:
          ConfigError: they differ, or the targets match nothing.
        """
        own = self.lora
        found: dict[str, tuple[Any, Any, bool]] = {
            "LORA_RANK": (stated.rank, own.rank, stated.rank == own.rank),
            "LORA_ALPHA": (stated.alpha, own.alpha, stated.alpha == own.alpha),
        }
        if stated.targets is not None:
            # "all", a list and PEFT's own names may stand for the same layers.
            same = _layers(LoRA(targets=stated.targets), config) == _layers(own, config)
            found["LORA_TARGETS"] = (stated.targets, own.describe()["targets"], same)
        for macro, (said, has, same) in found.items():
            if said is not None and not same:
                raise ConfigError(
                    f"{macro}: {said!r}, but the adapter {self.path} has {has!r}; allowed: the "
                    "same, or None"
                )

    def on(self, model: BaseTransformerModel) -> BaseTransformerModel:
        """A model with these adapters on its linear layers.

        Raises:
          ConfigError: the model has others, or its network cannot have any.
        """
        module = model.module
        if not isinstance(module, Transformer):
            raise ConfigError(
                f"{self.path}: an adapter for a {type(module).__name__}; allowed: the networks "
                "of network.Transformer"
            )
        if module.lora not in (None, self.lora):
            raise ConfigError(
                f"{self.path}: its adapters are {self.lora}; the LORA macros say "
                f"{module.lora}; allowed: the same, or LORA_RANK = None"
            )
        return model.replace(module=dataclasses.replace(module, lora=self.lora))


def _layers(lora: LoRA, config: ModelConfig) -> set[str]:
    """The layers that have an adapter."""
    names = trees.named_leaves(Transformer(config, lora).trainable)
    return {name.rsplit("/lora/", 1)[0] for name in names}


def is_peft(path: files.StrPath) -> bool:
    """Whether a directory is one of PEFT's.

    Raises:
      ConfigError: no directory can have this path.
    """
    return files.is_file(files.path(path) / PEFT_CONFIG)


def place(params: Params, wanted: Params) -> Params:
    """NumPy arrays onto the devices, where the leaves of `wanted` say."""
    return jax.tree.map(
        lambda leaf, x: jax.device_put(np.asarray(x, leaf.dtype), leaf.sharding), wanted, params
    )


class Weights(NamedTuple):
    """All parameters of a network, read from one checkpoint, or from a base and an adapter.

    Attributes:
      params: on the devices.
      path: what they were read from, without the adapter.
      step: updates that they have seen, the adapter's included.
      digest: names the values.
      source: the checkpoint, or the base.
    """

    params: Params
    path: str
    step: int
    digest: str
    source: Source


def split_path(path: str, adapter: str | None) -> tuple[str, str | None]:
    """The base and the adapter that two settings name.

    Args:
      path: CHECKPOINT_PATH; a run with LoRA stands for the base that it was tuned over, and for
        its adapter.
      adapter: ADAPTER, or None.

    Raises:
      ConfigError: both are adapters, or the base of one is not where the run had it.
    """
    if is_peft(path):
        raise ConfigError(
            f"{path}: an adapter in PEFT's layout; give it as ADAPTER, and its base as "
            "CHECKPOINT_PATH"
        )
    base = base_of(path)
    if base is not None and adapter is not None:
        raise ConfigError(
            f"{path}: holds an adapter itself; with ADAPTER, allowed: its base, {base}"
        )
    if base is None:
        return path, adapter
    try:
        open_source(base)
    except ConfigError as error:
        raise ConfigError(
            f"{path}: the base of this adapter cannot be opened ({error}); if it lies elsewhere "
            "now, give that as the checkpoint and this as ADAPTER"
        ) from error
    return base, path


def load_weights(
    wanted: Params,
    path: str,
    adapter: Adapter | None = None,
    dtype: str | None = None,
    config: ModelConfig | None = None,
) -> Weights:
    """Reads parameters and, over them, an adapter.

    Args:
      wanted: see `params.load`; the tree of the network with the adapter.
      path: the checkpoint of the base.
      adapter: from `open_adapter`; None for none.
      dtype: of parameters, see `params.load`.
      config: of the network, see `params.load`.

    Raises:
      ConfigError: see `params.load`; or the adapter belongs to another base.
    """
    if adapter is None:
        params, source = load(path, wanted, dtype, config)
        return Weights(params, path, source.step, source.digest, source)
    own = select(adapter.params, wanted)
    params, source = load(path, without(own, wanted), dtype, config)
    adapter.check_base(fingerprint_base(source), path)
    joined = join(params, place(adapter.params, own))
    digest = f"{source.digest}+{hash_params(trees.named_leaves(adapter.params))}"
    return Weights(joined, path, adapter.step or source.step, digest, source)


def stack(adapters: Sequence[Adapter], config: ModelConfig) -> tuple[LoRA, Params]:
    """Several adapters over one base as one tree, for a network with an adapter a row.

    They may differ in rank, scale and targets: smaller ones are filled up with zeros, and scales
    become part of B, which changes no product.

    Args:
      adapters: N of them.
      config: of the base.

    Returns:
      The adapters' common `LoRA`, and NumPy arrays in the tree of a network with N + 1 adapters.
      Adapter 0 is none: all its numbers are zeros.
    """

    def place_of(name: str) -> str:
        """That of an A which parts of a fused tensor share says nothing of which part holds it."""
        module, _, part = name.rpartition("/lora/")
        return f"{config.fused_group(module) or module}/lora/a" if part == "a" else name

    named = [trees.named_leaves(adapter.params) for adapter in adapters]
    targets = sorted({name.rsplit("/lora/", 1)[0] for leaves in named for name in leaves})
    rank = max(leaf.shape[-1] for each in named for n, leaf in each.items() if n.endswith("/a"))
    common = LoRA(rank, float(rank), targets=targets)  # a scale of 1
    specs = Transformer(config, common, len(adapters) + 1).trainable
    placed = [{place_of(name): leaf for name, leaf in leaves.items()} for leaves in named]

    def fill(path: Any, spec: ParamSpec) -> np.ndarray:
        name = path_name(path)
        module, _, part = name.rpartition("/lora/")
        together = np.zeros(spec.shape, np.float32)
        for index, (adapter, leaves) in enumerate(zip(adapters, placed, strict=True), 1):
            if place_of(name) in leaves:
                scale = adapter.lora.scale_of(config.module_names(module)) if part == "b" else 1.0
                values = scale * np.asarray(leaves[place_of(name)], np.float32)
                layers, rows, columns = values.shape
                together[:layers, index, :rows, :columns] = values
        return together

    is_spec = lambda x: isinstance(x, ParamSpec)  # noqa: E731
    return common, jax.tree_util.tree_map_with_path(fill, specs, is_leaf=is_spec)


def base_of(path: str) -> str | None:
    """The base that an adapter's checkpoint names; None for a checkpoint of all parameters."""
    facts = open_source(path).meta
    return facts[ADAPTER]["base"]["path"] if ADAPTER in facts else None


def bidirectional_in(source: Source, adapter: str | None) -> bool | None:
    """The `inputs_bidirectional_attention` that a run was trained with; None if nothing says it.

    Args:
      source: a checkpoint.
      adapter: over it, or None. Where it says nothing, it was tuned as its base was.
    """
    if adapter is None:
        return source.bidirectional
    from t5x_ext.checkpoints import peft

    own = (peft.open_source if is_peft(adapter) else open_source)(adapter).bidirectional
    return source.bidirectional if own is None else own


def open_adapter(path: str, config: ModelConfig) -> Adapter:
    """Reads an adapter.

    Args:
      path: a directory of PEFT's, or the MODEL_DIR or a checkpoint of a run with LoRA.
      config: of the base.

    Raises:
      ConfigError: there is none, it is damaged, or it does not fit the base.
    """
    if is_peft(path):
        from t5x_ext.checkpoints import peft

        return Adapter(path, **peft.read(path, config)._asdict())
    params, source = load(path)
    lora = lora_in(source.meta)
    if lora is None:
        raise ConfigError(
            f"{path}: holds a whole model, not an adapter; allowed: a directory in PEFT's layout "
            f"({PEFT_CONFIG}), or a run with LORA_RANK"
        )
    if source.config is not None and source.config.family != config.family:
        raise ConfigError(
            f"{path}: an adapter of the family {source.config.family}; the base is {config.family}"
        )
    trees.check_tree(path, params, Transformer(config, lora).trainable)
    base = source.meta[ADAPTER]["base"]
    return Adapter(
        path,
        lora,
        params,
        base["path"],
        base["sha256"],
        source.step,
        source.meta.get(PROMPT),
        base["quantization"] or NOT_QUANTIZED,
    )


def check_base(
    path: str,
    meta: Mapping[str, Any],
    fingerprint: str,
    base_path: str,
    quantization: str | None,
) -> None:
    """Refuses another base than the one an adapter was tuned over.

    Of kernels that were quantised then and are not now, or the other way, it warns.

    Args:
      path: the adapter.
      meta: of its checkpoint.
      fingerprint: of the base that it must be used with.
      base_path: where that base was read from.
      quantization: of its kernels, "nf4" or None.

    Raises:
      ConfigError: they differ, or the checkpoint holds no adapter.
    """
    if ADAPTER not in meta:
        raise ConfigError(
            f"{path}: a run that tunes all parameters; LORA_RANK needs another MODEL_DIR"
        )
    own = meta[ADAPTER]["base"]
    _check_base(path, own["path"], own["sha256"], fingerprint, base_path)
    _warn_of_kernels(path, (own["path"], own["quantization"]), (base_path, quantization))


def _warn_of_kernels(path: str, own: tuple[str, str | None], used: tuple[str, str | None]) -> None:
    """Warns where two bases, each a path and the quantisation of its kernels, differ in that."""
    (own_path, own_kernels), (used_path, used_kernels) = own, used
    shown = ["in NF4" if one == "nf4" else "unquantised" for one in (own_kernels, used_kernels)]
    if shown[0] != shown[1]:
        _warn(f"{path}: tuned over {own_path} {shown[0]}, used over {used_path} {shown[1]}")


def warn_of_prompt(path: str, tuned: str | None, used: str | None) -> None:
    """Says so in a line where prompts are written otherwise than in tuning.

    Args:
      path: of what was tuned.
      tuned: name of the prompt of its training; None if it does not say.
      used: name of the prompt that it is used with; None if that has none.
    """
    if None not in (tuned, used) and tuned != used:
        _warn(f"{path}: tuned with prompt {tuned!r}, used with {used!r}")


def _warn(line: str) -> None:
    if multihost.is_primary():
        note(f"warning: {line}")


def _check_base(
    path: str, own_path: str | None, own: str, fingerprint: str, base_path: str
) -> None:
    if own != fingerprint:
        named = f" ({own_path})" if own_path else ""
        raise ConfigError(
            f"{path}: an adapter of another base{named}: that one's fingerprint begins with "
            f"{own[:12]}, that of {base_path} with {fingerprint[:12]}"
        )
