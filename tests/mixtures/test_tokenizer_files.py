"""Vocabularies on disk: opened whoever wrote them, and read by Transformers when we wrote them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import sentencepiece
import seqio
from sentencepiece import sentencepiece_model_pb2

from mixtures.errors import DataError
from mixtures.sentencepiece_models import load_model
from mixtures.vocabularies import (
    ByteVocabulary,
    SentencePieceVocabulary,
    bundled_vocabulary,
    byt5_vocabulary,
    mt5_vocabulary,
    open_vocabulary,
    save_tokenizer,
    t5_vocabulary,
)

# Lines of code and documents: braces, indents and symbols are where tokenizers differ.
SOURCES = [__file__, *sorted(str(p) for p in (Path(__file__).parents[2] / "docs").glob("*.md"))]
LINES = [line for path in SOURCES for line in Path(path).read_text().splitlines()]
LINES = [
    line for line in LINES if not re.search("<extra_id|</s>|<pad>|<unk>", line)
]  # special in Transformers
LINES += ["", "  two  spaces\nand a newline\t{}", "Ünïcode – “quotes” ½ ﬁ 日本語", "no\u00a0break"]

# The ways in which SentencePiece models differ; T5's own is of the first kind.
KINDS = {
    "unigram": {},
    "byte fallback": {"byte_fallback": True, "vocab_size": 800},
    "bpe": {"model_type": "bpe"},
    "bpe with byte fallback": {"model_type": "bpe", "byte_fallback": True, "vocab_size": 800},
    "white space kept": {"remove_extra_whitespaces": False},
    "sentinels inside": {"user_defined_symbols": [f"▁<extra_id_{i}>" for i in range(99, -1, -1)]},
}


def train(folder: Path, **options: object) -> str:
    """Trains a small model with T5's reserved ids; returns its file."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_prefix=str(folder / "vocab"),
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        **{"vocab_size": 500} | options,
    )
    return str(folder / "vocab.model")


@pytest.fixture(scope="module")
def unigram(tmp_path_factory) -> str:
    return train(tmp_path_factory.mktemp("unigram"))


def auto_tokenizer(directory: Path):
    """What a user of Transformers gets."""
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(directory))


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_what_we_save_as_we_do(kind, tmp_path):
    ours = SentencePieceVocabulary(train(tmp_path, **KINDS[kind]), 100)
    save_tokenizer(ours, str(tmp_path / "saved"))
    again = open_vocabulary(str(tmp_path / "saved"))
    assert again.fingerprint == ours.fingerprint
    theirs = auto_tokenizer(tmp_path / "saved")
    assert len(theirs) == ours.vocab_size
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 1, 2)
    scores = [piece.score for piece in load_model(ours.path, 0).proto.pieces]
    ties = 0
    for text in LINES:
        ids = ours.encode(text)
        assert again.encode(text) == ids
        *found, end = theirs.encode(text)
        assert end == 1
        if found != ids:  # "00" + "0" and "0" + "00" are equally good to a unigram model
            ties += 1
            assert "bpe" not in kind
            best, other = (sum(scores[index] for index in split) for split in (ids, found))
            assert best == pytest.approx(other, abs=1e-3), text
        if ours.unk_id not in ids:
            assert theirs.decode(ids) == ours.decode(ids)
    assert ties < len(LINES) / 50


def test_the_bundled_vocabulary_is_read_by_transformers_as_we_do(tmp_path):
    ours = bundled_vocabulary()
    save_tokenizer(ours, str(tmp_path))
    theirs = auto_tokenizer(tmp_path)
    assert len(theirs) == ours.vocab_size
    for text in LINES:
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)


def test_sentinels_are_numbered_as_transformers_numbers_them(unigram, tmp_path):
    ours = t5_vocabulary(unigram)
    save_tokenizer(ours, str(tmp_path))
    theirs = auto_tokenizer(tmp_path)
    for i in (0, 1, 99):
        sentinel = f"<extra_id_{i}>"
        assert ours.encode(sentinel) == [theirs.convert_tokens_to_ids(sentinel)] == [599 - i]


def test_a_directory_with_tokenizer_json_alone_is_opened(unigram, tmp_path):
    """Version 5 of Transformers saves T5's tokenizer without its spiece.model."""
    ours = t5_vocabulary(unigram)
    save_tokenizer(ours, str(tmp_path / "ours"))
    auto_tokenizer(tmp_path / "ours").save_pretrained(str(tmp_path / "theirs"))
    assert not list((tmp_path / "theirs").glob("*.model"))
    for opened in (
        open_vocabulary(str(tmp_path / "theirs")),
        t5_vocabulary(str(tmp_path / "theirs")),
        SentencePieceVocabulary(str(tmp_path / "theirs" / "tokenizer.json"), 100),
    ):
        assert opened.vocab_size == 600
        assert opened.as_seqio().vocab_size == 600
        assert opened.as_seqio() is opened.as_seqio()
        for text in LINES:
            assert opened.encode(text) == ours.encode(text)
            assert opened.decode(ours.encode(text)) == ours.decode(ours.encode(text))
        assert opened.as_seqio().encode_tf(LINES[0]).numpy().tolist() == ours.encode(LINES[0])
    save_tokenizer(opened, str(tmp_path / "back"))
    assert open_vocabulary(str(tmp_path / "back")).encode(LINES[5]) == ours.encode(LINES[5])
    assert (tmp_path / "back" / "spiece.model").is_file()


def test_a_tokenizer_json_that_we_would_read_wrongly_is_refused(unigram, tmp_path):
    save_tokenizer(t5_vocabulary(unigram), str(tmp_path / "ours"))
    auto_tokenizer(tmp_path / "ours").save_pretrained(str(tmp_path))
    path = tmp_path / "tokenizer.json"
    good = json.loads(path.read_text())
    for change, reason in (
        ({"model": good["model"] | {"type": "WordPiece"}}, "model WordPiece"),
        ({"model": good["model"] | {"type": "a\nb"}}, r"model a\\nb"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase"),
        ({"pre_tokenizer": {"type": "WhitespaceSplit"}}, "no space before the first word"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "repeated spaces are kept"),
        ({"model": good["model"] | {"vocab": good["model"]["vocab"][:-200]}}, "gaps between"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(DataError, match=f"tokenizer.json is not a T5 tokenizer.*{reason}") as e:
            open_vocabulary(str(tmp_path)).encode("text")
        assert "\n" not in str(e.value)
    path.write_text("{")
    with pytest.raises(DataError, match="is not a T5 tokenizer"):
        open_vocabulary(str(tmp_path)).encode("text")


def test_extra_ids_come_from_the_directory(unigram, tmp_path):
    """100 where nothing is said, as T5Tokenizer has it; what the config says otherwise."""
    shutil.copy(unigram, tmp_path / "spiece.model")
    assert open_vocabulary(str(tmp_path)).vocab_size == 600
    config = tmp_path / "tokenizer_config.json"
    names = {"additional_special_tokens": [f"<extra_id_{i}>" for i in range(7)]}
    for text, extra_ids in (({"extra_ids": 0}, 0), ({"extra_ids": 50}, 50), (names, 7)):
        config.write_text(json.dumps(text))
        assert open_vocabulary(str(tmp_path)).vocab_size == 500 + extra_ids
        assert open_vocabulary(str(tmp_path), extra_ids=3).vocab_size == 503
    assert open_vocabulary(unigram).vocab_size == 500
    assert open_vocabulary(unigram, extra_ids=100) == t5_vocabulary(unigram)
    config.write_text("[")
    with pytest.raises(DataError, match="tokenizer_config.json is not a JSON object"):
        open_vocabulary(str(tmp_path))


def test_sentinels_that_a_model_has_are_not_added_again(tmp_path):
    """T5X names files whose last 100 pieces are the sentinels: cc_all.32000.100extra, mc4's."""
    path = train(tmp_path, **KINDS["sentinels inside"])
    for vocabulary in (t5_vocabulary(path), mt5_vocabulary(path), open_vocabulary(path)):
        assert vocabulary.vocab_size == 500
        assert vocabulary.as_seqio() == seqio.SentencePieceVocabulary(path)
        assert len(vocabulary.encode("<extra_id_0>")) == 1


@pytest.mark.parametrize("place", ["", "tokenizer"])
def test_bytes_are_told_from_pieces_in_a_model_directory(place, tmp_path):
    ours = byt5_vocabulary()
    save_tokenizer(ours, str(tmp_path / place))
    assert open_vocabulary(str(tmp_path)) == ours
    theirs = auto_tokenizer(tmp_path / place)
    assert len(theirs) == ours.vocab_size == 384
    for text in LINES:
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))
    theirs.save_pretrained(str(tmp_path / "theirs"))
    assert open_vocabulary(str(tmp_path / "theirs")) == ours
    save_tokenizer(ByteVocabulary(0), str(tmp_path / "plain"))
    assert open_vocabulary(str(tmp_path / "plain")) == ByteVocabulary(0)


def test_saving_again_replaces_and_leaves_nothing_else(unigram, tmp_path):
    for vocabulary in (t5_vocabulary(unigram), SentencePieceVocabulary(unigram, 5)):
        save_tokenizer(vocabulary, str(tmp_path / "saved"))
    assert open_vocabulary(str(tmp_path / "saved")).vocab_size == 505
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == ["spiece.model", "tokenizer_config.json"]


def test_nothing_to_open_is_one_line(tmp_path):
    for path, message in (
        (tmp_path, "no SentencePiece model in directory .*looked for spiece.model, .*tokenizer.js"),
        (tmp_path / "none", "file not found"),
        ("nowhere://bucket/model", "nowhere://bucket/model.*allowed: a local path, or gs://"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            open_vocabulary(str(path)).encode("text")
        assert re.search(re.escape(str(path)), str(caught.value)) and "\n" not in str(caught.value)


def rebuilt(path: str, change) -> bytes:
    """A model file with one thing changed."""
    model = sentencepiece_model_pb2.ModelProto.FromString(Path(path).read_bytes())
    change(model)
    return model.SerializeToString()


DAMAGE = {
    "is empty": lambda m: m.Clear(),
    "is a damaged .* already defined": lambda m: setattr(m.pieces[99], "piece", m.pieces[98].piece),
    "piece 99 .* has score nan": lambda m: setattr(m.pieces[99], "score", float("nan")),
    "piece 99 .* has score -inf": lambda m: setattr(m.pieces[99], "score", float("-inf")),
    "is a damaged .* must not be empty": lambda m: setattr(m.pieces[99], "piece", ""),
    "is a damaged .* normalization rule": lambda m: setattr(
        m.normalizer_spec, "precompiled_charsmap", b"\1\2"
    ),
    "is a damaged .* unk is not": lambda m: m.pieces.__delitem__(slice(None)),
}


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_damaged_model_is_one_line(reason, unigram, tmp_path):
    path = tmp_path / "vocab.model"
    path.write_bytes(rebuilt(unigram, DAMAGE[reason]))
    with pytest.raises(DataError, match=f"vocab.model:? {reason}") as caught:
        open_vocabulary(str(path)).encode("text")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [-300, "a", None, [1], {}, 1.5, True, 1e99, 10**12, float("nan")])
@pytest.mark.parametrize("kind", ["ByT5Tokenizer", "T5Tokenizer"])
def test_extra_ids_that_are_no_count_are_one_line(value, kind, unigram, tmp_path):
    shutil.copy(unigram, tmp_path / "spiece.model")
    config = {"tokenizer_class": kind, "extra_ids": value}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    for refused in (
        lambda: open_vocabulary(str(tmp_path)),
        lambda: ByteVocabulary(value),
        lambda: SentencePieceVocabulary(unigram, value),
    ):
        with pytest.raises(
            DataError, match="extra_ids=.*; allowed: an integer from 0 to"
        ) as caught:
            refused()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json"])
def test_deeply_nested_files_are_one_line(name, tmp_path):
    (tmp_path / name).write_text('{"a":' * 50_000)
    with pytest.raises(DataError, match=f"{name} is not a") as caught:
        open_vocabulary(str(tmp_path)).encode("text")
    assert "\n" not in str(caught.value)
