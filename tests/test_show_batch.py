"""What `show_batch` says of a batch is what the batch holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tokenizers

from mixtures.spelling import spell, spell_marked
from mixtures.vocabularies import ByteVocabulary, bundled_vocabulary, open_vocabulary
from t5x_ext import show_batch
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.features import DecoderOnlyFeatures, EncoderDecoderFeatures
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory
from t5x_ext.errors import ConfigError

LENGTHS = {"inputs": 24, "targets": 8}
VOCABULARY = bundled_vocabulary()
RUN = (
    "--gin_file=runs/train.gin",
    "--gin.MIXTURE_OR_TASK_NAME='pretune'",
    "--gin.PROMPT='alpaca'",
    "--gin.BUDGET=2",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 192, 'targets': 24}",
    "--gin.TRAIN_STEPS=1",
)


def make_examples(count: int) -> list[Example]:
    rng = np.random.default_rng(0)

    def draw(most: int) -> np.ndarray:
        return rng.integers(3, 600, rng.integers(1, most + 1)).astype(np.int32)

    return [
        Example(f"e{i}", "task", "", draw(24), (draw(8),), "", ("x",), False) for i in range(count)
    ]


@pytest.mark.parametrize("pack", [False, True, "batch"])
@pytest.mark.parametrize(
    "features", [EncoderDecoderFeatures(), DecoderOnlyFeatures(bidirectional_prompt=True)]
)
def test_segments_are_the_examples_that_went_in(pack, features):
    examples = {example.id: example for example in make_examples(40)}
    members = [in_memory("task", list(examples.values()))]
    batches = TrainBatches(members, 8, LENGTHS, pack=pack, seed=0, features=features)
    batch, info = batches.make(0, 0)
    seen = []
    for segment in show_batch.segments(batch, info):
        example = examples[segment.id]
        inputs, targets = example.inputs.tolist(), example.targets[0].tolist()
        if features.joined:
            assert [*segment.read[:1], *segment.predicted] == inputs + targets
            assert segment.predicted[segment.weights > 0].tolist() == targets
            assert segment.both_ways.sum() == len(inputs)
            assert segment.encoder is None
        else:
            assert (segment.encoder.tolist(), segment.predicted.tolist()) == (inputs, targets)
            assert segment.read.tolist() == [0, *targets[:-1]]
            assert segment.weights.tolist() == [1.0] * len(targets)
        seen.append(segment.id)
    assert tuple(seen) == info.ids
    assert len(seen) >= 8


def test_a_batch_without_t5x_s_features_is_refused():
    with pytest.raises(ConfigError, match="^show_batch: batches have no decoder_segment_ids; "):
        next(show_batch.segments({"tokens": np.zeros((2, 4))}, None))


def test_the_loss_is_marked_from_the_command_line(capsys):
    model = "--gin_file=models/llama_tiny.gin"
    assert show_batch.main([model, *RUN, "--gin.MODEL_DIR=''", "--rows=1", "--tokens"]) == 0
    head, shapes, blank, segment, text, columns, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("step 1 (epoch 0): 32 examples in 32 rows, ")
    assert shapes.startswith("decoder_input_tokens 32x")
    assert (blank, segment.split(":")[0]) == ("", "row 0, segment 1")
    prompt, _, target = text.partition("⟦")
    assert prompt.partition(": ")[2].startswith("Below is an instruction that describes a task")
    assert prompt.endswith("### Response:")
    assert target.endswith("</s>⟧")
    assert columns.split() == ["position", "reads", "predicts", "weight"]
    weights = [row.split()[-1] for row in rows]
    count = int(text.partition(" in the loss")[0].split()[-1])
    assert weights == ["0"] * (len(rows) - count) + ["1"] * count


def test_the_process_flags_of_the_run_are_taken(tmp_path: Path, capsys, monkeypatch) -> None:
    import seqio

    added: list[list[str]] = []
    monkeypatch.setattr(seqio, "add_global_cache_dirs", added.append)
    of_the_run = [
        "--coordinator_address=elsewhere:1234",
        "--process_count=4",
        "--process_index=0",
        f"--seqio_additional_cache_dirs={tmp_path}",
        "--alsologtostderr",
    ]
    arguments = ["--gin_file=models/llama_tiny.gin", *RUN, "--gin.MODEL_DIR=''", *of_the_run]
    assert show_batch.main(arguments) == 0
    assert capsys.readouterr().out.startswith("step 1 (epoch 0): 32 examples in 32 rows, ")
    assert added == [[str(tmp_path)]]


def test_any_step_can_be_shown_and_the_next_epoch_has_the_same_examples(capsys):
    def ids(step: int) -> set[str]:
        run = ["--gin_file=models/t5_1_1_tiny.gin", *RUN, "--gin.MODEL_DIR=''", "--rows=200"]
        whole = "--gin.BATCH_SIZE=280"
        assert show_batch.main([*run, whole, f"--step={step}"]) == 0
        head, *lines = capsys.readouterr().out.splitlines()
        assert head.startswith(f"step {step} (epoch {step - 1}): 280 examples")
        return {line.split(": ")[1] for line in lines if line.startswith("row ")}

    first, second = ids(1), ids(2)
    assert len(first) == 200
    assert first != second  # other rows come first


def test_special_tokens_are_written_out():
    ids = VOCABULARY.encode("Karl saw a rabbit.")
    assert spell(VOCABULARY, [0, *ids, 1, *ids, 1, 0]) == (
        "<pad>Karl saw a rabbit.</s>Karl saw a rabbit.</s><pad>"
    )
    assert spell(ByteVocabulary(), [*ByteVocabulary().encode("é"), 1]) == "é</s>"
    assert spell(VOCABULARY, []) == ""


def test_marks_take_no_space_away():
    ids = VOCABULARY.encode("Karl saw a rabbit.")
    marked = [False, True, True, False, False]
    assert spell_marked(VOCABULARY, ids, marked, "[", "]") == "Karl[ saw a] rabbit."


def test_a_tokenizer_json_has_its_own_names(tmp_path: Path):
    model = tokenizers.models.BPE(vocab={"a": 0, "b": 1, "<|end|>": 2, "<|user|>": 3}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.add_special_tokens(["<|end|>", "<|user|>"])
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    vocabulary = open_vocabulary(str(tmp_path))
    assert vocabulary.decode([3, 0, 1, 2]) == "ab"
    assert spell(vocabulary, [3, 0, 1, 2]) == "<|user|>ab<|end|>"
