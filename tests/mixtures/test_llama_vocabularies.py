"""LLaMA's SentencePiece models: byte pairs, bytes to fall back on, a BOS, tokens added later."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import sentencepiece
import tokenizers

from mixtures.errors import DataError
from mixtures.json_vocabularies import JsonVocabulary
from mixtures.vocabularies import (
    SentencePieceVocabulary,
    Vocabulary,
    open_vocabulary,
    save_tokenizer,
)
from t5x_ext.data.features import DecoderOnlyFeatures
from t5x_ext.decoding.methods import OutputIds

BOS, EOS = 1, 2
SOURCE = Path(__file__).read_text().splitlines()
TRICKY = [
    "Say it in French: cheese",
    "",
    " ",
    "  two  spaces\nand a newline\t{}",
    "ends in a space ",
    "\n\n\tindent\r\n",
    "Ünïcode – “quotes” ½ ﬁ 日本語 \U0001f600\u200d\U0001f468",
    "no\u00a0break and a\u3000wide one",
    "0123456789 3.14159 1,000,000",
    "aaaaaaaaaaaaaaaaaaaaa",
    "▁already marked▁",
    "a\x00b\x7f\ufeff",
]
NAMES_OF_TOKENS = ["</s>", "<s>", "<unk>", "one</s>two", "<s>first </s> second<unk>"]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    """A model as LLaMA's: identity normaliser, white space kept, digits apart."""
    folder = tmp_path_factory.mktemp("llama")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SOURCE),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=500,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        character_coverage=0.9995,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


def directory(model_file: Path, tmp_path: Path, **config: object) -> Path:
    """A new directory of Hugging Face's with a model and a tokenizer_config.json."""
    tmp_path = Path(tempfile.mkdtemp(dir=tmp_path))
    shutil.copy(model_file, tmp_path / "tokenizer.model")
    stated = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    stated |= {"unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated | config))
    return tmp_path


def transformers_tokenizer(path: Path):
    """LlamaTokenizer, as AutoTokenizer chooses it."""
    found = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(path))
    assert type(found).__name__ == "LlamaTokenizer"
    return found


def test_ids_are_those_of_sentencepiece_and_texts_come_back(model_file):
    ours = open_vocabulary(str(model_file))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    assert isinstance(ours, Vocabulary)
    assert (ours.bos_id, ours.eos_ids, ours.unk_id) == (BOS, (EOS,), 0)
    assert ours.prefix_ids == (BOS,)
    assert ours.vocab_size == theirs.GetPieceSize() == 500
    for text in [*SOURCE, *TRICKY]:
        if not any(name in text for name in ("<s>", "</s>", "<unk>")):
            ids = ours.encode(text)
            assert ids == theirs.EncodeAsIds(text)
            assert ours.decode(ids) == theirs.DecodeIds(ids) == text.replace("▁", " ")
            assert ours.decode([BOS, *ids, EOS, *ids]) == ours.decode(ids)


@pytest.mark.parametrize("legacy", [False, True])
def test_ids_are_those_of_transformers(model_file, tmp_path, legacy):
    path = directory(model_file, tmp_path, legacy=legacy)
    ours, theirs = open_vocabulary(str(path)), transformers_tokenizer(path)
    assert ours.vocab_size == len(theirs)
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    for text in [*SOURCE, *TRICKY, *NAMES_OF_TOKENS]:
        if text.startswith((" ", "▁")):
            continue  # see test_a_leading_space_is_kept
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False), text
        assert [*ours.prefix_ids, *ids] == theirs.encode(text)
        if EOS not in ids and ours.unk_id not in ids:
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_a_leading_space_is_kept(model_file, tmp_path):
    """As sentencepiece has it; Transformers drops it, and the text does not come back."""
    path = directory(model_file, tmp_path)
    ours, theirs = open_vocabulary(str(path)), transformers_tokenizer(path)
    assert ours.encode("  Say") == theirs.encode("   Say", add_special_tokens=False)
    assert ours.decode(ours.encode("  Say")) == "  Say" != theirs.decode(theirs.encode("  Say"))


def test_a_bos_is_added_where_the_files_say(model_file, tmp_path):
    features = DecoderOnlyFeatures()
    for says, prefix in ((True, [BOS]), (False, [])):
        ours = open_vocabulary(str(directory(model_file, tmp_path, add_bos_token=says)))
        assert features.prompt_tokens(ours, "Say").tolist() == [*prefix, *ours.encode("Say")]
        assert list(ours.as_seqio().prefix_ids) == prefix
        assert features.target_tokens(ours, " it", "Say").tolist()[-1] == EOS


def test_several_ids_end_a_text_and_added_tokens_have_theirs(model_file, tmp_path):
    added = {"500": {"content": "<turn>", "special": True}, "501": {"content": "<tool>"}}
    path = directory(model_file, tmp_path, added_tokens_decoder=added, pad_token="<turn>")
    (path / "generation_config.json").write_text('{"eos_token_id": [2, 500]}')
    ours, theirs = open_vocabulary(str(path)), transformers_tokenizer(path)
    assert ours.eos_ids == OutputIds.of(ours).eos == (EOS, 500)
    assert ours.vocab_size == len(theirs) == 502
    assert ours.pad_id == theirs.pad_token_id == 500
    for text in ("Say it<turn>", "<turn> it", "a <tool> b"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    ids = ours.encode("Say")
    assert ours.decode([*ids, 500, *ids]) == "Say"
    assert ours.decode(ours.encode("Say <tool>")) == "Say <tool>"
    # Older versions of Transformers list them in a separate file.
    config = json.loads((path / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    older = directory(model_file, tmp_path, **config)
    (older / "added_tokens.json").write_text('{"<turn>": 500, "<tool>": 501}')
    assert open_vocabulary(str(older)).encode("a<tool><turn>") == ours.encode("a<tool><turn>")


def test_added_tokens_that_leave_ids_out_are_one_line(model_file, tmp_path):
    added = {"510": {"content": "<turn>", "special": True}}
    path = directory(model_file, tmp_path, added_tokens_decoder=added)
    expected = "added token '<turn>' has id 510; allowed: 500, the next one"
    with pytest.raises(DataError, match=expected) as caught:
        open_vocabulary(str(path)).encode("text")
    assert "\n" not in str(caught.value)
    path = directory(model_file, tmp_path, added_tokens_decoder=["<turn>"])
    with pytest.raises(DataError, match="the added tokens are not a table of ids and texts"):
        open_vocabulary(str(path)).encode("text")


def test_seqio_gives_the_same_ids_and_a_copy_is_the_same(model_file, tmp_path):
    for name, source in (("file", model_file), ("files", directory(model_file, tmp_path))):
        ours = open_vocabulary(str(source))
        theirs = ours.as_seqio()
        for text in TRICKY:
            assert theirs.encode_tf(text).numpy().tolist() == ours.encode(text)
        save_tokenizer(ours, str(tmp_path / name))
        copy = open_vocabulary(str(tmp_path / name))
        assert isinstance(copy, SentencePieceVocabulary)
        assert copy.fingerprint == ours.fingerprint and copy.as_seqio() == theirs
        reference = transformers_tokenizer(tmp_path / name)
        for text in TRICKY:
            if not text.startswith((" ", "▁")):
                assert [*copy.prefix_ids, *copy.encode(text)] == reference.encode(text)


def test_tokenizer_json_is_taken_where_both_are(model_file, tmp_path):
    """Transformers reads that one, and what was added after training is in it alone."""
    path = directory(model_file, tmp_path)
    reference = transformers_tokenizer(path)
    reference.save_pretrained(str(path))
    assert (path / "tokenizer.json").is_file() and (path / "tokenizer.model").is_file()
    both = open_vocabulary(str(path))
    assert isinstance(both, JsonVocabulary)
    alone = SentencePieceVocabulary(str(path / "tokenizer.model"))
    assert both.prefix_ids == alone.prefix_ids == (BOS,)
    for text in [*SOURCE, *TRICKY, *NAMES_OF_TOKENS]:
        if not text.startswith((" ", "▁")):
            assert both.encode(text) == alone.encode(text)
    tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_tokens(["fromage"])
    tokenizer.save(str(path / "tokenizer.json"))
    more = shutil.copytree(path, tmp_path / "more")
    assert open_vocabulary(str(more)).encode("fromage") == [500]
