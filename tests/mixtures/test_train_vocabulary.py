"""Vocabularies trained on a release: sizes, ids, determinism, the cache, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixtures import train_vocabulary as module
from mixtures.errors import DataError
from mixtures.release import BUNDLED_SUITE, Release
from mixtures.train_vocabulary import main, train_vocabulary, trained_vocabulary
from mixtures.vocabularies import SentencePieceVocabulary

SIZE = 400  # 256 of them bytes


@pytest.fixture(scope="module")
def release() -> Release:
    return Release(BUNDLED_SUITE)


@pytest.fixture(scope="module")
def model(release, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "new" / "small.model"
    train_vocabulary(path, release, SIZE)
    return path


def test_the_same_arguments_give_the_same_bytes(model, release, tmp_path):
    again = tmp_path / "again.model"
    train_vocabulary(again, release, SIZE)
    assert again.read_bytes() == model.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.model"]


def test_size_and_reserved_ids(model):
    vocabulary = SentencePieceVocabulary(str(model))
    assert vocabulary.vocab_size == SIZE
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)


def test_text_survives_also_where_its_characters_were_never_seen(model, release):
    vocabulary = SentencePieceVocabulary(str(model))
    task = release.task(release.names("test")[0])
    for text in (task.definition, task.instances[0].input, "é 漢字 {brace}"):
        ids = vocabulary.encode(text)
        assert vocabulary.unk_id not in ids and max(ids) < SIZE
        assert vocabulary.decode(ids) == text


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (10, "vocab_size 10: Vocabulary size is smaller than required_chars"),
        (10**6, r"vocab_size 1000000: Vocabulary size too high .* <= \d+"),
        (0, "vocab_size 0: allowed: 1 or more"),
    ],
)
def test_impossible_sizes_get_one_line(release, tmp_path, capsys, size, message):
    with pytest.raises(DataError, match=f"^{message}"):
        train_vocabulary(tmp_path / "no.model", release, size)
    assert list(tmp_path.iterdir()) == []
    arguments = [str(tmp_path / "no.model"), f"--vocab_size={size}", f"--data_dir={BUNDLED_SUITE}"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: vocab_size {size}: ") and error.count("\n") == 1


def test_a_file_that_cannot_be_written_gets_one_line(release, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="out.model: cannot be written"):
        train_vocabulary(tmp_path / "file" / "out.model", release, SIZE)


def make_release(path: Path, definition: str) -> Path:
    (path / "tasks").mkdir(parents=True)
    (path / "splits" / "default").mkdir(parents=True)
    source = BUNDLED_SUITE / "tasks" / "task001_city_extraction.json"
    text = source.read_text().replace('"Definition": [\n        "', f'"Definition": ["{definition}')
    assert definition in text
    (path / "tasks" / "task1.json").write_text(text)
    (path / "splits" / "default" / "train_tasks.txt").write_text("task1\n")
    (path / "splits" / "default" / "test_tasks.txt").write_text("")
    return path


def test_a_model_is_kept_for_as_long_as_the_data_is_the_same(tmp_path, monkeypatch, capsys):
    trained = []

    def train(path, release, vocab_size):
        trained.append(vocab_size)
        train_vocabulary(path, release, vocab_size)

    monkeypatch.setattr(module, "train_vocabulary", train)
    monkeypatch.setenv("T5X_EXT_CACHE", str(tmp_path / "cache"))
    one = str(make_release(tmp_path / "one", "First wording. "))
    copy = str(make_release(tmp_path / "copy", "First wording. "))
    other = str(make_release(tmp_path / "other", "Other wording. "))
    first = trained_vocabulary(330, one)
    assert trained_vocabulary(330, one) == trained_vocabulary(330, copy) == first
    assert trained == [330]
    assert trained_vocabulary(330, other) != first
    assert trained_vocabulary(331, one) != first
    assert trained == [330, 330, 331]
    assert Path(first.sentencepiece_model_file).parent == tmp_path / "cache"
    assert capsys.readouterr().out == ""  # standard output belongs to the command that asks
