"""Third stage: an adapter is tuned on a round's rows, and written as PEFT has it.

This module says what is run and checks it; running it is `t5x_ext.train`'s, as for any other data.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from mixtures.vocabularies import Vocabulary
from t5x_ext import bounds, files
from t5x_ext.checkpoints import load, peft
from t5x_ext.checkpoints.meta import ADAPTER, NOT_QUANTIZED, lora_in
from t5x_ext.configs import (
    CheckpointConfig,
    DatasetConfig,
    RestoreCheckpointConfig,
    SaveCheckpointConfig,
    SuperNIConfig,
)
from t5x_ext.data import datasets
from t5x_ext.data.records import Example
from t5x_ext.errors import ConfigError
from t5x_ext.generation.journal import read_records
from t5x_ext.generation.text_models import ModelSource
from t5x_ext.json_fields import Fields
from t5x_ext.models import DecoderOnlyModel, network
from t5x_ext.models.lora import LoRA
from t5x_ext.schedules import create_learning_rate_scheduler
from t5x_ext.training.optimizers import AdamW
from t5x_ext.training.trainer import Trainer

PROMPT = "alpaca"
_SETTINGS = "tuning.json"  # next to the run: what it was begun with


@dataclasses.dataclass(frozen=True)
class TuningSettings:
    """How an adapter is tuned; the defaults are the paper's, and QLoRA's where it says nothing.

    Attributes:
        lora: width and places of the adapter.
        optimizer: its settings.
        learning_rate: after warm-up.
        warmup_share: of the steps.
        epochs: over the rows.
        steps: instead of `epochs`; None for none.
        batch_size: rows of a step.
        lengths: tokens of a prompt and of a response, at most.
        loss_on_prompt: whether the prompt's tokens count in the loss as the response's do.
        remat_policy: what the backward pass computes again; see `T5Config`.
        save_period: steps between checkpoints, from which a killed run resumes.
        seed: of the adapter's first values, of dropout and of the order of the rows.
    """

    lora: LoRA = LoRA(rank=8, alpha=16.0)
    optimizer: AdamW = AdamW(max_grad_norm=0.3)
    learning_rate: float = 3e-4
    warmup_share: float = 0.03
    epochs: int = 3
    steps: int | None = None
    batch_size: int = 32
    lengths: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"inputs": 1024, "targets": 512}
    )
    loss_on_prompt: bool = False
    remat_policy: str = "full"
    save_period: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.lora, LoRA):
            raise ConfigError(f"LORA_RANK: {self.lora!r}; allowed: a number, at least 1")
        bounds.check_real("TuningSettings.warmup_share", self.warmup_share, 0, 1)
        bounds.check_int("TuningSettings.epochs", self.epochs, 1)
        if self.steps is not None:
            bounds.check_int("TuningSettings.steps", self.steps, 1)
        bounds.check_real("TuningSettings.learning_rate", self.learning_rate, 0)
        bounds.check_int("TuningSettings.batch_size", self.batch_size, 1, bounds.MAX_ROWS)
        bounds.check_lengths("TuningSettings.lengths", self.lengths)
        if not isinstance(self.loss_on_prompt, bool):
            raise ConfigError(
                f"TuningSettings.loss_on_prompt: {self.loss_on_prompt!r}; allowed: True, False"
            )
        bounds.check_int("TuningSettings.save_period", self.save_period, 1)
        bounds.check_seed("TuningSettings.seed", self.seed)

    def num_steps(self, rows: int) -> int:
        """Steps of a run over that many rows."""
        return self.steps or self.epochs * math.ceil(rows / self.batch_size)

    def describe(self) -> dict[str, Any]:
        """What determines the adapter, as JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["save_period"], fields["remat_policy"]
        if not self.loss_on_prompt:  # as runs were begun before there was the field
            del fields["loss_on_prompt"]
        optimizer = dataclasses.asdict(self.optimizer)
        own = {"lora": self.lora.describe(), "lengths": dict(self.lengths)}
        return fields | own | {"optimizer": optimizer}


def train_arguments(
    settings: TuningSettings, base: ModelSource, rows: files.StrPath, model_dir: files.StrPath
) -> dict[str, Any]:
    """The arguments of `t5x_ext.train.train` for one run over a base.

    Args:
        settings: the recipe.
        base: what is tuned over.
        rows: train.jsonl of a round.
        model_dir: of the run.

    Raises:
        ConfigError: the base cannot be tuned, or a response would be tuned on without its end.
    """
    source, config, vocabulary = base.describe()
    config = config.replace(dtype=base.dtype, remat_policy=settings.remat_policy)
    module = network.Transformer(config, settings.lora, quantization=base.quantization)
    model = DecoderOnlyModel(
        module,
        vocabulary,
        settings.optimizer,
        inputs_bidirectional_attention=bool(source.bidirectional),
        loss_on_prompt=settings.loss_on_prompt,
    )
    steps = settings.num_steps(len(read_records(rows)))
    rate = create_learning_rate_scheduler(
        "constant * linear_warmup",
        settings.learning_rate,
        warmup_steps=round(settings.warmup_share * steps),
    )
    dataset = DatasetConfig(
        mixture_or_task_name=str(rows),
        task_feature_lengths=dict(settings.lengths),
        split="train",
        batch_size=settings.batch_size,
        pack=bounds.PER_BATCH,  # most rows are far shorter than the longest
        prompt=PROMPT,
    )
    check_ends(load_rows(dataset, model), vocabulary)
    return {
        "model": model,
        "model_dir": str(model_dir),
        "train_dataset_cfg": dataset,
        "checkpoint_cfg": CheckpointConfig(
            RestoreCheckpointConfig(path=source.path),
            SaveCheckpointConfig(period=settings.save_period),
        ),
        "trainer_cls": functools.partial(Trainer, learning_rate_fn=rate),
        "total_steps": steps + source.step,
        "stats_period": max(1, min(10, steps // 5)),
        "random_seed": settings.seed,
    }


def check_context(settings: TuningSettings, base: ModelSource) -> None:
    """Refuses rows that are longer than the base was made for, before any is written.

    Raises:
        ConfigError: they are, or the base cannot be read.
    """
    model = DecoderOnlyModel(network.Transformer(base.describe().config))
    model.check_context(settings.lengths)


def check_answers(settings: TuningSettings, max_new_tokens: int) -> None:
    """Refuses answers longer than what is tuned on, before any is written.

    An answer that is cut, and closed by EOS, teaches to stop in the middle.

    Args:
        settings: the recipe.
        max_new_tokens: of an answer, end of sequence included.

    Raises:
        ConfigError: they may be.
    """
    most = settings.lengths["targets"]
    if max_new_tokens > most:
        raise ConfigError(
            f"ResponseSettings.max_new_tokens: {max_new_tokens}; allowed: up to {most}, the tokens "
            "of a response that are tuned on (TASK_FEATURE_LENGTHS['targets'])"
        )


def check_ends(examples: Sequence[Example], vocabulary: Vocabulary) -> None:
    """Refuses rows whose loss does not teach where a response ends: such models never stop.

    Args:
        examples: tokenised rows; all tokens of a target count in the loss.
        vocabulary: knows the end of sequence.

    Raises:
        ConfigError: a target does not end with it.
    """
    ends = sorted(getattr(vocabulary, "eos_ids", (vocabulary.eos_id,)))
    for example in examples:
        for target in example.targets:
            if not len(target) or int(target[-1]) not in ends:
                raise ConfigError(
                    f"{example.task}: row {example.id}: no end of sequence (ids {ends}) in the "
                    "loss; allowed: responses that end with it, or the model would never stop"
                )


def begin(
    settings: TuningSettings, base: ModelSource, rows: files.StrPath, directory: epath.Path
) -> None:
    """Notes in `directory` what a run is begun with, or compares what it was begun with.

    Raises:
        ConfigError: an earlier run had other rows, another base or other settings.
    """
    facts = {
        "rows": hashlib.sha256(files.read_bytes(rows)).hexdigest()[:16],
        "quantization": base.quantization,
        "dtype": base.dtype,
        "base": base.open()[None].identity,  # of these too, and so after them
        **settings.describe(),
    }
    facts = json.loads(json.dumps(facts))
    path = directory / _SETTINGS
    if not files.is_file(path):
        files.write_text(path, json.dumps(facts, indent=2) + "\n")
        return
    begun = Fields(path).values
    for name in {**begun, **facts}:
        if begun.get(name) != facts.get(name):
            raise ConfigError(
                f"{path}: '{name}' was {begun.get(name)!r:.60}, but this run has "
                f"{facts.get(name)!r:.60}; allowed: what the adapter was begun with, or a "
                "directory without tuning.json, run and adapter"
            )


def write_adapter(model_dir: files.StrPath, directory: files.StrPath) -> None:
    """Writes a finished run's adapter as a directory of PEFT's, with the prompt it was tuned in.

    Raises:
        ConfigError: the run holds no adapter, or the directory exists.
    """
    params, source = load(str(model_dir))
    lora = lora_in(source.meta)
    if lora is None or source.config is None:
        raise ConfigError(f"{model_dir}: holds no adapter")
    base = source.meta[ADAPTER]["base"]
    facts = base["path"], base["sha256"], source.step, PROMPT, base["quantization"] or NOT_QUANTIZED
    adapter = peft.StoredAdapter(lora, params, *facts)
    peft.write(str(directory), source.config, adapter, source.bidirectional)


def load_rows(dataset: DatasetConfig, model: DecoderOnlyModel) -> list[Example]:
    """The tokenised rows that a run trains on."""
    datasets.set_context(SuperNIConfig(), model.vocabulary, model.features)
    return datasets.load_flat(dataset)
