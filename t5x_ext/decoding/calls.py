"""What can be asked of a model in memory: the calls of `Model`, and those that generate."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, TypedDict, Unpack

from t5x_ext import bounds
from t5x_ext.decoding import prompts as texts
from t5x_ext.decoding import token_calls
from t5x_ext.decoding.adapters import Adapter, adapter_number, contrasted
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.methods import Method, OutputIds, check_method
from t5x_ext.decoding.outputs import Output, make_output
from t5x_ext.decoding.requests import make_requests, split_contexts
from t5x_ext.decoding.sampling import Greedy
from t5x_ext.decoding.scoring_calls import ScoringCalls
from t5x_ext.decoding.stops import Stop, check_stops
from t5x_ext.decoding.token_ids import check_ids, check_rows
from t5x_ext.errors import ConfigError


class How(TypedDict, total=False):
    """What all calls that generate take by name; see `Calls.generate_outputs`."""

    weights: Sequence[Sequence[float]] | None
    adapter: Adapter
    amateur: str | Calls | None
    stop: Sequence[Stop] | None
    numbers: Sequence[int] | None


class Calls(ScoringCalls):
    """Texts or token ids in; texts, ids or probabilities out.

    Generating calls stand here, those for given answers in `ScoringCalls`; `adapter` is in all of
    them as `BaseCalls` has it.
    """

    def generate(
        self,
        prompts: Iterable[Any],
        max_new_tokens: int = 128,
        batch_size: int = 8,
        max_input_tokens: int | None = None,
        decoding: Method | None = None,
        **how: Unpack[How],
    ) -> list[str]:
        """Answers prompts.

        Args:
          prompts: texts, in the format the model was tuned with; or chats, lists of messages such
            as {"role": "user", "content": "Hello"}. With `weights`, lists of either.
          max_new_tokens: longest answer in tokens, end of sequence included.
          batch_size: answers at a time at most; none depends on it.
          max_input_tokens: longest prompt in tokens, end of sequence included. A longer one loses
            its end, with a warning. None cuts none: prompts that are too long for the model's
            context beside `max_new_tokens` are refused.
          decoding: `Greedy`, `Sampling`, `Beam` or `Contrastive` of t5x_ext.decoding; None is
            greedy. Of several outputs the first is taken.
          how: weights, adapter, amateur, stop and numbers, as of `generate_outputs`.

        Returns:
          One text per prompt, in the order given.

        Raises:
          ConfigError: an argument is of another type, or out of range.
        """
        check = functools.partial(texts.check_prompts, self.vocabulary)
        if how.get("weights") is None:
            prompts = check("prompts", prompts)
        else:
            groups = bounds.to_list("prompts", prompts, "a list of prompts")
            prompts = [check(f"prompts[{i}]", group) for i, group in enumerate(groups)]
        args = prompts, max_new_tokens, decoding, None, batch_size, max_input_tokens, False
        outputs = self._outputs("generate", *args, **how)
        return [str(output.text) for output in outputs]

    def generate_tokens(
        self,
        prompts: Sequence[Any],
        max_new_tokens: int = 128,
        decoding: Method | None = None,
        eos_ids: Sequence[int] | None = None,
        batch_size: int = 8,
        **how: Unpack[How],
    ) -> list[list[int]]:
        """Continues prompts of token ids.

        Args:
          prompts: token ids; nothing is added to them. With `weights`, a list of such prompts each.
          max_new_tokens: longest answer in tokens, end of sequence included.
          decoding: as of `generate`.
          eos_ids: ids that end an answer; None is as the vocabulary and the files of the checkpoint
            have them. An empty list is none.
          batch_size: answers at a time at most; none depends on it.
          how: weights, adapter, amateur, stop and numbers, as of `generate_outputs`.

        Returns:
          The new ids of each prompt, the end of sequence left out.

        Raises:
          ConfigError: an argument is not allowed.
        """
        prompts = bounds.to_list("prompts", prompts, "a list of rows of token ids")
        in_groups = how.get("weights") is not None
        texts.refuse_texts("generate_tokens: prompts", prompts, in_groups)
        args = prompts, max_new_tokens, decoding, eos_ids, batch_size, None, False
        outputs = self._outputs("generate_tokens", *args, **how)
        return [output.tokens for output in outputs]

    def generate_outputs(
        self,
        prompts: Sequence[Any],
        max_new_tokens: int = 128,
        decoding: Method | None = None,
        eos_ids: Sequence[int] | None = None,
        batch_size: int = 8,
        max_input_tokens: int | None = None,
        **how: Unpack[How],
    ) -> list[Output]:
        """Answers prompts, and says how each answer ended and how probable it was.

        Args:
          prompts: texts, as of `generate`, or token ids, as of `generate_tokens`. With `weights`, a
            list of them each, which share one answer.
          max_new_tokens: longest answer in tokens, end of sequence included.
          decoding: as of `generate`, but for `Beam`.
          eos_ids: as of `generate_tokens`.
          batch_size: answers at a time at most; none depends on it.
          max_input_tokens: of texts, as of `generate`.
          how: by name:
            weights: of each list of prompts, probabilities that sum to 1. Each token is then chosen
              by the mixture of what the prompts make probable.
            adapter: see `BaseCalls`.
            amateur: whom `Contrastive` is set against: an adapter's name, None for the base alone,
              or another model, which reads with the adapter that it was loaded with.
            stop: texts, or lists of ids, that end an answer wherever they appear in it, and are
              left out; None is none.
            numbers: of the prompts, their places if left out. Samples depend on them and the seed.

        Raises:
          ConfigError: an argument is not allowed.
        """
        args = prompts, max_new_tokens, decoding, eos_ids, batch_size, max_input_tokens, True
        return self._outputs("generate_outputs", *args, **how)

    def _outputs(
        self,
        call: str,
        prompts: Iterable[Any],
        max_new_tokens: int,
        decoding: Method | None,
        eos_ids: Sequence[int] | None,
        batch_size: int,
        max_input_tokens: int | None,
        keep_log_probs: bool,
        *,
        weights: Sequence[Sequence[float]] | None = None,
        adapter: Adapter = None,
        amateur: str | Calls | None = None,
        stop: Sequence[Stop] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[Output]:
        method = Greedy() if decoding is None else check_method(decoding)
        bounds.check_int("Model: max_new_tokens", max_new_tokens, 1, bounds.MAX_TOKENS)
        bounds.check_int("Model: batch_size", batch_size, 1, bounds.MAX_ROWS)
        groups, log_weights = split_contexts(prompts, weights)
        flat = [prompt for group in groups for prompt in group]
        kinds = {isinstance(p, str) or texts.is_chat(p) for p in flat}
        if len(kinds) > 1:
            raise ConfigError(f"{call}: prompts: texts and token ids; allowed: all of one kind")
        is_text = kinds == {True}
        if is_text:
            flat = texts.check_prompts(self.vocabulary, "prompts", flat)
            rows = texts.prompt_tokens(self._described, flat, max_input_tokens, self.path)
            longest = token_calls.longest_input(rows, max_input_tokens)
        else:
            rows = check_rows(call, flat, self.config.vocab_size)
            longest = token_calls.round_up_length(max(map(len, rows), default=1))
        for row in rows:
            self._check_context(len(row), max_new_tokens)
        sides = self._sides(method, adapter, amateur, len(groups))
        left = iter(rows)
        contexts = [[next(left) for _ in group] for group in groups]
        asked = make_requests(contexts, log_weights, sides, numbers)
        other = amateur if isinstance(amateur, Calls) else None
        places = self._places(batch_size, rows, len(groups), max_new_tokens)
        # Stages let short rows finish without waiting for the longest, but each stage compiles a
        # program.
        could_save = -(-len(groups) // places) * (places - 1) * max_new_tokens
        decoder = self._decoder(
            places,
            longest,
            max_new_tokens,
            method,
            first_stage=Decoder.first_stage if could_save > self._worth_compiling else None,
            ids=self._output_ids(eos_ids, stop),
            num_contexts=max((len(group) for group in groups), default=1),
            amateur=None if other is None else other._described,
            amateur_adapter=None if other is None else other._own_adapter,
            keep_log_probs=keep_log_probs,
        )
        params = self.params if other is None else {"expert": self.params, "amateur": other.params}
        vocabulary = self.vocabulary if is_text else None
        found: dict[int, Output] = {}
        for finished in decoder.decode_requests(params, asked):
            for index, place in enumerate(finished.places.tolist()):
                log_probs = None if finished.log_probs is None else finished.log_probs[index, 0]
                tokens = finished.outputs[index, 0]
                found[place] = make_output(tokens, log_probs, decoder.output_ids, vocabulary)
        return [found[place] for place in range(len(groups))]

    def _sides(
        self, method: Method, adapter: Adapter, amateur: str | Calls | None, count: int
    ) -> list[tuple[int, ...]]:
        """The adapters that each prompt is read with: the expert's, and the amateur's.

        Raises:
          ConfigError: there is no such adapter or nothing to contrast, or the amateur is of another
            kind.
        """
        if method.num_sides == 1 and amateur is not None:
            raise ConfigError("amateur: given without a contrast; allowed: Contrastive(...)")
        if method.num_sides == 2 and not isinstance(amateur, Calls):
            return contrasted(self.adapters, self._or_default(adapter), amateur, count)
        if isinstance(amateur, Calls):
            self._check_amateur(amateur)
        index = self._adapter_index(adapter, count)
        return [()] * count if index is None else [(int(one),) for one in index]

    def _check_amateur(self, amateur: Calls) -> None:
        for what, own, others in (
            ("vocab_size", self.config.vocab_size, amateur.config.vocab_size),
            ("has_encoder", self.config.has_encoder, amateur.config.has_encoder),
            ("devices", self.partitioner.mesh, amateur.partitioner.mesh),
        ):
            if own != others:
                raise ConfigError(f"amateur: has {what} {others}; allowed: the expert's, {own}")
        if amateur.adapters and amateur.default_adapter is None:
            raise ConfigError(
                f"amateur: a model with adapters {', '.join(amateur.adapters)}, none of which is "
                "named; allowed: Model.load(..., adapter=DIR), a model without adapters, or the "
                "name of one of the expert's own"
            )

    @property
    def _own_adapter(self) -> int | None:
        """The adapter that the model was loaded with, from 1; None for a model without any."""
        return adapter_number(self.adapters, self.default_adapter) if self.adapters else None

    def _output_ids(self, eos_ids: Sequence[int] | None, stop: Sequence[Stop] | None) -> OutputIds:
        size = self.config.vocab_size
        known = OutputIds((), size) if self.vocabulary is None else OutputIds.of(self.vocabulary)
        known = known.ending_also_at(self._stated_eos_ids)
        eos = known.eos
        if eos_ids is not None:
            eos = tuple(check_ids("eos_ids", eos_ids, size, may_be_empty=True).tolist())
        return OutputIds(eos, known.num_valid, check_stops(stop, self.vocabulary, size))

    # What is compiled for a setting is kept for the next call with it.
    @functools.cached_property
    def _decoder(self) -> Any:
        return functools.lru_cache(functools.partial(Decoder, self._described, self.partitioner))
