"""Between natural text, which models read and write, and the tokens that references are given in.

JFLEG, TurkCorpus and M2 files separate tokens by spaces. A model is given natural text instead
(`detokenize`), so its answer has to be tokenised before it can be compared with references or with
gold edits. No tokeniser gives every source back: "cannot" was one token or two, quotes were `` or
". Each difference would count as an edit that the model never made. `retokenize` therefore takes
the source's own tokens wherever the answer has the source's characters, and asks a tokeniser only
about the rest:

    source                  He ca n't  swim , but he can not  sink .
    detokenize(source)      He can't   swim, but he cannot    sink.
    model's answer          He can't   swim, and he cannot    dive.
    retokenize              He ca n't  swim , and he can not  dive .

What was copied whole has exactly the source's tokens, whatever they are.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
_NATURAL = {"``": '"', "''": '"', **_BRACKETS}
_TREEBANK_SIGN = re.compile("|".join(map(re.escape, _NATURAL)))
# A full stop between two sentences: after a word that is neither an initial nor an abbreviation.
_SENTENCE_END = re.compile(
    r"(?<=[a-z0-9)\"'][a-z0-9)\"'])(?<!\b[MDS]r)(?<!\bMrs)(?<!\bSt)(?<!\bvs)(?<!\betc)(?<!\bNo)"
    r"(?<!\bProf)(?<!\bInc)(?<!\bJr)(?<!\bCo)\.[\"')]* (?=[\"'(]?[A-Z])"
)


class _Token(NamedTuple):
    """A token of the source: its text, and where it stands in the detokenised source."""

    text: str
    start: int
    end: int


def detokenize(tokenized: str) -> str:
    """Natural text of tokens that are separated by spaces, by NLTK's Treebank rules.

    Treebank's signs become what they stand for: `` and '' become ", -LRB- becomes (.
    """
    text: str = _nltk_detokenizer().detokenize(tokenized.split(), convert_parentheses=True)
    return text


def straight_quotes(text: str) -> str:
    """A text whose Treebank quotes, `` and '', are the straight ones that they stand for."""
    return text.replace("``", '"').replace("''", '"')


def tokenize(text: str) -> str:
    """Treebank tokens of a natural text, separated by spaces; every character stays what it is.

    Treebank's tokeniser expects one sentence; the text is divided at full stops before a capital.
    """
    return " ".join(text[start:end] for start, end in _treebank_spans(text))


def retokenize(text: str, source: str) -> str:
    """Tokens of a natural text that was written as an edit of a tokenised source.

    Where characters of `text` equal those of the detokenised source, the source's token boundaries
    and spellings are taken; elsewhere those of `tokenize`.

    Args:
        text: what a model wrote; spaces in it always separate tokens.
        source: the tokens of the text that it was asked to edit, separated by spaces.

    Returns:
        Tokens separated by single spaces. `retokenize(detokenize(source), source)` has exactly the
        tokens of `source`.
    """
    natural = detokenize(source)
    text = " ".join(text.split())
    if text == natural:
        return " ".join(source.split())
    tokens = _source_tokens(source, natural)
    boundary, spelling = _take_over(tokens, _equal_runs(natural, text), text)
    default = {position for span in _treebank_spans(text) for position in span}
    found = []
    for word in re.finditer(r"\S+", text):
        inside = range(word.start() + 1, word.end())
        cuts = [at for at in inside if boundary.get(at, at in default)]
        for start, end in zip([word.start(), *cuts], [*cuts, word.end()], strict=True):
            found.append(spelling.get((start, end), text[start:end]))
    return " ".join(found)


def _source_tokens(source: str, natural: str) -> list[_Token]:
    """The source's tokens in its natural text; fewer where the detokeniser moved characters."""
    tokens: list[_Token] = []
    position = 0
    for token in source.split():
        shown = _TREEBANK_SIGN.sub(lambda sign: _NATURAL[sign[0]], token)
        start = natural.find(shown, position)
        if start < 0 or natural[position:start].strip():
            continue
        position = start + len(shown)
        tokens.append(_Token(token, start, position))
    return tokens


def _equal_runs(natural: str, text: str) -> Iterator[tuple[int, int, int]]:
    """Stretches that two texts share, as (start in `natural`, start in `text`, length).

    Words are aligned first and characters only inside what differs: aligning all characters would
    find chance likenesses of unrelated words, and take far longer.
    """
    natural_words = [(word[0], word.start()) for word in re.finditer(r"\S+\s?", natural + " ")]
    text_words = [(word[0], word.start()) for word in re.finditer(r"\S+\s?", text + " ")]
    words = difflib.SequenceMatcher(
        None, [word for word, _ in natural_words], [word for word, _ in text_words], autojunk=False
    )
    for tag, i1, i2, j1, j2 in words.get_opcodes():
        if tag not in ("equal", "replace"):
            continue
        start, at = natural_words[i1][1], text_words[j1][1]
        old = "".join(word for word, _ in natural_words[i1:i2])
        new = "".join(word for word, _ in text_words[j1:j2])
        if tag == "equal":
            yield start, at, len(old)
            continue
        characters = difflib.SequenceMatcher(None, old, new, autojunk=False)
        for i, j, length in characters.get_matching_blocks():
            if length:
                yield start + i, at + j, length


def _take_over(
    tokens: list[_Token], runs: Iterator[tuple[int, int, int]], text: str
) -> tuple[dict[int, bool], dict[tuple[int, int], str]]:
    """Where the source decides about the text: at and inside of tokens that were copied whole.

    Returns:
        For positions in `text` whether a token starts there, as far as the source says; and the
        source's spelling of spans of `text`.
    """
    boundary: dict[int, bool] = {}
    spelling: dict[tuple[int, int], str] = {}
    index = 0
    for run_start, run_at, length in runs:
        shift, run_end = run_at - run_start, run_start + length
        while index < len(tokens) and tokens[index].start < run_start:
            index += 1
        while index < len(tokens) and tokens[index].end <= run_end:
            token = tokens[index]
            index += 1
            start, end = token.start + shift, token.end + shift
            # The characters of "can" in "can't" are not a token by themselves.
            starts = token.start > run_start or text[:start][-1:] in ("", " ")
            ends = token.end < run_end or text[end : end + 1] in ("", " ")
            spelling[start, end] = token.text
            if starts and ends:
                boundary.update((position, False) for position in range(start + 1, end))
                boundary[start] = True
    return boundary, spelling


def _treebank_spans(text: str) -> list[tuple[int, int]]:
    """Where NLTK's Treebank tokens start and end in a text."""
    spans = []
    position = 0
    for sentence in _SENTENCE_END.sub(lambda end: end[0] + "\n", text).split("\n"):
        for token in _nltk_tokenizer().tokenize(sentence):
            while text[position].isspace():
                position += 1
            # The tokeniser writes " as `` or ''.
            length = 1 if token in ("``", "''") and text[position] == '"' else len(token)
            spans.append((position, position + length))
            position += length
    return spans


# NLTK takes half a second to import, which those who only read files need not wait for.
@functools.cache
def _nltk_detokenizer() -> Any:
    from nltk.tokenize.treebank import TreebankWordDetokenizer

    return TreebankWordDetokenizer()


@functools.cache
def _nltk_tokenizer() -> Any:
    from nltk.tokenize.treebank import TreebankWordTokenizer

    return TreebankWordTokenizer()
