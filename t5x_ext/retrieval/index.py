"""BM25 over a corpus, kept on disk and searched shard by shard.

An index is a directory of the local cache that is named by the hash of its corpus and settings: it
is built once, and again only when either changes. Each shard holds as many passages as memory
takes. A shard alone would know neither how rare a word is in the whole corpus nor the mean length,
so both are counted over all shards first; scores, and with them the passages found, are those of
one index over everything.

With tf the count of a term in a passage, L the passage's length and L_mean the mean (both in terms
that are not stop words), N passages and n of them with the term, bm25s computes

    score = idf(n, N) * tf / (tf + k1 * (1 - b + b * L / L_mean))

from the shard's own n, N and L_mean. `_for_mean_length` and `_rescale_idf` turn that into the
whole corpus' scores.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from t5x_ext import bounds, caches
from t5x_ext.errors import ConfigError
from t5x_ext.progress import MinuteNotes
from t5x_ext.retrieval.bm25s_import import import_bm25s
from t5x_ext.retrieval.corpus import Corpus, Passage
from t5x_ext.terminal import note

_VERSION = 1  # of the files
_CACHE = "retrieval"  # its folder
_ABOUT = "index.json"
_METHODS = ("lucene", "robertson")
_STEMMERS = (None, "english")


@dataclasses.dataclass(frozen=True)
class BM25:
    """Settings of an index.

    Attributes:
        k1: how soon further occurrences of a term stop to count.
        b: how much long passages are marked down, 0 to 1.
        method: 'lucene' (ln(1 + (N - n + 0.5) / (n + 0.5))) or 'robertson' (without the 1 +, at
            least 0).
        stemmer: None, or 'english' for the Snowball stemmer, which PyStemmer has.
        query_words: a query's first words are searched for; a term that occurs twice among them
            counts twice.
        shard_passages: the most passages in a shard.
    """

    k1: float = 1.5
    b: float = 0.75
    method: str = "lucene"
    stemmer: str | None = None
    query_words: int = 256
    shard_passages: int = 500_000

    def __post_init__(self) -> None:
        bounds.check_real("BM25.k1", self.k1, 1e-6, 1e3)
        bounds.check_real("BM25.b", self.b, 0, 1)
        bounds.check_int("BM25.query_words", self.query_words, 1)
        bounds.check_int("BM25.shard_passages", self.shard_passages, 1)
        for field, allowed in (("method", _METHODS), ("stemmer", _STEMMERS)):
            if getattr(self, field) not in allowed:
                names = ", ".join(map(str, allowed))
                raise ConfigError(f"BM25.{field}: {getattr(self, field)!r}; allowed: {names}")
        if self.stemmer is not None and importlib.util.find_spec("Stemmer") is None:
            raise ConfigError(
                f"BM25.stemmer: {self.stemmer!r} needs PyStemmer; pip install 't5x_ext[stemmer]'"
            )

    def terms(self, text: str) -> list[str]:
        """What is searched for, and counted: lower-cased words of two characters and more."""
        return self._tokenize([text])[0]

    def _tokenize(self, texts: list[str]) -> list[list[str]]:
        return import_bm25s().tokenize(
            texts, stopwords="en", stemmer=self._stem, return_ids=False, show_progress=False
        )

    @property
    def _stem(self) -> Any:
        if self.stemmer is None:
            return None
        import Stemmer

        return Stemmer.Stemmer(self.stemmer)


class Hit(NamedTuple):
    """A passage that shares at least one term with the query."""

    passage: Passage
    score: float


class _Statistics(NamedTuple):
    """Of a whole corpus."""

    num_passages: int
    mean_length: float
    frequencies: Counter[str]  # term -> passages that have it


class Index:
    """Finds passages. Made by `open_index`."""

    def __init__(self, directory: Path, corpus: Corpus, settings: BM25):
        bm25s = import_bm25s()
        about = json.loads((directory / _ABOUT).read_text())
        self.corpus = corpus
        self._settings = settings
        self._spans = np.load(directory / "spans.npy", mmap_mode="r")
        self._shards = [
            bm25s.BM25.load(str(directory / name), mmap=True, load_corpus=False)
            for name in about["shards"]
        ]

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def found_by(self) -> dict[str, Any]:
        """The settings that decide which passages are found; how they lie on disk is none."""
        settings = dataclasses.asdict(self._settings)
        del settings["shard_passages"]
        return settings

    def search(self, query: str, k: int) -> list[Hit]:
        """The k passages with the highest scores, best first; of equals, those first in the corpus.

        Args:
            query: a text; its first `query_words` words are used.
            k: the most passages wanted; fewer are found where fewer share a term with the query.
        """
        words = " ".join(query.split()[: self._settings.query_words])
        terms = self._settings.terms(words)
        numbers: list[np.ndarray] = []
        scores: list[np.ndarray] = []
        first = 0
        for shard in self._shards:
            known = shard.get_tokens_ids(terms)
            if known:
                found = shard.get_scores_from_ids(known)
                best = _best(found, k)
                numbers.append(best + first)
                scores.append(found[best])
            first += shard.scores["num_docs"]
        if not numbers:
            return []
        number, score = np.concatenate(numbers), np.concatenate(scores)
        order = np.lexsort((number, -score))[:k]
        return [
            Hit(self.corpus.passage(*map(int, self._spans[n])), float(s))
            for n, s in zip(number[order], score[order], strict=True)
        ]


def open_index(corpus: Corpus, settings: BM25 = BM25()) -> Index:
    """The index of a corpus: built, unless it lies in the cache.

    Args:
        corpus: see `Corpus`.
        settings: of BM25; another value of any of them is another index.

    Raises:
        ConfigError: the corpus cannot be used, or the cache cannot be written.
    """
    directory = _directory(corpus, settings)
    caches.make_once(directory, _ABOUT, lambda unfinished: _write(unfinished, corpus, settings))
    return Index(directory, corpus, settings)


def find_index(corpus: Corpus, settings: BM25 = BM25()) -> Index | None:
    """The index of a corpus if it lies in the cache; see `open_index`. Writes nothing."""
    # The name of an index is a hash of the corpus, which takes a minute of a large one.
    if not any(caches.directory(_CACHE).glob(f"*/{_ABOUT}")):
        return None
    directory = _directory(corpus, settings)
    return Index(directory, corpus, settings) if (directory / _ABOUT).is_file() else None


def _directory(corpus: Corpus, settings: BM25) -> Path:
    """Where an index is, or would be."""
    shape = {k: v for k, v in dataclasses.asdict(settings).items() if k != "query_words"}
    key = json.dumps([_VERSION, import_bm25s().__version__, corpus.digest, shape])
    return caches.directory(_CACHE) / hashlib.sha256(key.encode()).hexdigest()[:32]


def _write(directory: Path, corpus: Corpus, settings: BM25) -> None:
    whole = _count(corpus, settings)
    spans, names = [], []
    for number, shard in enumerate(_shards(corpus, settings)):
        spans += [(start, end) for start, end, _ in shard]
        names.append(f"shard-{number:05}")
        _write_shard(directory / names[-1], [p for *_, p in shard], settings, whole)
        if whole.num_passages > settings.shard_passages:
            note(f"index of {corpus.path}: {len(spans):,}/{whole.num_passages:,} passages")
    np.save(directory / "spans.npy", np.array(spans, np.int64))
    (directory / _ABOUT).write_text(json.dumps({"shards": names}))


def _shards(corpus: Corpus, settings: BM25) -> Iterator[list[tuple[int, int, Passage]]]:
    shard = []
    for found in corpus.scan():
        shard.append(found)
        if len(shard) == settings.shard_passages:
            yield shard
            shard = []
    if shard:
        yield shard


def _count(corpus: Corpus, settings: BM25) -> _Statistics:
    frequencies: Counter[str] = Counter()
    count = total = 0
    with MinuteNotes(f"words of {corpus.path}", None, "passages") as progress:
        for shard in _shards(corpus, settings):
            for terms in settings._tokenize([passage.whole for *_, passage in shard]):
                frequencies.update(set(terms))
                count += 1
                total += len(terms)
            progress.count(count)
    if not total:
        raise ConfigError(f"{corpus.path}: holds no word to search for; allowed: passages of text")
    return _Statistics(count, total / count, frequencies)


def _write_shard(
    directory: Path, passages: list[Passage], settings: BM25, whole: _Statistics
) -> None:
    bm25s = import_bm25s()
    terms = settings._tokenize([passage.whole for passage in passages])
    mean = sum(map(len, terms)) / len(terms)
    # A shard of stop words alone has no mean length, and bm25s wants a term in a corpus.
    k1, b = _for_mean_length(settings, (mean or 1) / whole.mean_length)
    # idf: Lucene's is above 0 for every term, so that it can be divided by.
    shard = bm25s.BM25(k1=k1, b=b, method="lucene", backend="numpy")
    terms = terms if mean else [[""], *terms[1:]]
    shard.index(terms, create_empty_token=False, show_progress=False)
    _rescale_idf(shard, settings.method, whole)
    shard.save(str(directory), show_progress=False)


def _for_mean_length(settings: BM25, ratio: float) -> tuple[float, float]:
    """k1 and b that give, with the shard's mean length, what the settings give with the corpus'.

        k1' (1 - b') = k1 (1 - b)    and    k1' b' / shard_mean = k1 b / corpus_mean

    Args:
        settings: k1 and b.
        ratio: shard_mean / corpus_mean.
    """
    long = settings.k1 * settings.b * ratio
    k1 = settings.k1 * (1 - settings.b) + long
    return k1, long / k1


def _rescale_idf(shard: Any, method: str, whole: _Statistics) -> None:
    """Multiplies each term's scores by its idf in the whole corpus over that in the shard."""
    scores, num_here = shard.scores, shard.scores["num_docs"]
    with_term = np.diff(scores["indptr"])
    factors = np.ones(len(with_term))
    for term, place in shard.vocab_dict.items():
        here, everywhere = int(with_term[place]), whole.frequencies[term]
        if here:
            factors[place] = _idf(method, everywhere, whole.num_passages) / _idf(
                "lucene", here, num_here
            )
    scores["data"] = (scores["data"] * np.repeat(factors, with_term)).astype(np.float32)


def _idf(method: str, with_term: int, num_passages: int) -> float:
    odds = (num_passages - with_term + 0.5) / (with_term + 0.5)
    return math.log(1 + odds) if method == "lucene" else math.log(max(1.0, odds))


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k highest scores above 0 and of all that equal the least of them."""
    above = np.flatnonzero(scores > 0)
    if len(above) <= k:
        return above
    least = np.partition(scores[above], -k)[-k]
    return above[scores[above] >= least]
