"""What a model makes of given answers: the calls of `Model` that generate nothing."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from t5x_ext import bounds
from t5x_ext.decoding import prompts as texts
from t5x_ext.decoding import token_calls
from t5x_ext.decoding.adapters import Adapter
from t5x_ext.decoding.base_calls import BaseCalls
from t5x_ext.decoding.likelihood import Scorer, to_example
from t5x_ext.decoding.marginal import mix_scores
from t5x_ext.decoding.requests import split_contexts
from t5x_ext.decoding.token_ids import check_rows
from t5x_ext.errors import ConfigError


class ScoringCalls(BaseCalls):
    """Texts or token ids in, probabilities out; `adapter` as `BaseCalls` has it."""

    def score(
        self,
        prompts: Iterable[str],
        targets: Iterable[str],
        batch_size: int = 8,
        max_input_tokens: int | None = None,
        adapter: Adapter = None,
    ) -> np.ndarray:
        """How probable the model finds given answers.

        Args:
          prompts: as of `generate`.
          targets: one answer per prompt.
          batch_size: as of `generate`.
          max_input_tokens: as of `generate`.
          adapter: see `BaseCalls`.

        Returns:
          float32 [len(prompts)]: natural logarithm of the answer's probability, the sum over its
          tokens and the end of sequence.

        Raises:
          ConfigError: not as many targets as prompts, an argument of another type or out of range,
            or a prompt and its target longer than the model's context.
        """
        bounds.check_int("Model: batch_size", batch_size, 1, bounds.MAX_ROWS)
        prompts = texts.check_prompts(self.vocabulary, "prompts", prompts)
        inputs = texts.prompt_tokens(self._described, prompts, max_input_tokens, self.path)
        targets = texts.check_texts("targets", targets)
        if len(targets) != len(prompts):
            raise ConfigError(
                f"Model.score: {len(targets)} targets for {len(prompts)} prompts; allowed: one "
                "for each"
            )
        to_tokens = functools.partial(self._described.features.target_tokens, self.vocabulary)
        examples = [
            to_example(tokens, to_tokens(target, prompt))
            for tokens, target, prompt in zip(inputs, targets, prompts, strict=True)
        ]
        for example in examples:
            self._check_context(len(example.inputs), len(example.targets[0]))
        index = self._adapter_index(adapter, len(examples))
        longest = token_calls.longest_input(inputs, max_input_tokens)
        places = self._places(batch_size, inputs, len(examples))
        scorer = self._scorer(places, longest)
        return scorer.log_likelihoods(self.params, examples, index)

    def score_tokens(
        self,
        prompts: Sequence[Any],
        responses: Sequence[Sequence[int]],
        weights: Sequence[Sequence[float]] | None = None,
        batch_size: int = 8,
        adapter: Adapter = None,
    ) -> list[list[float]]:
        """How probable the model finds given answers, token by token.

        Args:
          prompts: token ids; with `weights`, a list of such prompts each.
          responses: token ids of an answer to each; nothing is added to them.
          weights: as of `generate_outputs`.
          batch_size: rows at a time; no result depends on it.
          adapter: see `BaseCalls`.

        Returns:
          Natural logarithms, one for each token of each answer.

        Raises:
          ConfigError: an argument is not allowed.
        """
        bounds.check_int("Model: batch_size", batch_size, 1, bounds.MAX_ROWS)
        groups, log_weights = split_contexts(prompts, weights)
        responses = bounds.to_list("responses", responses, "a list of rows of token ids")
        if len(responses) != len(groups):
            raise ConfigError(
                f"score_tokens: {len(responses)} responses for {len(groups)} prompts; allowed: one "
                "for each"
            )
        index = self._adapter_index(adapter, len(groups))
        check = functools.partial(check_rows, "score_tokens", vocab_size=self.config.vocab_size)
        targets = check(responses, may_be_empty=True)
        inputs = check([prompt for group in groups for prompt in group])
        owners = [place for place, group in enumerate(groups) for _ in group]
        examples = []
        for row, place in zip(inputs, owners, strict=True):
            self._check_context(len(row), len(targets[place]))
            examples.append(to_example(row, targets[place]))
        longest = token_calls.round_up_length(max(map(len, inputs), default=1))
        scorer = self._scorer(self._places(batch_size, inputs, len(examples)), longest)
        of_rows = None if index is None else index[owners]
        found = iter(scorer.token_log_probs(self.params, examples, of_rows))
        return [
            mix_scores([next(found) for _ in group], of_group).tolist()
            for group, of_group in zip(groups, log_weights, strict=True)
        ]

    def token_logits(
        self, rows: Sequence[Sequence[int]], batch_size: int = 8, adapter: Adapter = None
    ) -> list[np.ndarray]:
        """Scores of every next token, teacher-forced; the ids are the whole input.

        Args:
          rows: token ids; nothing is added to them, and each sees those before it, in a prefix
            language model too.
          batch_size: rows at a time; a result does not depend on it.
          adapter: see `BaseCalls`.

        Returns:
          float32 [L, vocab_size] for each row of L ids.

        Raises:
          ConfigError: the model has an encoder, or a row or an id is not allowed.
        """
        bounds.check_int("Model.token_logits: batch_size", batch_size, 1, bounds.MAX_ROWS)
        checked = check_rows("token_logits", rows, self.config.vocab_size)
        scorer = self._token_logits(self._places(batch_size, checked, len(checked)))
        for row in checked:
            self._check_context(len(row), 0)
        return scorer(self.params, checked, self._adapter_index(adapter, len(checked)))

    # What is compiled for a setting is kept for the next call with it.
    @functools.cached_property
    def _token_logits(self) -> Any:
        make = functools.partial(token_calls.TokenLogits, self._described, self.partitioner)
        return functools.lru_cache(make)

    @functools.cached_property
    def _scorer(self) -> Any:
        return functools.lru_cache(functools.partial(Scorer, self._described, self.partitioner))
