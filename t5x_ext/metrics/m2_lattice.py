"""The edits of a system as M2's max-match extracts them (Dahlmeier and Ng 2012).

All cheapest ways of turning the source into the output form a lattice of vertices (i, j): i source
tokens and j output tokens are behind. A step inserts, deletes, substitutes or keeps one token. Two
lattices, with substitutions at cost 1 and at cost 2, are laid over each other. An edit is a run of
steps with at most two kept tokens in it, and the path wanted

    1. holds as many edits of the annotator as there are ("gold" edits),
    2. has the fewest steps outside of them,
    3. has the fewest edits; a single step that both lattices hold counts twice here.

The original spells out the edges between all pairs of vertices and needs hours for long or
repetitive output. Here a path is built step by step, in a few states that say how many tokens were
kept since its last edit began: time grows with the number of vertices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mixtures.writing.m2 import Edit

MAX_KEPT = 2

Vertex = tuple[int, int]

# Weights of the three aims; each outweighs all of the next together, as long as source and output
# have fewer than 2^16 tokens. Sums are whole numbers that a float holds exactly, and adds sooner.
_GOLD, _STEP, _EDIT = 2.0**35, 2.0**18, 1.0
_NEVER = float("inf")

# States of a path: outside of an edit; in one after a single step (which kept or changed a token);
# in one that has only kept two tokens; in one that has changed something and kept 0, 1 or 2.
_OUTSIDE, _KEPT1, _CHANGED1, _KEPT2, _IN0, _IN1, _IN2 = range(7)
_AFTER_KEPT = ((_OUTSIDE, _KEPT1), (_KEPT1, _KEPT2), (_CHANGED1, _IN1), (_IN0, _IN1), (_IN1, _IN2))
_AFTER_CHANGE = (
    (_OUTSIDE, _CHANGED1),
    (_KEPT1, _IN1),
    (_CHANGED1, _IN0),
    (_KEPT2, _IN2),
    (_IN0, _IN0),
    (_IN1, _IN1),
    (_IN2, _IN2),
)


class _Step(NamedTuple):
    """An edge of the lattice; `times` says how many of the two lattices hold it."""

    end: Vertex
    keeps: bool
    times: int


class Lattice:
    """All cheapest alignments of one source with one output."""

    def __init__(self, source: Sequence[str], output: Sequence[str]):
        """Takes tokens."""
        self._output = output
        steps: dict[Vertex, dict[Vertex, list]] = {}
        for substitution in (1, 2):
            for start, end, keeps in _cheapest_steps(source, output, substitution):
                found = steps.setdefault(start, {}).setdefault(end, [keeps, 0])
                found[1] += 1
        self._end = (len(source), len(output))
        self._steps = {
            vertex: [_Step(end, *found) for end, found in sorted(ends.items())]
            for vertex, ends in sorted(steps.items())
        }
        self._steps[self._end] = []
        self._columns: dict[int, list[int]] = {}  # i -> every j with a vertex (i, j), ascending
        for i, j in self._steps:
            self._columns.setdefault(i, []).append(j)

    def edits(self, gold: Sequence[Edit]) -> list[Edit]:
        """The system's edits in order, as they agree best with an annotator's."""
        wanted = self._gold_edges(gold)
        back = self._shortest(wanted)
        found = []
        vertex = end = self._end
        state = _OUTSIDE
        while (before := back.get((vertex, state))) is not None:
            previous, previous_state, is_edit = before
            if is_edit:  # a whole edit in one go
                found.append((previous, vertex))
            elif state == _OUTSIDE and previous_state != _OUTSIDE:  # an edit ends here
                end = vertex
            elif state != _OUTSIDE and previous_state == _OUTSIDE:  # and begins here
                found.append((previous, end))
            vertex, state = previous, previous_state
        return [self._edit(*edge) for edge in reversed(found)]

    def _edit(self, start: Vertex, end: Vertex) -> Edit:
        return Edit(start[0], end[0], (" ".join(self._output[start[1] : end[1]]),))

    def _shortest(
        self, wanted: dict[Vertex, list[Vertex]]
    ) -> dict[tuple[Vertex, int], tuple[Vertex, int, bool]]:
        """(vertex, state) -> what it is reached from, and whether by a whole edit in one go.

        One pass over the vertices in topological order; of equal paths the first is kept.
        """
        costs = {vertex: [_NEVER] * 7 for vertex in self._steps}
        costs[0, 0][_OUTSIDE] = 0
        back: dict[tuple[Vertex, int], tuple[Vertex, int, bool]] = {}
        for vertex, steps in self._steps.items():
            here = costs[vertex]
            for state in (_IN0, _IN1, _IN2):
                if here[state] + _EDIT < here[_OUTSIDE]:
                    here[_OUTSIDE] = here[state] + _EDIT
                    back[vertex, _OUTSIDE] = (vertex, state, False)
            for end, keeps, times in steps:
                there = costs[end]
                single = here[_OUTSIDE] + _STEP + (0 if keeps else times * _EDIT)
                if single < there[_OUTSIDE]:
                    there[_OUTSIDE] = single
                    back[end, _OUTSIDE] = (vertex, _OUTSIDE, not keeps)
                for before, after in _AFTER_KEPT if keeps else _AFTER_CHANGE:
                    if here[before] + _STEP < there[after]:
                        there[after] = here[before] + _STEP
                        back[end, after] = (vertex, before, False)
            for end in wanted.get(vertex, ()):
                if here[_OUTSIDE] - _GOLD < costs[end][_OUTSIDE]:
                    costs[end][_OUTSIDE] = here[_OUTSIDE] - _GOLD
                    back[end, _OUTSIDE] = (vertex, _OUTSIDE, True)
        return back

    def _gold_edges(self, gold: Sequence[Edit]) -> dict[Vertex, list[Vertex]]:
        """Edges of the lattice that are gold edits: start -> ends."""
        wanted: dict[Vertex, list[Vertex]] = {}
        insertions: dict[int, list[Edit]] = {}
        for edit in gold:
            if edit.start == edit.end:
                insertions.setdefault(edit.start, []).append(edit)
                continue
            for start, end in self._replacements(edit):
                wanted.setdefault(start, []).append(end)
        for i, edits in insertions.items():
            for start, end in self._match_insertions(i, edits):
                wanted.setdefault(start, []).append(end)
        return wanted

    def _replacements(self, edit: Edit) -> Iterator[tuple[Vertex, Vertex]]:
        for j in self._columns.get(edit.start, ()):
            for correction in edit.corrections:
                end = (edit.end, j + len(correction.split()))
                text = " ".join(self._output[j : end[1]])
                if text == correction and self._is_edge((edit.start, j), end):
                    yield (edit.start, j), end

    def _is_edge(self, start: Vertex, end: Vertex) -> bool:
        """Whether steps that keep at most two tokens lead from one vertex to the other."""
        fewest = {start: 0}
        frontier = [start]
        while frontier:
            following: dict[Vertex, int] = {}
            for vertex in frontier:
                for next_, keeps, _ in self._steps[vertex]:
                    kept = fewest[vertex] + keeps
                    inside = next_[0] <= end[0] and next_[1] <= end[1] and kept <= MAX_KEPT
                    if inside and kept < fewest.get(next_, MAX_KEPT + 1):
                        following[next_] = fewest[next_] = kept
            frontier = list(following)
        # A run of kept tokens alone is not an edit.
        return end in fewest and fewest[end] < end[0] - start[0] + (
            end[0] - start[0] != end[1] - start[1]
        )

    def _match_insertions(self, i: int, gold: Sequence[Edit]) -> Iterator[tuple[Vertex, Vertex]]:
        """Insertions before source token i that are gold ones.

        Both are gone through from both ends inwards, in turn; a match uses up its gold edit and
        all before (or after) it, and the search continues where the matched insertion ends.
        """
        edges = list(self._insertions(i))
        first, last = 0, len(edges) - 1
        low, high = 0, len(gold) - 1
        forward = True
        while first <= last:
            start, end = edges[first if forward else last]
            text = " ".join(self._output[start:end])
            order = range(low, high + 1) if forward else range(high, low - 1, -1)
            match = next((g for g in order if text in gold[g].corrections), None)
            if match is None:
                first, last = (first + 1, last) if forward else (first, last - 1)
                forward = not forward or first > last
                continue
            yield (i, start), (i, end)
            if forward:
                low = match + 1
                first += 1
                while first < len(edges) and edges[first][0] != end:
                    first += 1
            else:
                high = match - 1
                last -= 1
                while last >= 0 and edges[last][1] != start:
                    last -= 1

    def _insertions(self, i: int) -> Iterator[tuple[int, int]]:
        """All runs of insertions at i as (from, to) in the output, single ones as often as held."""
        for j in self._columns.get(i, ()):
            end = j
            while True:
                step = next((s for s in self._steps[i, end] if s.end == (i, end + 1)), None)
                if step is None:
                    break
                end += 1
                for _ in range(step.times if end == j + 1 else 1):
                    yield j, end


def _cheapest_steps(
    source: Sequence[str], output: Sequence[str], substitution: int
) -> Iterator[tuple[Vertex, Vertex, bool]]:
    """Every step of every cheapest alignment: (start, end, whether it keeps a token)."""
    costs = _costs(source, output, substitution)
    seen = {(len(source), len(output))}
    frontier = list(seen)
    while frontier:
        i, j = end = frontier.pop()
        here = costs[i][j]
        starts = []
        if i and costs[i - 1][j] + 1 == here:
            starts.append(((i - 1, j), False))
        if j and costs[i][j - 1] + 1 == here:
            starts.append(((i, j - 1), False))
        if i and j:
            keeps = source[i - 1] == output[j - 1]
            if costs[i - 1][j - 1] + (0 if keeps else substitution) == here:
                starts.append(((i - 1, j - 1), keeps))
        for start, keeps in starts:
            yield start, end, keeps
            if start not in seen:
                seen.add(start)
                frontier.append(start)


def _costs(source: Sequence[str], output: Sequence[str], substitution: int) -> list[list[int]]:
    """Levenshtein distances of all pairs of prefixes, [source + 1][output + 1]."""
    row = list(range(len(output) + 1))
    costs = [row]
    for i, token in enumerate(source, start=1):
        previous, row = row, [i]
        left = i
        for diagonal, above, other in zip(previous, previous[1:], output, strict=False):
            best = diagonal if token == other else diagonal + substitution
            if above < best:
                best = above + 1
            if left < best:
                best = left + 1
            row.append(best)
            left = best
        costs.append(row)
    return costs
