"""Byte-level BPE in a tokenizer.json: ids as Transformers gives them, text back byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from mixtures.errors import DataError
from mixtures.joining import prompt_start, response_tokens
from mixtures.vocabularies import Vocabulary, open_vocabulary, save_tokenizer
from t5x_ext.data.features import DecoderOnlyFeatures

SOURCE = Path(__file__).read_text().splitlines()
# Without those that name special tokens, which are not text.
LINES = [line for line in SOURCE if not any(name in line for name in ("<s>", "<end>"))] + [
    "",
    "  two  spaces\nand a newline\t{}",
    "Ünïcode – “quotes” ½ ﬁ 日本語 \U0001f600\u200d",
    "no\u00a0break",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A tokenizer as LLaMA 3's: a BOS before every text, and two ids that end one."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unused>", "<s>", "<end>", "<turn>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    folder = tmp_path_factory.mktemp("bpe")
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "<end>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3]}))
    return folder


def test_ids_are_those_of_transformers_and_texts_come_back(directory):
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(directory))
    ours = open_vocabulary(str(directory))
    assert isinstance(ours, Vocabulary)
    assert (ours.bos_id, ours.eos_ids, ours.prefix_ids) == (1, (2, 3), (1,))
    assert ours.vocab_size == len(theirs) == 400
    for text in LINES:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False)
        assert [*ours.prefix_ids, *ids] == theirs.encode(text)
        assert ours.decode(ids) == text
        assert ours.decode([*ids, 3, *ids]) == text


def test_a_prompt_starts_as_the_tokenizer_starts_texts(directory, tmp_path):
    ours = open_vocabulary(str(directory))
    features = DecoderOnlyFeatures()
    assert features.prompt_tokens(ours, "Say").tolist() == [1, *ours.encode("Say")]
    assert prompt_start(ours.as_seqio()) == [1]
    # SmolLM2 has a BOS and puts it before nothing.
    bare = json.loads((directory / "tokenizer.json").read_text())
    bare["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(bare))
    config = (directory / "tokenizer_config.json").read_text()
    (tmp_path / "tokenizer_config.json").write_text(config)
    without = open_vocabulary(str(tmp_path))
    assert without.bos_id == 1
    assert features.prompt_tokens(without, "Say").tolist() == ours.encode("Say")


@pytest.mark.parametrize("template", ["<s> $A <end>", "$A"])
def test_prefix_without_a_piece_for_letters(template, tmp_path):
    pieces = {"<s>": 0, "<end>": 1, "1": 2, "2": 3}
    tokenizer = tokenizers.Tokenizer(models.BPE(pieces, []))
    assert tokenizer.encode("a").ids == []
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 0), ("<end>", 1)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "<end>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = open_vocabulary(str(tmp_path))
    surrounded = template != "$A"
    assert ours.prefix_ids == ((0,) if surrounded else ())


def test_a_response_is_tokenised_behind_its_prompt(directory):
    ours = open_vocabulary(str(directory))
    whole = ours.encode("Say it in French: cheese") + response_tokens(
        ours, "Say it in French: cheese", " fromage"
    )
    assert whole == ours.encode("Say it in French: cheese fromage")
    # Where a token would reach across the border, each is tokenised by itself.
    assert response_tokens(ours, "chee", "se") == ours.encode("se")
    target = DecoderOnlyFeatures().target_tokens(ours, " fromage", "cheese")
    assert target.tolist() == [*response_tokens(ours, "cheese", " fromage"), 2]


def test_seqio_gives_the_same_ids_and_a_copy_is_the_same(directory, tmp_path):
    ours = open_vocabulary(str(directory))
    theirs = ours.as_seqio()
    for text in LINES[-6:]:
        assert theirs.encode_tf(text).numpy().tolist() == theirs.encode(text) == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    save_tokenizer(ours, str(tmp_path / "copy"))
    copy = open_vocabulary(str(tmp_path / "copy"))
    assert copy.fingerprint == ours.fingerprint and copy.as_seqio() == theirs


@pytest.mark.parametrize("kind", ["untyped BPE", "WordLevel", "WordPiece"])
def test_other_kinds_than_unigram_are_read(kind, directory, tmp_path):
    """`tokenizers` reads every kind; files of 2020 do not name theirs."""
    text = "to be"
    if kind == "untyped BPE":
        content = json.loads((directory / "tokenizer.json").read_text())
        del content["model"]["type"]
        wanted = open_vocabulary(str(directory)).encode(text)
    else:
        pieces = {"<unk>": 0, "<s>": 1, "<end>": 2, "be": 3}
        words = tokenizers.Tokenizer(getattr(models, kind)(pieces, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        content = json.loads(words.to_str())
        wanted = [0, 3]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    config = (directory / "tokenizer_config.json").read_text()
    (tmp_path / "tokenizer_config.json").write_text(config)
    found = open_vocabulary(str(tmp_path))
    assert found.encode(text) == wanted and found.eos_id == 2


def test_a_tokenizer_that_ends_no_text_is_one_line(directory, tmp_path):
    content = (directory / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(
        DataError, match="tokenizer.json: no token ends a text; allowed: "
    ) as caught:
        open_vocabulary(str(tmp_path)).encode("text")
    assert "\n" not in str(caught.value)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": 3}}')
    with pytest.raises(DataError, match="is not a tokenizer.json") as caught:
        open_vocabulary(str(tmp_path)).encode("text")
    assert "\n" not in str(caught.value)
