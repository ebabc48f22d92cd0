"""T5X's model and run files work here after the import lines of docs/from_t5x.md are changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from ported_files import flags, ported, task_module, write_ported

from t5x_ext import eval as eval_script
from t5x_ext import infer, train
from t5x_ext.checkpoints import load_meta, load_params, save_params
from t5x_ext.convert import convert
from t5x_ext.metrics.predictions import read_predictions
from t5x_ext.models.network import T5Config, Transformer


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return write_ported(tmp_path_factory.mktemp("ported"))


@pytest.fixture(scope="module", autouse=True)
def _tasks() -> Iterator[None]:
    with task_module():
        yield


def logged(model_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]


def losses(model_dir: Path) -> dict[int, float]:
    return {row["step"]: row["train/loss"] for row in logged(model_dir) if "train/loss" in row}


LENGTHS = {"inputs": 32, "targets": 32}
PRETRAIN = {"TRAIN_STEPS": 3, "DROPOUT_RATE": 0.1}


@pytest.fixture(scope="module")
def pretrained(files: Path, tmp_path_factory) -> Path:
    model_dir = tmp_path_factory.mktemp("pretrained")
    arguments = flags(files, "pretrain", "small", MODEL_DIR=str(model_dir), **PRETRAIN)
    assert train.main(arguments) == 0
    return model_dir


@pytest.mark.slow
def test_pretraining_logs_loss_and_weight_metrics(pretrained: Path) -> None:
    assert sorted(losses(pretrained)) == [1, 2, 3]
    last = [row for row in logged(pretrained) if row["step"] == 3]
    train_row = next(row for row in last if "train/loss" in row)
    for metric in ("weight_rms", "weight_gradient_rms", "weight_update_rms", "weight_max"):
        assert train_row[f"train/{metric}/encoder/layers/attention/query/kernel"] > 0
    assert any(row.get("eval/cross_entropy", 0) > 0 for row in last)


def test_a_drawn_seed_is_written_down_and_kept(files, pretrained: Path, tmp_path: Path) -> None:
    seed = load_meta(str(pretrained))["random_seed"]
    config = pretrained / "config.gin"
    assert f"RANDOM_SEED = {seed}" in config.read_text()
    assert train.main([f"--gin_file={config}", f"--gin.MODEL_DIR='{tmp_path}'"]) == 0
    assert losses(tmp_path) == losses(pretrained)
    # The same command as at first, which draws a seed: the run that it finds has one.
    more = PRETRAIN | {"TRAIN_STEPS": 4}
    assert train.main(flags(files, "pretrain", "small", MODEL_DIR=str(tmp_path), **more)) == 0
    assert load_meta(str(tmp_path))["random_seed"] == seed


def test_a_seed_is_drawn_beside_checkpoints_that_hold_none(tmp_path: Path) -> None:
    config = T5Config(
        vocab_size=8,
        emb_dim=8,
        num_heads=1,
        num_encoder_layers=1,
        num_decoder_layers=1,
        head_dim=8,
        mlp_dim=8,
    )
    weights = Transformer(config).init(jax.random.key(0))
    meta = {"step": 3, "t5_config": dataclasses.asdict(config)}
    save_params(str(tmp_path / "own"), weights, meta)
    convert(str(tmp_path / "own"), str(tmp_path / "model_dir" / "checkpoint_3"), "t5x")
    assert "random_seed" not in load_meta(str(tmp_path / "model_dir"))
    assert 0 <= train._draw_seed(str(tmp_path / "model_dir")) < 1 << 31


@pytest.fixture(scope="module")
def finetuned(files: Path, pretrained: Path, tmp_path_factory) -> Path:
    model_dir = tmp_path_factory.mktemp("finetuned")
    macros = {
        "MODEL_DIR": str(model_dir),
        "INITIAL_CHECKPOINT_PATH": str(pretrained / "checkpoint_3"),
        "TRAIN_STEPS": 7,
        "BATCH_SIZE": 8,
        "EVAL_PERIOD": 2,
        "EVALUATOR_NUM_EXAMPLES": 6,
        "JSON_WRITE_N_RESULTS": 4,
        "USE_HARDWARE_RNG": True,
        "RANDOM_SEED": 5,
    }
    arguments = flags(files, "finetune", "small", **macros)
    assert train.main([*arguments, "--gin.utils.SaveCheckpointConfig.period=2"]) == 0
    return model_dir


def test_finetuning_counts_on_and_evaluates_as_bound(finetuned: Path) -> None:
    assert sorted(losses(finetuned)) == [4, 5, 6, 7]
    evaluated = [row["step"] for row in logged(finetuned) if "infer_eval/rougeL" in row]
    assert evaluated == [4, 6, 7]
    own = [r["step"] for r in logged(finetuned) if "infer_eval/contract_reverse/target_length" in r]
    assert own == [4, 6, 7]
    directory = finetuned / "inference_eval"
    assert len(read_predictions(directory / "predictions-000006.jsonl")) == 4
    lines = [json.loads(x) for x in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["task"], line["n"]) for line in lines] == [
        (step, "contract_reverse", 6) for step in (4, 6, 7)
    ]
    assert list(directory.glob("events.out.tfevents.*"))
    saved = {path.name for path in finetuned.glob("checkpoint_*")}
    assert saved == {"checkpoint_4", "checkpoint_6", "checkpoint_7"}


def test_specific_refuses_a_directory_of_checkpoints(files, finetuned, tmp_path, capsys) -> None:
    macros = {"CHECKPOINT_PATH": str(finetuned), "EVAL_OUTPUT_DIR": str(tmp_path)}
    assert eval_script.main(flags(files, "eval", "small_decoding", **macros)) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: RestoreCheckpointConfig.path") and "checkpoint_7" in error


def test_eval_takes_every_checkpoint_in_turn(files, finetuned: Path, tmp_path: Path) -> None:
    macros = {"CHECKPOINT_PATH": str(finetuned), "EVAL_OUTPUT_DIR": str(tmp_path)}
    arguments = flags(files, "eval", "small_decoding", **macros)
    assert eval_script.main([*arguments, "--gin.utils.RestoreCheckpointConfig.mode='all'"]) == 0
    for step in (4, 6, 7):
        scores = json.loads((tmp_path / f"scores-{step}.json").read_text())
        assert scores["step"] == step
        assert scores["by_task"]["contract_reverse"]["n"] == 11
        rows = read_predictions(tmp_path / f"predictions-{step}.jsonl")
        own = scores["own_metrics"]["contract_reverse"]
        # The loss is of the same targets, and a mean over tokens.
        tokens = scores["loss"]["target_tokens"]
        loss = scores["loss"]["cross_entropy"]
        assert -own.pop("mean_score") * 11 == pytest.approx(loss * tokens, rel=0.05)
        assert own == {
            "target_length": pytest.approx(sum(2 * len(row.references[0]) for row in rows) / 11),
            "prediction_length": pytest.approx(sum(len(row.prediction) for row in rows) / 11),
        }
    metrics = (tmp_path / "inference_eval" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == [4, 6, 7]


def run_infer(files: Path, checkpoint: Path, output: Path, *bindings: str) -> int:
    macros = {
        "CHECKPOINT_PATH": str(checkpoint),
        "INFER_OUTPUT_DIR": str(output),
        "TASK_FEATURE_LENGTHS": LENGTHS,
    }
    return infer.main([*flags(files, "infer", "small_decoding", **macros), *bindings])


SAMPLING = """
from __gin__ import dynamic_registration

from t5x import decoding
from t5x import models

models.EncoderDecoderModel.decode_fn = @decoding.temperature_sample
decoding.temperature_sample.topk = 0
"""


@pytest.mark.parametrize(
    ("mode", "extra"),
    [("predict", ""), ("predict", SAMPLING), ("predict_with_aux", SAMPLING)],
    ids=["greedy", "samples", "samples_with_likelihoods"],
)
def test_shards_of_infer_join_to_the_whole(
    files: Path, finetuned: Path, tmp_path: Path, mode: str, extra: str
) -> None:
    checkpoint = finetuned / "checkpoint_7"
    (tmp_path / "extra.gin").write_text(ported(extra))
    bindings = [f"--gin_file={tmp_path / 'extra.gin'}", f"--gin.infer.mode='{mode}'"]
    assert run_infer(files, checkpoint, tmp_path / "whole", *bindings) == 0
    for shard in range(3):
        shards = ["--gin.infer.num_shards=3", f"--shard_id={shard}"]
        assert run_infer(files, checkpoint, tmp_path / "parts", *shards, *bindings) == 0
    names = [f"predictions.jsonl-0000{shard}-of-00003" for shard in range(3)]
    parts = [read_predictions(tmp_path / "parts" / name) for name in names]
    joined = [row for part in parts for row in part]
    whole = read_predictions(tmp_path / "whole" / "predictions.jsonl")
    assert len(joined) == len(whole)
    for ours, theirs in zip(joined, whole, strict=True):
        assert ours == dataclasses.replace(theirs, score=ours.score)
        if mode == "predict_with_aux":
            assert ours.score == pytest.approx(theirs.score, rel=1e-5)


def test_likelihoods_sum_to_the_loss_and_predictions_are_the_same(
    files: Path, finetuned: Path, tmp_path: Path
) -> None:
    checkpoint = finetuned / "checkpoint_7"
    macros = {
        "CHECKPOINT_PATH": str(checkpoint),
        "EVAL_OUTPUT_DIR": str(tmp_path / "eval"),
        "TASK_FEATURE_LENGTHS": LENGTHS,
    }
    assert eval_script.main(flags(files, "eval", "small_decoding", **macros)) == 0
    loss = json.loads((tmp_path / "eval" / "scores.json").read_text())["loss"]
    float32 = "--gin.utils.RestoreCheckpointConfig.dtype='float32'"
    for mode in ("score", "predict_with_aux"):
        assert run_infer(files, checkpoint, tmp_path, f"--gin.infer.mode='{mode}'", float32) == 0
    rows = read_predictions(tmp_path / "scores.jsonl")
    assert [row.prediction for row in rows] == [row.references[0] for row in rows]
    total = sum(row.score["log_likelihood"] for row in rows)
    assert -total == pytest.approx(loss["cross_entropy"] * loss["target_tokens"], rel=1e-3)
    predicted = read_predictions(tmp_path / "predictions.jsonl")
    scored = read_predictions(tmp_path / "eval" / "predictions.jsonl")
    assert [row.prediction for row in predicted] == [row.prediction for row in scored]
    assert all(row.score["log_likelihood"] < 0 for row in predicted)


def test_hooks_actions_and_configs_of_none(files: Path, tmp_path: Path, capsys) -> None:
    """What T5X's local test file binds, an action, and a hook, which T5X has not."""
    extra = """
from __gin__ import dynamic_registration

import __main__ as train_script
import contract_tasks
from t5x import trainer
from t5x import utils

train_script.train:
  actions = {'TRAIN_EVAL': [@trainer.EarlyStoppingAction()]}
  hooks = [@contract_tasks.print_step]
  run_eval_before_training = True
  eval_period = 1
  train_eval_dataset_cfg = @train_eval/utils.DatasetConfig()
trainer.EarlyStoppingAction:
  metric = ('contract_reverse', 'cross_entropy')
  mode = 'max'
  patience = 2
trainer.Trainer.num_microbatches = 0
utils.CheckpointConfig:
  restore = None
  save = None
"""
    (tmp_path / "extra.gin").write_text(ported(extra))
    macros = {"MODEL_DIR": str(tmp_path / "m"), "TRAIN_STEPS": 9, "DROPOUT_RATE": 0.0}
    arguments = flags(files, "pretrain", "small", **macros, RANDOM_SEED=3)
    assert train.main([*arguments, f"--gin_file={tmp_path / 'extra.gin'}"]) == 0
    captured = capsys.readouterr()
    assert "contract_reverse/cross_entropy no longer improves" in captured.err
    assert "SIGTERM" not in captured.out
    done = max(losses(tmp_path / "m"))
    assert [f"step {step} hooked" for step in range(1, done + 1)] == [
        line for line in captured.out.splitlines() if line.endswith("hooked")
    ]
    evaluated = [row["step"] for row in logged(tmp_path / "m") if "eval/cross_entropy" in row]
    assert evaluated == list(range(done + 1))
    assert done < 9 and not list((tmp_path / "m").glob("checkpoint_*"))


def test_t5_1_0_trains_too(files: Path, tmp_path: Path) -> None:
    macros = {"MODEL_DIR": str(tmp_path), "TRAIN_STEPS": 2, "DROPOUT_RATE": 0.0, "RANDOM_SEED": 1}
    assert train.main(flags(files, "pretrain", "small", "t5_1_0", **macros)) == 0
    assert sorted(losses(tmp_path)) == [1, 2]


@pytest.mark.slow(but="contract_bytes-seqio.ByteVocabulary-384")
@pytest.mark.parametrize(
    ("task", "vocabulary", "num_rows"),
    [
        ("contract_bytes", "seqio.ByteVocabulary", 384),  # ByT5's
        ("contract_reverse", "seqio.SentencePieceVocabulary", 250112),  # mT5's
    ],
)
def test_models_over_bytes_and_over_mt5s_many_ids_train(
    files: Path, tmp_path: Path, task: str, vocabulary: str, num_rows: int
) -> None:
    extra = f"""
from __gin__ import dynamic_registration

import seqio
from t5x.examples.t5 import network

MIXTURE_OR_TASK_NAME = "{task}"
VOCABULARY = @{vocabulary}()
network.T5Config.vocab_size = {num_rows}
network.T5Config.dtype = "float32"
"""
    (tmp_path / "extra.gin").write_text(ported(extra))
    macros = {"MODEL_DIR": str(tmp_path / "m"), "TRAIN_STEPS": 2, "DROPOUT_RATE": 0.0}
    arguments = flags(files, "pretrain", "small", **macros, RANDOM_SEED=3)
    assert train.main([*arguments, f"--gin_file={tmp_path / 'extra.gin'}"]) == 0
    (first, second) = [row for row in logged(tmp_path / "m") if "train/loss" in row]
    # Random scores of variance one: the uniform distribution's loss, and half a nat.
    uniform = np.log(num_rows)
    assert uniform < first["train/cross_entropy"] < uniform + 1.0
    assert second["train/cross_entropy"] != first["train/cross_entropy"]
    table = load_params(str(tmp_path / "m"))["token_embedder"]["embedding"]
    assert table.shape == (num_rows, 16)


@pytest.mark.parametrize("kind", ["t5x", "hf"])
def test_finetuning_starts_from_checkpoints_of_t5x_and_hugging_face(
    files: Path, pretrained: Path, tmp_path: Path, kind: str
) -> None:
    converted = tmp_path / "checkpoint_3"
    convert(str(pretrained / "checkpoint_3"), str(converted), kind)
    extra = """
from __gin__ import dynamic_registration

import __main__ as train_script
import optax
from t5x import optimizers

# As T5X's files change the optimizer; with this rate the parameters stay.
OPTIMIZER = @optimizers.chain()
optimizers.chain.transformations = [@optax.clip(), @optax.adamw()]
optax.clip.max_delta = 1.0
optax.adamw.learning_rate = 0.0
train_script.train:
  infer_eval_dataset_cfg = None
  relative_steps = 1
"""
    (tmp_path / "extra.gin").write_text(ported(extra))
    macros = {
        "MODEL_DIR": str(tmp_path / "m"),
        "INITIAL_CHECKPOINT_PATH": str(converted),
        "TRAIN_STEPS": 9,  # which finetune.gin requires; relative_steps wins
        "BATCH_SIZE": 8,
    }
    arguments = flags(files, "finetune", "small", **macros)
    assert train.main([*arguments, f"--gin_file={tmp_path / 'extra.gin'}"]) == 0
    before, after = load_params(str(pretrained)), load_params(str(tmp_path / "m"))
    jax.tree.map(np.testing.assert_array_equal, before, after)
