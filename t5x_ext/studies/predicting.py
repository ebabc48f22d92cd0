"""Decoding the models of a study: alone, or those that were tuned together in one program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from t5x_ext.decoding import Greedy
from t5x_ext.decoding.adapters import gather_by_slot
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.decoding.predict import predict, predict_by_adapter, predict_together
from t5x_ext.decoding.stops import check_stops
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.models import BaseTransformerModel, parameters
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.studies.arms import Arm, DecodingSettings
from t5x_ext.studies.tuning import Tuned


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Decodes tuned models; compiled decoders are kept from group to group.

    Attributes:
      models: by how they are tuned, see `Arm.tuning`.
      partitioner: the mesh.
      batch_size: prompts decoded at a time.
      task_feature_lengths: longest prompt and longest prediction in tokens.
      eos_ids: name of an initial model -> ids that end an answer of it, and of what is tuned from
        it, besides those of the vocabulary.
    """

    models: Mapping[str, BaseTransformerModel]
    partitioner: PjitPartitioner
    batch_size: int
    task_feature_lengths: Mapping[str, int]
    eos_ids: Callable[[str], tuple[int, ...]] = lambda name: ()

    def predict(self, tuned: Tuned) -> Iterator[list[list[Prediction]]]:
        """For each way of decoding, the predictions of each tuned model for its test examples.

        What a model predicts does not depend on the group that it is in.
        """
        sets = [job.test for job in tuned.jobs]
        cell, decodings = tuned.jobs[0].cell, tuned.jobs[0].decodings
        ends = self.eos_ids(cell.arm.initial)  # all were tuned from one
        decoder_of = functools.partial(self._decoder, cell.arm.tuning, ends)
        if len(sets) > 1 and tuned.frozen:
            stacked = gather_by_slot(tuned.params, self.partitioner)
            params = parameters.join(tuned.frozen, stacked)
            in_slot = tuned.num_models // self.partitioner.num_expert_slots
            for settings in decodings:
                yield predict_by_adapter(decoder_of(settings, in_slot), params, sets)
        elif len(sets) > 1:
            for settings in decodings:
                yield predict_together(decoder_of(settings), tuned.params, sets)
        else:
            params = parameters.join(tuned.frozen, tuned.params)
            for settings in decodings:
                yield [predict(decoder_of(settings), params, sets[0])]

    def check(self, arms: Iterable[Arm]) -> None:
        """Refuses arms whose answers could not be decoded, before hours of tuning.

        Raises:
          ConfigError: names the arm, and what of its decoding is not allowed.
        """
        for arm in arms:
            try:
                self._check(arm)
            except ConfigError as error:
                raise ConfigError(f"Arm {arm.name}: {error}") from None

    def _check(self, arm: Arm) -> None:
        decoder = self._decoder(arm.tuning, self.eos_ids(arm.initial), arm.decoding_settings)
        if decoder.method.num_sides > 1:
            raise ConfigError(
                f"decoding {type(decoder.method).__name__}, which needs an amateur; allowed: "
                "Greedy, Sampling, Beam (of a contrast: GeneratedData.contrast)"
            )
        decoder.method.check_ids(decoder.output_ids)
        if arm.stop and not any(map(functools.partial(_survives, decoder.model), arm.stop)):
            raise ConfigError(
                f"stop {tuple(arm.stop)!r}: the vocabulary cannot write any of them, so that no "
                "answer would end there; allowed: texts without white space that it loses, or ()"
            )

    @functools.cached_property
    def _decoder(self) -> Any:
        """(tuning, further EOS ids, settings, adapters, if several) -> a decoder, made once."""

        def make(
            tuning: str,
            ends: tuple[int, ...],
            settings: DecodingSettings,
            num_adapters: int | None = None,
        ) -> Decoder:
            model, lengths = self.models[tuning], self.task_feature_lengths
            vocabulary = model.output_vocabulary
            ids = OutputIds.of(vocabulary).ending_also_at(ends)
            stops = check_stops(settings.stop, vocabulary, vocabulary.vocab_size)
            return Decoder(
                model if num_adapters is None else model.with_adapters(num_adapters),
                self.partitioner,
                self.batch_size,
                lengths["inputs"],
                settings.longest_output(lengths["targets"]),
                settings.decoding or Greedy(),
                ids=dataclasses.replace(ids, stops=stops),
                output_limit=settings.output_limit,
            )

        return functools.cache(make)


def _survives(model: BaseTransformerModel, text: str) -> bool:
    """Whether a text can stand in an answer; some vocabularies have no line break."""
    vocabulary = model.output_vocabulary
    return text in vocabulary.decode(vocabulary.encode(f"a{text}a"))
