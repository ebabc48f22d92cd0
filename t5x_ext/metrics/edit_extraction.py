"""Edits between two tokenised sentences, by ERRANT's alignment and rules (Bryant et al. 2017).

Tokens are aligned at the least cost, where a substitution costs less the more alike two words are
in lemma, part of speech and spelling; then neighbouring operations are merged or kept apart by
rules. ERRANT asks spaCy about words; `extract_edits` asks word lists (`metrics.word_classes`), and
agrees with ERRANT on about 95% of edits. `metrics.errant_library` is ERRANT itself.
"""

from __future__ import annotations

import itertools
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from mixtures.writing.m2 import Edit
from t5x_ext.metrics.rouge import longest_common_subsequence
from t5x_ext.metrics.word_classes import Word, classify

Merging = Literal["rules", "all-split", "all-merge", "all-equal"]

_OPEN = frozenset({"ADJ", "ADV", "NOUN", "VERB"})
_CONTENT = _OPEN | {"AUX"}
_VERBAL = frozenset({"AUX", "PART", "VERB"})
_NEVER = float("inf")
_ROUNDING = 1e-9  # of sums of costs


class _Operation(NamedTuple):
    """Source tokens [start, end) become output tokens [from_, to); kind is M, S, I, D, T or X."""

    kind: str
    start: int
    end: int
    from_: int
    to: int


class OwnExtractor:
    """`extract_edits` under the interface of `metrics.errant.Extractor`."""

    label = "own extractor"

    def find_edits(self, source: Sequence[str], output: Sequence[str]) -> tuple[Edit, ...]:
        """See `extract_edits`."""
        return extract_edits(source, output)


def extract_edits(source: Sequence[str], output: Sequence[str]) -> tuple[Edit, ...]:
    """What was done to the tokens of `source`, from left to right."""
    return _extract_edits(tuple(source), tuple(output))


@lru_cache(maxsize=1 << 15)  # three metrics compare the same edits
def _extract_edits(source: tuple[str, ...], output: tuple[str, ...]) -> tuple[Edit, ...]:
    if source == output:
        return ()
    before, after = classify(source), classify(output)
    return merge(before, after, align(before, after), "rules")


def align(source: Sequence[Word], output: Sequence[Word], plain: bool = False) -> list[_Operation]:
    """The cheapest sequence of operations on single words, and transpositions of several.

    Args:
        source: words.
        output: words.
        plain: Levenshtein's costs in place of ERRANT's, and no transpositions.
    """
    costs = [[float(j) for j in range(len(output) + 1)]]
    kinds = [["I"] * (len(output) + 1)]
    targets = [(j, word, word.text, word.lower) for j, word in enumerate(output)]
    low, high = _band(source, output, plain)
    last_in_source: dict[str, int] = {}  # word -> where it stood last, above this row
    for i, old in enumerate(source):
        text, lower = old.text, old.lower
        start, stop = max(0, i + low), min(len(output), i + high + 1)
        above, left = costs[-1], _NEVER if start else i + 1.0
        row, kind_row = [_NEVER] * start + [left], ["D"] * (start + 1)
        # Where the row's word stood last in the output, left of this cell.
        last = max((j for j in range(start) if targets[j][3] == lower), default=-1)
        for j, new, new_text, new_lower in targets[start:stop]:
            diagonal = above[j]
            if text == new_text:
                row.append(diagonal)
                kind_row.append("M")
                left, last = diagonal, j
                continue
            # Of equal costs a transposition is taken first, then S, I, D.
            best, kind = left + 1, "I"
            if above[j + 1] + 1 < best:
                best, kind = above[j + 1] + 1, "D"
            # Only words that differ in case alone cost nothing, so most cells need no comparison.
            if diagonal < best or (diagonal == best and lower == new_lower):
                if plain:
                    cost = diagonal + 1
                elif diagonal + _least_cost(old, new) > best + _ROUNDING:
                    cost = _NEVER  # whatever their letters have in common
                else:
                    cost = diagonal + _substitution_cost(old, new)
                if cost <= best:
                    best, kind = cost, "S"
            if last >= 0 and not plain:
                # Both words have to be in the other's run, and a run of k + 1 costs at least k.
                reach = max(j - last, i - last_in_source.get(new_lower, -len(costs) - j))
                if reach <= best:
                    size, cost = _transposition(source, output, costs, i, j, reach)
                    if cost <= best:
                        best, kind = cost, f"T{size}"
            if lower == new_lower:
                last = j
            row.append(best)
            kind_row.append(kind)
            left = best
        last_in_source[lower] = i
        costs.append(row + [_NEVER] * (len(output) - stop))
        kinds.append(kind_row)
    return _walk_back(kinds)


def _band(source: Sequence[Word], output: Sequence[Word], plain: bool) -> tuple[int, int]:
    """The least and the greatest j - i of cells (i, j) that a cheapest path may visit.

    Keeping a longest common subsequence is one path; its price is the budget. To be a cell off the
    diagonals between both corners costs two insertions and deletions a step.
    """
    first, second = ([word.text if plain else word.lower for word in w] for w in (source, output))
    longer = len(output) - len(source)
    budget = len(source) + len(output) - 2 * longest_common_subsequence(first, second)
    spare = (budget - abs(longer)) // 2
    return min(0, longer) - spare, max(0, longer) + spare


def _transposition(
    source: Sequence[Word],
    output: Sequence[Word],
    costs: list[list[float]],
    i: int,
    j: int,
    reach: int,
) -> tuple[int, float]:
    """The shortest run of words that ends at (i, j) and has the same words in another order.

    Runs of `reach` words and fewer are known not to be one.
    """
    unbalanced: Counter[str] = Counter()
    off = 0
    for k in range(min(i, j) + 1):
        # Along the diagonal, as long as it holds no match.
        if k and costs[i - k + 1][j - k + 1] == costs[i - k][j - k]:
            break
        for word, step in ((source[i - k].lower, 1), (output[j - k].lower, -1)):
            before = unbalanced[word]
            unbalanced[word] = before + step
            off += abs(before + step) - abs(before)
        if k >= reach and k and not off:
            return k + 1, costs[i - k][j - k] + k
    return 0, _NEVER


@lru_cache(maxsize=1 << 18)
def _substitution_cost(old: Word, new: Word) -> float:
    if old.lower == new.lower:
        return 0.0
    return _class_cost(old, new) + _character_distance(old.text, new.text)


def _class_cost(old: Word, new: Word) -> float:
    """The part of a substitution's cost that needs no look at the letters."""
    lemma = 0.0 if old.lemma == new.lemma else 0.499
    if old.pos == new.pos:
        return lemma
    return lemma + (0.25 if old.pos in _OPEN and new.pos in _OPEN else 0.5)


def _least_cost(old: Word, new: Word) -> float:
    """A lower bound of `_substitution_cost` at a tenth of its price: letters differ in number."""
    if old.lower == new.lower:
        return 0.0
    before, after = len(old.text), len(new.text)
    return _class_cost(old, new) + abs(before - after) / (before + after)


@lru_cache(maxsize=1 << 18)
def _character_distance(old: str, new: str) -> float:
    """Insertions and deletions between two words, as a share of their lengths."""
    total = len(old) + len(new)
    return (total - 2 * longest_common_subsequence(old, new)) / total


def _walk_back(kinds: list[list[str]]) -> list[_Operation]:
    i, j = len(kinds) - 1, len(kinds[0]) - 1
    operations = []
    while i or j:
        kind = kinds[i][j] if i and j else "D" if i else "I"
        size = int(kind[1:] or 1)
        down = 0 if kind == "I" else size
        right = 0 if kind == "D" else size
        operations.append(_Operation(kind[0], i - down, i, j - right, j))
        i, j = i - down, j - right
    return operations[::-1]


def merge(
    source: Sequence[Word],
    output: Sequence[Word],
    operations: Sequence[_Operation],
    merging: Merging,
) -> tuple[Edit, ...]:
    """Edits of one or more operations.

    Args:
        source: words.
        output: words.
        operations: from `align`.
        merging: ERRANT's rules, or one of its three plain ways: nothing, all neighbours, or
            neighbours of the same kind.
    """
    groups: list[_Operation] = []
    key = {"all-merge": _is_match, "all-equal": _kind, "rules": _group}.get(merging)
    for _, run in itertools.groupby(operations, key):
        part = list(run)
        if merging in ("all-merge", "all-equal") and part[0].kind != "M":
            groups += _join(part)
        elif merging == "rules" and part[0].kind not in "MT":
            groups += _Merger(source, output).process(part)
        else:
            groups += part
    return tuple(
        Edit(each.start, each.end, (" ".join(w.text for w in output[each.from_ : each.to]),))
        for each in groups
        if each.kind != "M"
    )


def _is_match(operation: _Operation) -> bool:
    return operation.kind == "M"


def _kind(operation: _Operation) -> str:
    return operation.kind


def _group(operation: _Operation) -> str:
    return operation.kind if operation.kind in "MT" else ""


def _join(run: Sequence[_Operation]) -> list[_Operation]:
    return [_Operation("X", run[0].start, run[-1].end, run[0].from_, run[-1].to)] if run else []


class _Merger:
    """ERRANT's rules for a run of substitutions, insertions and deletions.

    `process` looks at every part of the run, long ones first, until a rule applies to one; what is
    left on both sides is treated in the same way. [old -> new] below are examples.
    """

    def __init__(self, source: Sequence[Word], output: Sequence[Word]):
        self._source, self._output = source, output

    def process(self, run: list[_Operation]) -> list[_Operation]:
        """Edits of a run."""
        if len(run) <= 1:
            return run
        kinds = {operation.kind for operation in run}
        if kinds in ({"D"}, {"I"}):
            return _join(run)
        is_content = False
        for length in range(len(run), 1, -1):
            for start in range(len(run) - length + 1):
                end = start + length - 1
                if all(operation.kind != "S" for operation in run[start : end + 1]):
                    continue
                old = self._source[run[start].start : run[end].end]
                new = self._output[run[start].from_ : run[end].to]
                cut = self._cut(run, start, end, old, new)
                if cut is not None:
                    return cut
                is_content |= any(word.pos in _CONTENT for word in (*old, *new))
        return _join(run) if is_content else run

    def _cut(
        self,
        run: list[_Operation],
        start: int,
        end: int,
        old: Sequence[Word],
        new: Sequence[Word],
    ) -> list[_Operation] | None:
        """The run's edits if a rule applies to its part from start to end (inclusive)."""
        if start == 0 and (old[0].is_possessive or new[0].is_possessive):
            return [run[0], *self.process(run[1:])]
        if old[-1].is_possessive or new[-1].is_possessive:  # [friends -> friend 's]
            return self._merged(run, end - 1, end)
        if old[-1].lower == new[-1].lower:
            if start == 0 and (_is_capital(old, new) or _is_capital(new, old)):
                return self._merged(run, 0, end)  # [Cat -> The big cat]
            if any(len(words) > 1 and _is_punctuation(words[-2]) for words in (old, new)):
                return self._merged(run, end - 1, end)  # [, we -> . We]
        if _letters(old) == _letters(new):  # [sub - way -> subway]
            return self._merged(run, start, end)
        classes = {word.pos for word in (*old, *new)}
        if len(old) != len(new) and (len(classes) == 1 or classes <= _VERBAL):
            return self._merged(run, start, end)  # [to eat -> eating]
        if end - start == 1:
            return self._cut_pair(run, start, old, new)
        return None

    def _cut_pair(
        self, run: list[_Operation], start: int, old: Sequence[Word], new: Sequence[Word]
    ) -> list[_Operation] | None:
        """Rules that keep two operations apart."""
        end = start + 1
        alike = (run[start].kind == "S" and _are_alike(old[0], new[0])) or (
            run[end].kind == "S" and _are_alike(old[-1], new[-1])
        )
        if len(old) == len(new) == 2 or alike:
            return [*self.process(run[:end]), *self.process(run[end:])]
        last = run[-1].kind
        if end == len(run) - 1 and (
            (last in "DS" and old[-1].pos == "DET") or (last in "IS" and new[-1].pos == "DET")
        ):
            return [*self.process(run[:-1]), run[-1]]
        return None

    def _merged(self, run: list[_Operation], start: int, end: int) -> list[_Operation]:
        """The part from start to end (inclusive) as one edit, and what is left on both sides."""
        part = _join(run[start : end + 1])
        return [*self.process(run[:start]), *part, *self.process(run[end + 1 :])]


def _is_capital(one: Sequence[Word], many: Sequence[Word]) -> bool:
    return len(one) == 1 and many[0].text[0].isupper()


def _is_punctuation(word: Word) -> bool:
    return word.pos == "PUNCT" or word.text in string.punctuation


def _are_alike(old: Word, new: Word) -> bool:
    return 1 - _character_distance(old.text, new.text) > 0.75


def _letters(words: Sequence[Word]) -> str:
    return "".join(word.lower for word in words).replace("'", "").replace("-", "")
