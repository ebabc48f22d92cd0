"""Runs and studies end answers where the files of the checkpoint that they began with say."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from mixtures.vocabularies import bundled_vocabulary
from t5x_ext import Model
from t5x_ext.checkpoints import fingerprint, load_meta
from t5x_ext.checkpoints.hugging_face import write_hf
from t5x_ext.checkpoints.params import open_source
from t5x_ext.configs import (
    CheckpointConfig,
    DatasetConfig,
    RestoreCheckpointConfig,
    SaveCheckpointConfig,
    SuperNIConfig,
)
from t5x_ext.data.records import Example
from t5x_ext.models import DecoderOnlyModel
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.network import Transformer
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.runs import evaluation_hook
from t5x_ext.runs.evaluation import predict_and_score
from t5x_ext.runs.restored import restore_each
from t5x_ext.studies import Arm, InitialModel, Recipe
from t5x_ext.studies.cells import Cell, digest
from t5x_ext.studies.generation import Generation
from t5x_ext.studies.initial_models import InitialModels
from t5x_ext.studies.keys import find_further_eos_ids, key_initials
from t5x_ext.studies.predicting import Predictor
from t5x_ext.studies.tuning import Tuner
from t5x_ext.train import train
from t5x_ext.training.optimizers import AdamW

CONFIG = LlamaConfig(
    vocab_size=768, emb_dim=24, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=16
)
ENDS = list(range(64, 768))  # most of what random weights say
LENGTHS = {"inputs": 64, "targets": 8}
MESH = PjitPartitioner(devices=jax.devices()[:1])


def make_model(rank: int | None = None) -> DecoderOnlyModel:
    """With a vocabulary that is not of the checkpoint."""
    module = Transformer(CONFIG, LoRA(rank) if rank else None)
    return DecoderOnlyModel(module, bundled_vocabulary(), AdamW())


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory of transformers' that says where answers end, without a tokenizer."""
    path = tmp_path_factory.mktemp("hf") / "model"
    params = make_model().init_params(jax.random.key(0))
    Model(CONFIG, params, None, MESH).save(str(path), "hf")
    stated = path / "generation_config.json"
    stated.write_text(json.dumps({"eos_token_id": ENDS}))
    return str(path)


@pytest.fixture
def cfg(tmp_path: Path) -> DatasetConfig:
    rows = [{"instruction": "Say it.", "input": text, "output": "yes"} for text in "abcd"]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DatasetConfig(str(path), LENGTHS, "train", 2, prompt="alpaca")


def run(model_dir: Path, initial: str, cfg: DatasetConfig, steps: int, rank: int | None) -> None:
    train(
        model=make_model(rank),
        model_dir=str(model_dir),
        train_dataset_cfg=cfg,
        infer_eval_dataset_cfg=cfg,
        checkpoint_cfg=CheckpointConfig(
            RestoreCheckpointConfig(initial), SaveCheckpointConfig(1, keep=1)
        ),
        partitioner=MESH,
        total_steps=steps,
    )


@pytest.mark.parametrize("rank", [None, 2])
def test_a_run_is_scored_within_train_as_by_eval(
    hf: str, cfg: DatasetConfig, rank: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def recorded(*args: Any, **kwargs: Any) -> Any:
        measured, scores = predict_and_score(*args, **kwargs)
        seen.append([(row.prediction, row.finish) for row in measured.rows])
        return measured, scores

    monkeypatch.setattr(evaluation_hook, "predict_and_score", recorded)
    for steps in (1, 2):  # the second goes on from the first
        run(tmp_path / "run", hf, cfg, steps, rank)
        restore = RestoreCheckpointConfig(str(tmp_path / "run"))
        restored = next(restore_each(make_model(), cfg, restore, SuperNIConfig(), MESH))
        assert restored.decoder.output_ids.eos == (1, *ENDS)
        rows = predict_and_score(restored.decoder, restored.params, restored.examples)[0].rows
        assert seen.pop() == [(row.prediction, row.finish) for row in rows]
        assert "eos" in {row.finish for row in rows}
        assert load_meta(str(tmp_path / "run"))["eos_ids"] == ENDS


def test_tuned_parameters_keep_the_ends_wherever_they_go(
    hf: str, cfg: DatasetConfig, tmp_path: Path
) -> None:
    run(tmp_path / "first", hf, cfg, 1, None)
    run(tmp_path / "second", str(tmp_path / "first"), cfg, 2, None)
    write_hf(open_source(str(tmp_path / "second")), str(tmp_path / "converted"))
    for name in ("config.json", "generation_config.json"):
        stated = json.loads((tmp_path / "converted" / name).read_text())
        assert stated["eos_token_id"] == [1, *ENDS]  # the run's vocabulary ends texts too
    for name in ("first", "second", "converted"):
        outputs = Model.load(str(tmp_path / name)).generate_outputs(["a", "b c"], 8)
        assert {output.finish for output in outputs} == {"eos"}


class OneSet:
    """A study's data that has one task to tune on."""

    def initial(self, initial: InitialModel) -> list[Example]:
        return make_examples(4)


def make_examples(count: int) -> list[Example]:
    tokens = np.array([5, 6, 7], np.int32)
    return [Example(str(i), "t", "c", tokens, (tokens,), "", ("",), False) for i in range(count)]


@pytest.fixture
def initials(hf: str, tmp_path: Path) -> InitialModels:
    recipe = Recipe(LENGTHS, batch_size=2, steps=1)
    by_name = {
        "given": InitialModel("given", path=hf),
        "tuned": InitialModel("tuned", base="given", data="one", recipe=recipe),
        "random": InitialModel("random"),
    }
    data: Any = OneSet()
    tuner = Tuner(make_model(), MESH, recipe)
    keys = {name: name for name in by_name}
    return InitialModels(by_name, keys, tuner, data, epath.Path(tmp_path / "study"))


def test_a_study_ends_answers_there(initials: InitialModels) -> None:
    found = {name: initials.eos_ids(name) for name in initials.by_name}
    assert found == {"given": tuple(ENDS), "tuned": tuple(ENDS), "random": ()}
    arms = {name: Arm("a", "MTL", name, "alpaca", ("n0",)) for name in ("given", "random")}
    tuner = initials.tuner
    params = initials.params("given", 0, tuner)
    predictor = Predictor({"": tuner.model}, MESH, 8, LENGTHS, initials.eos_ids)
    ends = {}
    for name, arm in arms.items():
        job = tuner.prepare([Cell("k", arm, "n0", 0, ("t",))], [], make_examples(3))
        [[rows]] = predictor.predict(tuner.tune(params, [job]))
        ends[name] = {row.finish for row in rows}
    assert ends == {"given": {"eos"}, "random": {"length"}}
    unused: Any = None
    writer = Generation(unused, {}, initials, tuner, initials.study_dir)._load("given", None)
    assert {output.finish for output in writer.generate_outputs(["a"], 8)} == {"eos"}


def test_an_initial_model_that_a_study_makes_keeps_them(initials: InitialModels) -> None:
    initials.make("tuned")
    path = initials.path_of("tuned")
    assert path is not None and load_meta(path)["eos_ids"] == ENDS
    assert load_meta(str(Path(path).parent / "train"))["eos_ids"] == ENDS


def test_keys_of_a_study_change_only_where_there_are_further_ends(hf: str, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    params = make_model().init_params(jax.random.key(0))
    Model(CONFIG, params, bundled_vocabulary(), MESH).save(str(plain))
    by_name = {"hf": InitialModel("hf", path=hf), "plain": InitialModel("plain", path=str(plain))}
    unused: Any = None
    further = functools.partial(find_further_eos_ids, make_model())
    keys = key_initials(by_name, {}, {}, unused, further)
    assert keys["plain"] == digest({"weights": fingerprint(str(plain))})
    assert keys["hf"] == digest({"weights": fingerprint(hf), "eos_ids": ENDS})
