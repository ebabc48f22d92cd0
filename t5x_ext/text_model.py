"""A model for Python and notebooks: weights, vocabulary and devices behind text in, text out.

from t5x_ext import Model

model = Model.load("downloads/flan-t5-base")        # or a MODEL_DIR, or a T5X checkpoint
model.generate(["Translate to German: My name is Arthur."])
model.score(["Is the sky blue?"], ["yes"])          # log-probabilities
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mixtures.vocabularies import Vocabulary, open_vocabulary, save_tokenizer
from t5x_ext import bounds
from t5x_ext.checkpoints import hugging_face, own_layout, t5x_layout, trees
from t5x_ext.checkpoints.adapters import open_adapter, place, split_path, stack
from t5x_ext.checkpoints.fingerprints import fingerprint_base
from t5x_ext.checkpoints.params import hash_params, load, open_source
from t5x_ext.checkpoints.sources import Index, LazyTensor, Source
from t5x_ext.data.records import Example
from t5x_ext.decoding import Greedy, Method, token_calls
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.likelihood import Scorer
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel, DecoderOnlyModel, EncoderDecoderModel, network
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.lora import DEFAULT, LoRA
from t5x_ext.models.parameters import Params, join, select, without
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.training.state import abstract_params

LAYOUTS = ("t5x_ext", "hf", "t5x")


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """Parameters on devices, with what turns text into their inputs.

    Attributes:
      config: shape and numerics of the network.
      params: nested dict of arrays, see `Network.specs`.
      vocabulary: of prompts and answers; None where the checkpoint has none: only calls with token
        ids work then.
      partitioner: the mesh that `params` live on.
      path: the checkpoint they come from.
      step: updates they have seen; 0 where the checkpoint does not say.
      meta: what the checkpoint says of itself.
      adapters: names of the adapters that `params` hold besides, in their order; adapter 0, without
        a name, is none.
      lora: which layers they are on; None without.
      quantization: of the kernels of layers, 'nf4' or None.
    """

    config: ModelConfig
    params: Params
    vocabulary: Vocabulary | None
    partitioner: PjitPartitioner
    path: str = ""
    step: int = 0
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    adapters: Sequence[str] = ()
    lora: LoRA | None = None
    quantization: str | None = None

    @classmethod
    def load(
        cls,
        path: str,
        dtype: str = "float32",
        vocabulary: Vocabulary | str | None = None,
        partitioner: PjitPartitioner | None = None,
        adapter: str | None = None,
        adapters: Mapping[str, str] | None = None,
        quantization: str | None = None,
    ) -> Model:
        """Loads a model of any layout onto the devices at hand.

        Args:
          path: what INITIAL_CHECKPOINT_PATH takes: a Hugging Face directory, a checkpoint of T5X,
            one of ours, or a MODEL_DIR (its newest checkpoint).
          dtype: 'float32' or 'bfloat16', of parameters and computation. bfloat16 halves the memory
            and is what accelerators are fast at; norms, softmax and logits stay float32.
          vocabulary: a vocabulary, or a path for `vocabularies.open_vocabulary`. None is the one
            beside the weights.
          partitioner: how to use several devices. None gives each a whole copy of the parameters
            and a part of every batch; `PjitPartitioner(fsdp=8)` splits the parameters over 8.
          adapter: a directory of PEFT's or a run with LoRA. All calls use it that name no other.
          adapters: several of them by name, over parameters that are held once. Calls say which
            each row uses; those that do not use none.
          quantization: 'nf4' holds the kernels of layers in four bits a number; None as they are.

        Raises:
          ConfigError: there is no checkpoint, or it does not state its shape, or an adapter is of
            another base.
          mixtures.errors.DataError: the vocabulary cannot be read.
        """
        trees.check_dtype(dtype, "Model.load: dtype")
        if adapter is not None and adapters is not None:
            raise ConfigError("Model.load: adapter and adapters; allowed: one of them")
        path, adapter = split_path(path, adapter) if adapters is None else (path, None)
        named = dict(adapters or {}) if adapter is None else {DEFAULT: adapter}
        source = open_source(path)
        if source.config is None:
            raise ConfigError(
                f"{path}: does not state its model's shape; allowed: Hugging Face directories, T5X"
                " checkpoints, and what `convert` and runs of this version write"
            )
        vocabulary = source.tokenizer_dir if vocabulary is None else vocabulary
        if isinstance(vocabulary, str):
            vocabulary = open_vocabulary(vocabulary)
        config = source.config.replace(dtype=dtype)
        partitioner = partitioner or PjitPartitioner()
        _described(config, vocabulary).check_vocabulary()
        loaded = {name: open_adapter(where, config) for name, where in named.items()}
        lora, stacked = stack([*loaded.values()], config) if loaded else (None, {})
        described = _described(config, vocabulary, lora, len(loaded) + 1, quantization)
        wanted = abstract_params(described, partitioner)
        base = without(stacked, wanted)
        params, source = load(path, base, dtype)
        for each in loaded.values():
            each.check_base(fingerprint_base(source), path)
        params = join(params, place(stacked, select(stacked, wanted)))
        return cls(
            config,
            params,
            vocabulary,
            partitioner,
            source.path,
            max([source.step, *(each.step for each in loaded.values())]),
            source.meta,
            tuple(loaded),
            lora,
            quantization,
        )

    def generate(
        self,
        prompts: Iterable[str],
        max_new_tokens: int = 128,
        batch_size: int = 8,
        max_input_tokens: int = 1024,
        decoding: Method | None = None,
    ) -> list[str]:
        """Answers prompts.

        Args:
          prompts: texts, in the format the model was tuned with.
          max_new_tokens: longest answer in tokens, end of sequence included.
          batch_size: prompts at a time; an answer does not depend on it.
          max_input_tokens: longest prompt in tokens, end of sequence included. A longer one loses
            its end, with a warning.
          decoding: `Sampling`, `Beam` or `Greedy` of t5x_ext.decoding; None is greedy. Of several
            outputs the first is taken.

        Returns:
          One text per prompt, in the order given.

        Raises:
          ConfigError: an argument is of another type, or out of range.
        """
        method = Greedy() if decoding is None else decoding
        if not isinstance(method, Method):
            raise ConfigError(
                f"Model.generate: decoding: {method!r}; allowed: Greedy(), Sampling(...) or "
                "Beam(...) of t5x_ext.decoding, or None"
            )
        bounds.check_int("Model.generate: max_new_tokens", max_new_tokens, 1, bounds.MAX_TOKENS)
        examples = self._examples(prompts, batch_size, max_input_tokens)
        decoder = self._decoder(batch_size, max_input_tokens, max_new_tokens, method)
        answers = {
            i: text for pairs in decoder.decode_texts(self.params, examples) for i, text in pairs
        }
        return [answers[index] for index in range(len(examples))]

    def score(
        self,
        prompts: Iterable[str],
        targets: Iterable[str],
        batch_size: int = 8,
        max_input_tokens: int = 1024,
    ) -> np.ndarray:
        """How probable the model finds given answers.

        Args:
          prompts: as of `generate`.
          targets: one answer per prompt.
          batch_size: as of `generate`.
          max_input_tokens: as of `generate`.

        Returns:
          float32 [len(prompts)]: natural logarithm of the answer's probability, the sum over its
          tokens and the end of sequence.

        Raises:
          ConfigError: not as many targets as prompts, or an argument of another type, or out of
            range.
        """
        examples = self._examples(prompts, batch_size, max_input_tokens)
        targets = _texts("targets", targets)
        if len(targets) != len(examples):
            raise ConfigError(
                f"Model.score: {len(targets)} targets for {len(examples)} prompts; "
                "allowed: a list of as many"
            )
        to_tokens = functools.partial(self._described.features.target_tokens, self.vocabulary)
        examples = [
            dataclasses.replace(
                example,
                targets=(to_tokens(target, example.inputs_pretokenized),),
                references=(target,),
            )
            for example, target in zip(examples, targets, strict=True)
        ]
        return self._scorer(batch_size, max_input_tokens).log_likelihoods(self.params, examples)

    def token_logits(self, rows: Sequence[Sequence[int]], batch_size: int = 8) -> list[np.ndarray]:
        """Scores of every next token, teacher-forced; the ids are the whole input.

        Args:
          rows: token ids; nothing is added to them.
          batch_size: rows at a time; a result does not depend on it.

        Returns:
          float32 [L, vocab_size] for each row of L ids.

        Raises:
          ConfigError: the model has an encoder, or a row or an id is not allowed.
        """
        bounds.check_int("Model.token_logits: batch_size", batch_size, 1, bounds.MAX_ROWS)
        return self._token_logits(batch_size)(self.params, rows)

    def generate_tokens(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int = 128,
        decoding: Method | None = None,
        eos_ids: Sequence[int] | None = None,
        batch_size: int = 8,
    ) -> list[list[int]]:
        """Continues prompts of token ids.

        Args:
          prompts: token ids; nothing is added to them.
          max_new_tokens: longest answer in tokens, end of sequence included.
          decoding: as of `generate`.
          eos_ids: ids that end an answer; None is as the vocabulary has them, or none without one.
          batch_size: prompts at a time; an answer does not depend on it.

        Returns:
          The new ids of each prompt, the end of sequence left out.

        Raises:
          ConfigError: an argument is not allowed.
        """
        bounds.check_int("Model.generate_tokens: batch_size", batch_size, 1, bounds.MAX_ROWS)
        bounds.check_int(
            "Model.generate_tokens: max_new_tokens", max_new_tokens, 1, bounds.MAX_TOKENS
        )
        rows = token_calls.check_rows("generate_tokens", prompts, self.config.vocab_size)
        # One decoder, and so one compiled program, for prompts of similar length.
        longest = max((len(row) for row in rows), default=1)
        limit = 64 << max(0, (longest - 1).bit_length() - 6)
        ids = self._output_ids(None if eos_ids is None else tuple(int(i) for i in eos_ids))
        method = Greedy() if decoding is None else decoding
        decoder = self._decoder(batch_size, limit, max_new_tokens, method, ids=ids)
        return token_calls.generate_tokens(decoder, self.params, rows)

    def _output_ids(self, eos_ids: tuple[int, ...] | None) -> OutputIds:
        if self.vocabulary is None:
            return OutputIds(eos_ids or (), self.config.vocab_size)
        known = OutputIds.of(self.vocabulary)
        return known if eos_ids is None else dataclasses.replace(known, eos=eos_ids)

    def save(self, path: str, layout: str = "t5x_ext") -> None:
        """Writes parameters, config and vocabulary; complete or absent.

        Args:
          path: directory to create.
          layout: 't5x_ext' (ours), 'hf' (for `transformers`) or 't5x'.

        Raises:
          ConfigError: `path` exists, or the layout is none of these.
        """
        if layout not in LAYOUTS:
            raise ConfigError(f"Model.save: layout {layout!r}; allowed: {', '.join(LAYOUTS)}")
        if self.adapters or self.quantization:
            raise ConfigError(
                "Model.save: this one has adapters or quantised kernels; allowed: `t5x_ext convert "
                "--merge_into`, which says what merging changes"
            )
        with tempfile.TemporaryDirectory() as tokenizer_dir:
            if self.vocabulary is not None:
                save_tokenizer(self.vocabulary, tokenizer_dir)
            source = self._as_source(None if self.vocabulary is None else tokenizer_dir)
            if layout == "hf":
                hugging_face.write_hf(source, path)
            elif layout == "t5x":
                t5x_layout.write_t5x(source, path, scan_layers=False)
            else:
                own_layout.write_params(source, path)

    def _as_source(self, tokenizer_dir: str | None) -> Source:
        """This model as the writers see a checkpoint: arrays leave the devices one by one."""
        leaves = trees.named_leaves(self.params)
        return Source(
            kind="t5x_ext",
            path=self.path,
            tensors={
                name: LazyTensor(leaf.shape, np.dtype(leaf.dtype), _reader(leaf))
                for name, leaf in leaves.items()
            },
            config=self.config,
            step=self.step,
            digest_fn=lambda: hash_params(leaves),
            meta=self.meta,
            tokenizer_dir=tokenizer_dir,
        )

    def _examples(
        self, prompts: Iterable[str], batch_size: int, max_input_tokens: int
    ) -> list[Example]:
        if self.vocabulary is None:
            raise ConfigError(
                f"{self.path}: has no vocabulary; give Model.load vocabulary=..., a SentencePiece "
                "file, a directory with a tokenizer, or one of mixtures.vocabularies"
            )
        prompts = _texts("prompts", prompts)
        bounds.check_int("Model: batch_size", batch_size, 1, bounds.MAX_ROWS)
        bounds.check_int("Model: max_input_tokens", max_input_tokens, 1, bounds.MAX_TOKENS)
        to_tokens = functools.partial(self._described.features.prompt_tokens, self.vocabulary)
        tokens = [to_tokens(prompt) for prompt in prompts]
        lengths = [len(ids) for ids in tokens]
        too_long = sum(length > max_input_tokens for length in lengths)
        if too_long:
            warnings.warn(
                f"{too_long} of {len(tokens)} prompts have more than max_input_tokens="
                f"{max_input_tokens} tokens (up to {max(lengths)}) and lose their end",
                stacklevel=3,
            )
        return [
            Example(
                id=str(index),
                task="",
                category="",
                inputs=_cut(ids, max_input_tokens, self.config.has_encoder),
                targets=(),
                inputs_pretokenized=prompt,
                references=(),
                truncated=len(ids) > max_input_tokens,
            )
            for index, (prompt, ids) in enumerate(zip(prompts, tokens, strict=True))
        ]

    @functools.cached_property
    def _described(self) -> BaseTransformerModel:
        count = len(self.adapters) + 1
        return _described(self.config, self.vocabulary, self.lora, count, self.quantization)

    # What is compiled for a setting is kept for the next call with it.
    @functools.cached_property
    def _decoder(self) -> Any:
        return functools.lru_cache(functools.partial(Decoder, self._described, self.partitioner))

    @functools.cached_property
    def _token_logits(self) -> Any:
        make = functools.partial(token_calls.TokenLogits, self._described, self.partitioner)
        return functools.lru_cache(make)

    @functools.cached_property
    def _scorer(self) -> Any:
        return functools.lru_cache(functools.partial(Scorer, self._described, self.partitioner))


def _described(
    config: ModelConfig,
    vocabulary: Vocabulary | None,
    lora: LoRA | None = None,
    num_adapters: int = 1,
    quantization: str | None = None,
) -> BaseTransformerModel:
    module = network.Transformer(config, lora, num_adapters if lora else None, quantization)
    if config.has_encoder:
        return EncoderDecoderModel(module, vocabulary, vocabulary)
    return DecoderOnlyModel(module, vocabulary)


def _texts(name: str, given: Iterable[str]) -> list[str]:
    """The texts of an argument, as a list.

    Raises:
      ConfigError: it is one text, no iterable, or holds something that is no valid text.
    """
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ConfigError(f"Model: {name} is {type(given).__name__}; allowed: a list of texts")
    texts = list(given)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigError(
                f"Model: {name}[{index}] is {type(text).__name__}; allowed: a list of texts"
            )
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ConfigError(
                f"Model: {name}[{index}] has half of a surrogate pair, which is no character: "
                f"{text[:60]!r}; allowed: text that UTF-8 can hold"
            )
    return texts


def _cut(ids: np.ndarray, limit: int, has_end: bool) -> np.ndarray:
    """The first `limit` ids; the last of them is the end of sequence, where prompts have one."""
    if len(ids) <= limit or not has_end:
        return ids[:limit]
    return np.concatenate([ids[: limit - 1], ids[-1:]])


def _reader(leaf: jax.Array) -> Any:
    def read(index: Index) -> np.ndarray:
        return np.ascontiguousarray(leaf[index])

    return read
