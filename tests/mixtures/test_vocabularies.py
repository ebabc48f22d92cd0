"""Vocabularies: the same ids as SeqIO's, and one clear line for each way a path can be wrong."""

from __future__ import annotations

import copy
import pickle
import re
import shutil
from pathlib import Path

import pytest
import sentencepiece
import seqio

from mixtures.errors import DataError
from mixtures.vocabularies import (
    ByteVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
    t5_vocabulary,
)

SENTENCES = (  # whitespace, accents, scripts and sentinels are where tokenizers differ
    "Definition: Given two sentences, say whether the first entails the second.",
    "input: The cat sat on the mat . output: yes",
    "  two  spaces\nand a newline\t",
    "Ünïcode – “quotes” and 日本語",
    "sentinel <extra_id_0> and <extra_id_3>ly more",
    "",
)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    """A 300-piece model with T5's reserved ids, trained on this very file."""
    folder = tmp_path_factory.mktemp("vocabulary")
    sentencepiece.SentencePieceTrainer.train(
        input=__file__,
        model_prefix=str(folder / "tiny"),
        vocab_size=300,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return folder / "tiny.model"


@pytest.mark.parametrize("extra_ids", [0, 100])
def test_sentencepiece_ids_are_those_of_seqio(model_file, extra_ids):
    ours = SentencePieceVocabulary(str(model_file), extra_ids)
    theirs = seqio.SentencePieceVocabulary(str(model_file), extra_ids)
    assert ours.vocab_size == theirs.vocab_size == 300 + extra_ids
    assert (ours.pad_id, ours.eos_id, ours.unk_id) == (0, 1, 2)
    for text in SENTENCES:
        ids = ours.encode(text)
        assert ids == list(theirs.encode(text))
        assert ids == theirs.encode_tf(text).numpy().tolist()
        assert ours.decode(ids) == theirs.decode(ids)


def test_extra_ids_count_down_from_the_end(model_file):
    vocabulary = SentencePieceVocabulary(str(model_file), 100)
    assert vocabulary.encode("<extra_id_0>") == [399]
    assert vocabulary.encode("<extra_id_99>") == [300]


def test_byte_ids_are_those_of_seqio():
    ours, theirs = ByteVocabulary(125), seqio.ByteVocabulary(125)
    assert ours.vocab_size == theirs.vocab_size == 384
    assert ours.encode("Aé") == [68, 198, 172]
    for text in SENTENCES:
        assert ours.encode(text) == list(theirs.encode(text))
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("kind", ["pieces", "bytes"])
def test_decode_stops_at_the_end_of_sequence_and_survives_ids_out_of_range(model_file, kind):
    vocabulary = SentencePieceVocabulary(str(model_file)) if kind == "pieces" else ByteVocabulary()
    assert isinstance(vocabulary, Vocabulary)
    ids = vocabulary.encode("the cat")
    assert vocabulary.decode([*ids, 1, *ids, 0, 0]) == "the cat"
    assert vocabulary.decode([*ids, 10_000]).startswith("the cat")


def test_as_seqio_is_one_object_and_copies_keep_their_ids(model_file):
    vocabulary = SentencePieceVocabulary(str(model_file), 100)
    assert vocabulary.as_seqio() == seqio.SentencePieceVocabulary(str(model_file), 100)
    assert vocabulary.as_seqio() is vocabulary.as_seqio()
    for twin in (copy.deepcopy(vocabulary), pickle.loads(pickle.dumps(vocabulary))):
        assert twin == vocabulary
        assert twin.encode("the cat") == vocabulary.encode("the cat")


def test_fingerprint_depends_on_ids_and_not_on_the_path(model_file, tmp_path):
    moved = shutil.copy(model_file, tmp_path / "spiece.model")
    here = SentencePieceVocabulary(str(model_file), 100)
    assert re.fullmatch("[0-9a-f]{64}", here.fingerprint)
    assert SentencePieceVocabulary(str(moved), 100).fingerprint == here.fingerprint
    assert SentencePieceVocabulary(str(model_file), 0).fingerprint != here.fingerprint
    assert ByteVocabulary(0).fingerprint != ByteVocabulary(125).fingerprint


def test_a_hugging_face_directory_names_the_model_in_it(model_file, tmp_path):
    shutil.copy(model_file, tmp_path / "spiece.model")
    from_directory = t5_vocabulary(str(tmp_path))
    assert from_directory.vocab_size == 400
    assert from_directory.encode("the cat") == t5_vocabulary(str(model_file)).encode("the cat")
    assert from_directory.as_seqio().vocab_size == 400


def test_wrong_paths_are_refused_in_one_line(tmp_path):
    not_a_model = tmp_path / "text.model"
    not_a_model.write_text("not a model\n" * 10)
    nothing = tmp_path / "nothing.model"
    nothing.write_bytes(b"")
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, expected in (
        (tmp_path / "missing.model", "file not found"),
        (empty, "no SentencePiece model in directory"),
        (not_a_model, "is not a SentencePiece model"),
        (nothing, "is empty"),
    ):
        expected += (
            ".*; allowed as VOCABULARY_PATH: a SentencePiece .model file, a tokenizer.json, "
        )
        vocabulary = SentencePieceVocabulary(str(path))  # nothing is read yet
        for use in (lambda v: v.encode("text"), lambda v: v.as_seqio()):
            with pytest.raises(DataError, match=expected) as caught:
                use(vocabulary)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match="extra_ids=-1"):
        SentencePieceVocabulary("any.model", -1)


def test_a_remote_model_is_looked_for_only_when_it_is_used():
    vocabulary = SentencePieceVocabulary("nowhere://bucket/sentencepiece.model", 100)
    with pytest.raises(
        DataError, match="nowhere://bucket/.*allowed: a local path, or gs://"
    ) as caught:
        vocabulary.encode("text")
    assert "\n" not in str(caught.value)


def test_a_model_that_ends_no_text_is_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        input=__file__,
        model_prefix=str(tmp_path / "endless"),
        vocab_size=300,
        eos_id=-1,
        minloglevel=2,
    )
    with pytest.raises(DataError, match="endless.model: no token ends a text; allowed: ") as caught:
        SentencePieceVocabulary(str(tmp_path / "endless.model")).encode("text")
    assert "\n" not in str(caught.value)
