"""Which ids end an answer, by the files of a decoder-only Hugging Face directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from hf_checkpoints import edit_config, make_checkpoint

from mixtures import json_vocabularies, tokenizer_files
from mixtures.vocabularies import bundled_vocabulary, open_vocabulary, save_tokenizer
from t5x_ext import Model
from t5x_ext.checkpoints import own_layout
from t5x_ext.checkpoints.params import open_source
from t5x_ext.configs import DatasetConfig, RestoreCheckpointConfig, SuperNIConfig
from t5x_ext.models import DecoderOnlyModel
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.network import Transformer
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.runs.restored import restore_each

CONFIG = LlamaConfig(
    vocab_size=768, emb_dim=24, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=16
)
PROMPTS = [[1, 2, 3], [4], [90, 7]]


def directory(path: Path, eos: Any, generation: Any = None, tokenizer: bool = False) -> Path:
    """A LLaMA whose config.json has `eos`, and whose generation_config.json is `generation`."""
    make_checkpoint(path, CONFIG)
    edit_config(path, eos_token_id=eos)
    (path / "generation_config.json").unlink()
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    if tokenizer:
        save_tokenizer(bundled_vocabulary(), str(path))
    return path


@pytest.fixture(scope="module")
def endless(tmp_path_factory) -> list[list[int]]:
    """What the model says where nothing ends it."""
    model = Model.load(str(directory(tmp_path_factory.mktemp("m") / "hf", None)))
    return model.generate_tokens(PROMPTS, 12)


def cut(answers: list[list[int]], ends: list[int]) -> list[list[int]]:
    def end(answer: list[int]) -> int:
        return next((i for i, token in enumerate(answer) if token in ends), len(answer))

    return [answer[: end(answer)] for answer in answers]


@pytest.mark.parametrize("listed", [False, True])
def test_config_json_ends_answers_without_tokenizer(tmp_path, endless, listed) -> None:
    assert [len(answer) for answer in endless] == [12] * 3
    ends = [endless[0][3], endless[1][5]] if listed else [endless[0][3]]
    model = Model.load(str(directory(tmp_path / "hf", ends if listed else ends[0])))
    found = model.generate_tokens(PROMPTS, 12)
    assert found == cut(endless, ends) != endless
    outputs = model.generate_outputs(PROMPTS, 12)
    finishes = ["eos" if len(answer) < 12 else "length" for answer in found]
    assert [output.finish for output in outputs] == finishes
    assert model.generate_tokens(PROMPTS, 12, eos_ids=[]) == endless


def test_generation_config_is_asked_first(tmp_path, endless) -> None:
    first, second = endless[0][3], endless[0][1]
    path = directory(tmp_path / "both", second, {"eos_token_id": first})
    assert Model.load(str(path)).generate_tokens(PROMPTS, 12) == cut(endless, [first])
    path = directory(tmp_path / "empty", second, {"eos_token_id": None})
    assert Model.load(str(path)).generate_tokens(PROMPTS, 12) == cut(endless, [second])


def test_a_converted_checkpoint_still_ends(tmp_path, endless) -> None:
    end = endless[0][3]
    source = open_source(str(directory(tmp_path / "hf", [end])))
    own_layout.write_params(source, str(tmp_path / "own"))
    model = Model.load(str(tmp_path / "own"))
    assert model.generate_tokens(PROMPTS, 12) == cut(endless, [end])


def test_a_vocabulary_from_elsewhere_adds_its_own(tmp_path, endless) -> None:
    end = endless[0][3]
    path = str(directory(tmp_path / "hf", [end, 10**6]))
    model = Model.load(path, vocabulary=bundled_vocabulary())
    ends = [end, bundled_vocabulary().eos_id]
    assert model.generate_tokens(PROMPTS, 12) == cut(endless, ends)


def test_a_tokenizer_beside_config_json_ends_texts_there(tmp_path) -> None:
    """Also once it lies elsewhere, without the model's config.json."""
    import tokenizers

    folder = directory(tmp_path / "hf", [2, 5])
    words = {"<unk>": 0, "<s>": 1, "<end>": 2, "a": 3, "b": 4, "<turn>": 5}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    vocabulary = open_vocabulary(str(folder))
    assert vocabulary.eos_ids == (2, 5)
    # The config makes the rest a tokenizer, so it is written last.
    assert list(tokenizer_files.read_files(epath.Path(folder)))[-1] == tokenizer_files.CONFIG
    save_tokenizer(vocabulary, str(tmp_path / "copy"))
    assert open_vocabulary(str(tmp_path / "copy")).eos_ids == (2, 5)
    assert not (tmp_path / "copy" / "config.json").exists()
    own_layout.write_params(open_source(str(folder)), str(tmp_path / "own"))
    assert Model.load(str(tmp_path / "own")).vocabulary.eos_ids == (2, 5)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    json_vocabularies._load.cache_clear()
    assert open_vocabulary(str(folder)).eos_ids == (2,)


def test_commands_end_predictions_there(tmp_path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"instruction": "Say yes.", "input": "a", "output": "yes"}) + "\n")
    path = directory(tmp_path / "hf", [300, 301])
    model = DecoderOnlyModel(Transformer(CONFIG), bundled_vocabulary())
    cfg = DatasetConfig(str(rows), {"inputs": 64, "targets": 8}, "train", 2, prompt="alpaca")
    restore = RestoreCheckpointConfig(str(path))
    restored = next(restore_each(model, cfg, restore, SuperNIConfig(), PjitPartitioner()))
    assert restored.decoder.output_ids.eos == (bundled_vocabulary().eos_id, 300, 301)
    assert json.loads(restored.signature)["eos_ids"] == [1, 300, 301]
