"""T5X's bindings that have no parameter here: those that change nothing, and those refused.

A gin file written for T5X may hold them. One that asks for what happens here anyway passes and is
not written down again; any other ends the command with the reason. docs/from_t5x.md lists them.
"""

from __future__ import annotations

import dataclasses
from typing import Any


class _Anything:
    """Stands for every value."""

    def __repr__(self) -> str:
        return "anything"


ANYTHING = _Anything()


@dataclasses.dataclass(frozen=True)
class Named:
    """Stands for a reference to T5X's own function or class of that name."""

    name: str

    def __repr__(self) -> str:
        return f"@{self.name}"


@dataclasses.dataclass(frozen=True)
class Rule:
    """What one of T5X's parameters may say here.

    Attributes:
      why: what happens here, or what to do instead.
      allowed: the values that say so; `ANYTHING` where no value changes a result.
    """

    why: str
    allowed: tuple[Any, ...] = (ANYTHING,)

    def accepts(self, value: Any) -> bool:
        """Whether a value says what happens here anyway; references are given as `Named`."""
        if ANYTHING in self.allowed:
            return True
        value = tuple(value) if isinstance(value, list) else value
        return any(type(value) is type(allowed) and value == allowed for allowed in self.allowed)


_JAX = Rule("JAX has one kind of array")
_STATE = Rule("a new run loads parameters only", (Named("TrainStateInitializer"),))
_VOCABULARIES = Rule(
    "a task's vocabulary is always compared with the model's",
    (Named("verify_matching_vocabs"), None),
)
_CHECKPOINTER = Rule(
    "a run keeps its newest checkpoints and, with SaveCheckpointConfig.best, the best one",
    (Named("Checkpointer"),),
)
_MANAGER = Rule("checkpoints are managed by Orbax", (Named("CheckpointManager"),))
_TRANSFORMATIONS = Rule("a checkpoint is read and written as it is; use convert", ((), None))
_IN_MEMORY = Rule(
    "held-out examples that are decoded are kept as tokens and text, about 6 kB each; "
    "seqio.Evaluator.num_examples takes fewer of them",
    (True,),
)
_LOADED = Rule("a checkpoint holds all of a model's tensors or is refused by name")

_COMMAND = {
    "use_orbax": Rule("checkpoints are always written by Orbax"),
    "train_state_initializer_cls": _STATE,
    "verify_matching_vocabs_fn": _VOCABULARIES,
}

RULES: dict[str, Rule] = {
    **{
        f"{name}.{key}": rule
        for name in ("train", "evaluate", "infer")
        for key, rule in _COMMAND.items()
    },
    "train.concurrent_metrics": Rule("metrics are computed between steps"),
    "train.gc_period": Rule("Python decides when it collects garbage"),
    "train.use_gda": _JAX,
    "train.use_jax_array": _JAX,
    "train.get_dataset_fn": Rule(
        "data comes from SeqIO tasks, JSONL or SuperNI files", (Named("get_dataset"),)
    ),
    "train.train_eval_get_dataset_fn": Rule(
        "data comes from SeqIO tasks, JSONL or SuperNI files",
        (Named("get_training_eval_datasets"),),
    ),
    "evaluate.fallback_init_rng": _LOADED,
    "infer.fallback_init_rng": _LOADED,
    "infer.write_fn": Rule(
        "predictions are written as JSON lines; convert that file",
        (Named("write_inferences_to_file"),),
    ),
    "infer.merge_fn": Rule("one file is written, not chunks", (Named("merge_chunks_to_file"),)),
    "infer.merge_chunked_results": Rule("one file is written, not chunks", (True,)),
    "infer.checkpoint_ds_iter": Rule("a killed run always resumes from what it has written"),
    "infer.keep_aux_as_numpy": Rule("log-likelihoods are written as JSON numbers"),
    "infer.output_vocab_feature_name": Rule(
        "predictions are decoded with EncoderDecoderModel.output_vocabulary", ("targets",)
    ),
    "DatasetConfig.use_custom_packing_ops": Rule(
        "packing is done without TensorFlow here; take the line out", (False,)
    ),
    "DatasetConfig.use_memory_cache": _IN_MEMORY,
    "DatasetConfig.trim_output_features": Rule(
        "examples are always cut to task_feature_lengths; give longer ones", (True,)
    ),
    "Evaluator.use_memory_cache": _IN_MEMORY,
    "SaveCheckpointConfig.save_dataset": Rule("the position in the data is always saved"),
    "SaveCheckpointConfig.keep_dataset_checkpoints": Rule(
        "the position in the data is a few numbers in each checkpoint"
    ),
    "SaveCheckpointConfig.checkpointer_cls": _CHECKPOINTER,
    "SaveCheckpointConfig.checkpoint_manager_cls": _MANAGER,
    "SaveCheckpointConfig.state_transformation_fns": _TRANSFORMATIONS,
    "SaveCheckpointConfig.use_gda": _JAX,
    "RestoreCheckpointConfig.strict": Rule("an initial checkpoint's optimizer is never read"),
    "RestoreCheckpointConfig.assignment_map": dataclasses.replace(_LOADED, allowed=((), None)),
    "RestoreCheckpointConfig.fallback_to_scratch": dataclasses.replace(_LOADED, allowed=(False,)),
    "RestoreCheckpointConfig.restore_dataset": Rule(
        "a new run starts its data from the beginning; the same MODEL_DIR continues it", (False,)
    ),
    "RestoreCheckpointConfig.checkpointer_cls": _CHECKPOINTER,
    "RestoreCheckpointConfig.checkpoint_manager_cls": _MANAGER,
    "RestoreCheckpointConfig.state_transformation_fns": _TRANSFORMATIONS,
    "RestoreCheckpointConfig.use_gda": _JAX,
    "PjitPartitioner.params_on_devices": Rule("parameters are always on the devices", (True,)),
    "PjitPartitioner.backend": Rule("set the environment variable JAX_PLATFORMS", (None,)),
    "EncoderDecoderModel.feature_converter_cls": Rule(
        "features are made from a task's 'inputs' and 'targets'; preprocess in the task",
        (None, Named("EncDecFeatureConverter")),
    ),
    "DecoderOnlyModel.feature_converter_cls": Rule(
        "features are made from a task's 'inputs' and 'targets'; see loss_on_prompt and "
        "inputs_bidirectional_attention",
        (None, Named("DecoderFeatureConverter"), Named("PrefixLMFeatureConverter")),
    ),
    "predict_batch_with_aux.decoder_params": Rule("bind the parameters of decode_fn", (None,)),
    "predict_batch_with_aux.return_all_decodes": Rule(
        "a row of predictions.jsonl holds the best output; Decoder.decode_outputs gives all",
        (False,),
    ),
    "predict_batch_with_aux.prompt_with_targets": Rule(
        "use a decoding method's forced_prefix, with which every output begins", (False,)
    ),
    "temperature_sample.rescale_log_probs": Rule(
        "log-likelihoods are the model's own, whatever the temperature"
    ),
    "T5Config.float32_attention_logits": Rule("attention is always computed in float32"),
    "T5Config.param_scan_axis": Rule(
        "scanned checkpoints are read with their layers on axis 1, T5X's default", (1,)
    ),
    "Adafactor.learning_rate": Rule("as in T5X, Trainer.learning_rate_fn is used instead"),
    "Adafactor.factor_map": Rule("use logical_factor_rules", (None,)),
    "SentencePieceVocabulary.reverse_extra_ids": Rule(
        "<extra_id_0> is the last id, as in T5's vocabulary", (True, None)
    ),
    "SentencePieceVocabulary.use_fast_tokenizer": Rule("the ids are the same"),
    "SentencePieceVocabulary.normalizer_spec_overrides": Rule(
        "text is normalised as the model file says", (None,)
    ),
}

# Functions and classes of T5X's that gin files bind parameters of, and that are not here.
ABSENT: dict[str, str] = {
    "SaveBestCheckpointer": _CHECKPOINTER.why,
    "create_task_from_tfexample_file": "register a SeqIO task in a module of your own",
    "PrefixLanguageModel": "use DecoderOnlyModel.inputs_bidirectional_attention = True",
    "get_dataset": RULES["train.get_dataset_fn"].why,
    "get_training_eval_datasets": RULES["train.get_dataset_fn"].why,
    "TrainStateInitializer": _STATE.why,
    "write_inferences_to_file": RULES["infer.write_fn"].why,
}


def rule_of(qualified_name: str, parameter: str) -> Rule | None:
    """The rule for a parameter of one of this package's functions, classes or methods."""
    name = qualified_name.rpartition(".")[2]  # a method may be a base class's
    return RULES.get(f"{name}.{parameter}")
