"""BM25 finds what the reference finds, in one shard and in many, and weights add up to 1."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from t5x_ext.errors import ConfigError
from t5x_ext.retrieval import BM25, Corpus, CorpusSample, find_index, log_weights, open_index

REPO = Path(__file__).resolve().parents[2]


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_corpus(path: Path, texts: list[str]) -> Corpus:
    rows = [{"id": f"p{number}", "text": text} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Corpus(path)


@pytest.mark.parametrize("shard_passages", [500, 97])
def test_search_meets_the_goldens_in_one_shard_and_in_four(
    specialization_dir: Path, shard_passages: int
) -> None:
    corpus = Corpus(specialization_dir / "goldens" / "bm25_corpus.jsonl")
    rows = sorted(read_jsonl(specialization_dir / "goldens" / "bm25.jsonl"), key=_settings)
    checked = 0
    for (k1, b, method, stemmer), group in itertools.groupby(rows, key=_settings):
        stemmer = "english" if stemmer else None
        settings = BM25(k1, b, method, stemmer, shard_passages=shard_passages)
        index = open_index(corpus, settings)
        for row in group:
            assert settings.terms(" ".join(row["query"].split()[:256])) == row["query_tokens"]
            hits = index.search(row["query"], 5)
            np.testing.assert_allclose([hit.score for hit in hits], row["top_scores"], rtol=2e-5)
            if not row["near_tie"]:
                assert [hit.passage.id for hit in hits] == row["top_ids"]
                checked += 1
    assert checked > 100


def _settings(row: dict) -> tuple:
    return row["k1"], row["b"], row["method"], row["stemmer"] or ""


def test_a_look_at_an_index_builds_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T5X_EXT_CACHE", str(tmp_path / "cache"))
    corpus = write_corpus(tmp_path / "c.jsonl", ["red kite flies", "blue kite"])
    assert find_index(corpus) is None and not (tmp_path / "cache").exists()
    other = write_corpus(tmp_path / "other.jsonl", ["a green kite"])
    open_index(other)
    assert find_index(corpus) is None
    open_index(corpus)
    found = find_index(corpus)
    assert found is not None and found.search("red", 1)[0].passage.id == "p0"
    assert find_index(corpus, BM25(k1=1.2)) is None


def test_what_a_killed_process_left_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T5X_EXT_CACHE", str(tmp_path))
    corpus = write_corpus(tmp_path / "c.jsonl", ["red kite flies", "blue kite"])
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *how: os._exit(9))
    child = os.fork()
    if not child:
        open_index(corpus)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    monkeypatch.setattr(os, "rename", rename)
    [unfinished] = (tmp_path / "retrieval").glob("*.unfinished-*")
    others = tmp_path / "retrieval" / "another.unfinished-x"  # may be at work
    others.mkdir()
    assert len(open_index(corpus)) == 2
    assert not unfinished.exists() and others.exists()


def test_a_sample_has_the_lengths_of_the_corpus(tmp_path: Path) -> None:
    small = CorpusSample(write_corpus(tmp_path / "small.jsonl", ["one", "two three", "four"]))
    assert len(small) == 3 and len(small.search("x", 2)) == 2 and len(small.search("x", 9)) == 3
    rng = random.Random(0)
    texts = [f"{'word ' * rng.randrange(40)}end" for _ in range(30_000)]
    corpus = write_corpus(tmp_path / "large.jsonl", texts)
    passages, count = corpus.sample(512)
    assert len({passage.id for passage in passages}) == 512
    assert count == pytest.approx(30_000, rel=0.05)
    words = [len(passage.whole.split()) for passage in passages]
    assert np.mean(words) == pytest.approx(np.mean([len(t.split()) for t in texts]), rel=0.1)
    large = CorpusSample(corpus)
    hits = [large.search(f"query {number}", 5) for number in range(200)]
    assert {len({hit.passage.id for hit in found}) for found in hits} == {5}
    assert {hit.score for found in hits for hit in found} == {1.0}
    assert large.search("query 7", 5) == hits[7] and len({f[0].passage.id for f in hits}) > 100


def test_a_term_that_occurs_twice_in_the_query_counts_twice(tmp_path: Path) -> None:
    index = open_index(write_corpus(tmp_path / "c.jsonl", ["red kite flies", "blue kite"]))
    once, twice = (index.search(query, 1)[0].score for query in ("red", "red red"))
    assert twice == pytest.approx(2 * once)


def test_words_of_a_query_beyond_the_limit_are_left_out(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl", ["heron", "otter"])
    hits = open_index(corpus, BM25(query_words=3)).search("the heron and otter", 5)
    assert [hit.passage.text for hit in hits] == ["heron"]


def test_of_equal_passages_those_first_in_the_corpus_are_found(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c.jsonl", ["nothing here", *["same words"] * 7])
    for shard_passages in (100, 3, 1):
        hits = open_index(corpus, BM25(shard_passages=shard_passages)).search("same words", 4)
        assert [hit.passage.id for hit in hits] == ["p1", "p2", "p3", "p4"]


def test_what_shares_no_term_is_not_found(tmp_path: Path) -> None:
    index = open_index(write_corpus(tmp_path / "c.jsonl", ["heron", "the of and", "otter"]))
    assert [hit.passage.text for hit in index.search("an otter", 5)] == ["otter"]
    assert index.search("walrus", 5) == []
    assert index.search("", 5) == []


def test_an_index_is_kept_until_its_corpus_or_a_setting_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T5X_EXT_CACHE", str(tmp_path / "cache"))

    def built() -> int:
        return len(list((tmp_path / "cache" / "retrieval").glob("*/index.json")))

    path = tmp_path / "c.jsonl"
    open_index(write_corpus(path, ["heron"]))
    open_index(Corpus(path), BM25(query_words=7))
    assert built() == 1
    open_index(Corpus(path), BM25(k1=1.2))
    assert built() == 2
    hits = open_index(write_corpus(path, ["otter"])).search("otter", 1)
    assert built() == 3 and hits[0].passage.text == "otter"


def test_importing_bm25s_leaves_jax_as_it_was() -> None:
    code = """
import sys
from t5x_ext.retrieval.bm25s_import import import_bm25s
if {first!r} == "jax": import jax, jax.lax
import_bm25s()
from t5x_ext.retrieval import open_index
assert ("jax" in sys.modules) == ({first!r} == "jax")
import jax
from jax._src import xla_bridge
assert not xla_bridge._backends, xla_bridge._backends
assert jax.lax.top_k(jax.numpy.arange(3), 1)[0].tolist() == [2]
"""
    for first in ("bm25s", "jax"):
        subprocess.run([sys.executable, "-c", code.format(first=first)], cwd=REPO, check=True)


def test_building_an_index_logs_nothing(tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setenv("T5X_EXT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "corpus.jsonl"
    file.write_text('{"id": "a", "text": "red cranes"}\n{"id": "b", "text": "blue tugs"}\n')
    with caplog.at_level(logging.DEBUG):
        open_index(Corpus(file))
    assert [record.name for record in caplog.records if record.name.startswith("bm25s")] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("\n \n", "holds no passage"),
        ('{"id": "a", "text": "x"}\n{"id": "b", "te', "line 2: not JSON"),
        ('{"id": "a", "text": "x"}\n{"id": "b"}\n', "line 2: field 'text': missing"),
        ('{"id": "a", "text": " "}\n', "line 1: field 'text'"),
        ('["a"]\n', "line 1: not an object"),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "line 2 has the id of line 1"),
        ('{"id": "a", "text": "x \\ud800"}\n', r"line 1: '\\ud800' is half of a surrogate pair"),
        ('{"id": "a", "text": "of the"}\n', "no word to search for"),
    ],
)
def test_a_bad_corpus_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        open_index(Corpus(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_weights_meet_the_goldens(specialization_dir: Path) -> None:
    for row in read_jsonl(specialization_dir / "goldens" / "retrieval_weights.jsonl"):
        expected = [-np.inf if value is None else value for value in row["log_weights"]]
        found = log_weights(row["scores"], row["mode"], row["temperature"])
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighting", ["proportional", "softmax", "uniform"])
def test_rows_without_a_passage_weigh_nothing(weighting: str) -> None:
    found = log_weights([3.0, 1.0], weighting, num_rows=5)
    assert np.exp(found).sum() == pytest.approx(1.0)
    assert np.isneginf(found[2:]).all() and np.isfinite(found[:2]).all()


def test_negative_scores_count_nothing_in_proportion_and_all_zero_is_even() -> None:
    np.testing.assert_array_equal(np.exp(log_weights([2.0, -1.0])), [1.0, 0.0])
    np.testing.assert_allclose(np.exp(log_weights([-2.0, 0.0])), [0.5, 0.5])


@pytest.mark.parametrize(
    "call",
    [
        lambda: log_weights([]),
        lambda: log_weights([1.0, np.nan]),
        lambda: log_weights([1.0, 2.0], num_rows=1),
        lambda: log_weights([1.0], "sofmax"),
        lambda: log_weights([1.0], "softmax", 0.0),
        lambda: BM25(method="bm25+"),
        lambda: BM25(b=1.5),
    ],
)
def test_settings_that_mean_nothing_are_refused(call) -> None:
    with pytest.raises(ConfigError):
        call()
