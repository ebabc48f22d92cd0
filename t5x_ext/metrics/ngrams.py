"""N-grams and the tokeniser that SARI and BLEU share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

ORDERS = 4


def ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """All runs of `n` words, in order."""
    return zip(*(words[i:] for i in range(n)), strict=False)


@functools.lru_cache(maxsize=1 << 16)
def tokenize_13a(text: str) -> str:
    """Tokens of `text` separated by spaces, as mteval-v13a of WMT splits them."""
    return _tokenizer_13a()(text)


@functools.cache
def _tokenizer_13a() -> Callable[[str], str]:
    # sacrebleu takes a moment to import, which those who score without it need not wait for.
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()
