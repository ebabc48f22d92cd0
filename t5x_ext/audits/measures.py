"""Measures of data before a step is trained on it, per task and between tasks.

Lengths are in tokens and count the end-of-sequence id, as TASK_FEATURE_LENGTHS does. Rows are those
of every split, unless a measure names its split. What is worth telling is in flags.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from mixtures.records import Row
from mixtures.vocabularies import Vocabulary
from t5x_ext.audits.records import (
    Cut,
    LabelShare,
    Lengths,
    Limit,
    SharedInputs,
    SharedSource,
    TaskAudit,
    TaskRows,
)

# What a run can lose between the text of a file and the tokens of a model.
_SPACES = {"newline": "\n", "tab": "\t", "repeated space": "  "}


class Auditor:
    """Measures tasks under one vocabulary and list of limits.

    Attributes:
        lost_spaces: names of the kinds of white space that do not survive the vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, limits: Sequence[Limit]):
        """Sets what all tasks are measured with.

        Args:
            vocabulary: gives token counts, unknown pieces and lost white space.
            limits: feature lengths to count the rows for that do not fit.
        """
        self._vocabulary = vocabulary
        self._limits = tuple(limits)
        self._is_unknown: dict[str, bool] = {}
        self._is_rewritten: dict[str, bool] = {}
        self.lost_spaces = tuple(
            name for name, space in _SPACES.items() if not self._survives(f"a{space}b")
        )
        lost = [re.escape(_SPACES[name]) for name in self.lost_spaces]
        self._lost_space = re.compile("|".join(lost) if lost else r"(?!)")

    def measure(self, task: TaskRows) -> TaskAudit:
        """Measures one task, which must have a row."""
        rows = task.rows
        prompts = [task.render(row) for row in rows]
        prompt_ids = [self._vocabulary.encode(prompt) for prompt in prompts]
        target_ids = [
            [self._vocabulary.encode(text) for text in row.targets or row.references]
            for row in rows
        ]
        prompt_tokens = np.array([len(ids) + 1 for ids in prompt_ids])
        target_tokens = np.array([max(map(len, every)) + 1 for every in target_ids])
        unk = self._vocabulary.unk_id
        unknown_prompts = [
            prompt for prompt, ids in zip(prompts, prompt_ids, strict=True) if unk in ids
        ]
        unknown_targets = [
            " ".join(row.references)
            for row, every in zip(rows, target_ids, strict=True)
            if any(unk in ids for ids in every)
        ]
        rewritten_prompts = [text for text in prompts if self._rewrites(text)]
        rewritten_targets = [
            text for row in rows if self._rewrites(text := " ".join(row.references))
        ]
        return TaskAudit(
            name=task.name,
            category=task.category,
            track=task.track,
            rows=len(rows),
            train=len(task.train),
            validation=len(task.validation),
            test=len(task.test),
            leaked=task.leaked,
            prompt=_lengths(prompt_tokens),
            target=_lengths(target_tokens),
            cuts=tuple(
                self._cut(limit, task, prompt_tokens, target_tokens) for limit in self._limits
            ),
            label=label_share(task),
            duplicates=count_repeated(task),
            near_duplicates=count_repeated(task, fold),
            unknown_prompts=len(unknown_prompts),
            unknown_targets=len(unknown_targets),
            unknown_characters=_frequent(
                unknown_prompts + unknown_targets, self._character_is_unknown
            ),
            rewritten_prompts=len(rewritten_prompts),
            rewritten_targets=len(rewritten_targets),
            rewritten_characters=_frequent(
                rewritten_prompts + rewritten_targets, self._character_is_rewritten
            ),
            lost_space_inputs=sum(bool(self._lost_space.search(row.input)) for row in rows),
            lost_space_targets=sum(
                any(self._lost_space.search(text) for text in row.references) for row in rows
            ),
            repeated_inputs=len(task.test) - len({row.input for row in task.test}),
            is_rewriting=task.is_rewriting,
        )

    def _cut(
        self, limit: Limit, task: TaskRows, prompt_tokens: np.ndarray, target_tokens: np.ndarray
    ) -> Cut:
        too_long = np.flatnonzero(prompt_tokens > limit.inputs)
        bare = (task.render(_question_only(task.rows[index])) for index in too_long)
        return Cut(
            limit=limit.name,
            prompts=len(too_long),
            questions=sum(len(self._vocabulary.encode(text)) + 1 > limit.inputs for text in bare),
            targets=int((target_tokens > limit.targets).sum()),
        )

    def _survives(self, text: str) -> bool:
        return self._vocabulary.decode(self._vocabulary.encode(text)) == text

    def _rewrites(self, text: str) -> bool:
        return any(self._character_is_rewritten(character) for character in set(text))

    def _character_is_unknown(self, character: str) -> bool:
        if character not in self._is_unknown:
            ids = self._vocabulary.encode(character)
            self._is_unknown[character] = self._vocabulary.unk_id in ids
        return self._is_unknown[character]

    def _character_is_rewritten(self, character: str) -> bool:
        """Whether it comes back as other characters; what is unknown does not come back at all."""
        if character not in self._is_rewritten:
            self._is_rewritten[character] = (
                character not in "".join(_SPACES.values())
                and not self._character_is_unknown(character)
                and not self._survives(f"a{character}b")
            )
        return self._is_rewritten[character]


def label_share(task: TaskRows) -> LabelShare:
    """The label whose share of train or test is the largest there is; of a tie, train's first.

    A row's label is its first reference, white space around it aside; "" if there are only
    validation rows.
    """
    shares = []
    for rows in (task.train, task.test):
        counts = Counter(row.references[0].strip() for row in rows)
        shares.append({label: count / len(rows) for label, count in counts.most_common()})
    train, test = shares
    labels = [*train, *test]
    label = max(labels, key=lambda text: max(train.get(text, 0), test.get(text, 0)), default="")
    return LabelShare(
        label=label,
        train=train.get(label, 0.0) if train else None,
        test=test.get(label, 0.0) if test else None,
    )


def count_repeated(task: TaskRows, key: Callable[[str], str] = str) -> int:
    """Test rows whose input, as `key` writes it, is also in train."""
    trained = {key(row.input) for row in task.train}
    return sum(key(row.input) in trained for row in task.test)


def shared_inputs(tasks: Iterable[TaskRows], audited: Collection[str]) -> list[SharedInputs]:
    """Groups of tasks with inputs in common, those with most trained test rows first.

    The groups together name no more tasks than there are rows.

    Args:
        tasks: tasks to compare, each once.
        audited: names of tasks; a group without any of them is left out.
    """
    chosen = set(audited)
    rewriting = set()
    # input -> task -> splits in which the task has it
    places: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for task in tasks:
        if task.is_rewriting:
            rewriting.add(task.name)
        for split in ("train", "validation", "test"):
            for row in getattr(task, split):
                key = fold(row.input)
                # Detokenisers do not all give the same spaces back.
                key = key.replace(" ", "") if task.is_rewriting else key
                places[key][task.name].add(split)
    inputs: Counter[tuple[str, ...]] = Counter()
    leaks: Counter[tuple[str, ...]] = Counter()
    validated_leaks: Counter[tuple[str, ...]] = Counter()
    together: Counter[tuple[str, ...]] = Counter()
    for splits in places.values():
        if len(splits) == 1 or chosen.isdisjoint(splits):
            continue
        tested = {name for name in splits if "test" in splits[name]}
        trained = {name for name in splits if "train" in splits[name]}
        group = tuple(sorted(splits, key=lambda name: name not in chosen))
        inputs[group] += 1
        leaks[group] += _differ(tested & chosen, trained) or _differ(tested, trained & chosen)
        validated = {name for name in splits if "validation" in splits[name]}
        validated_leaks[group] += _differ(validated & chosen, trained) or _differ(
            validated, trained & chosen
        )
        together[group] += _differ(tested & chosen, tested)
    found = [
        SharedInputs(
            group,
            count,
            leaks[group],
            validated_leaks[group],
            together[group],
            is_rewriting=rewriting.issuperset(group),
        )
        for group, count in inputs.items()
    ]
    return sorted(found, key=lambda shared: (-shared.tested_and_trained, -shared.inputs))


def shared_documents(tasks: Iterable[TaskRows], audited: Collection[str]) -> dict[str, int]:
    """Audited task -> its test rows from documents that training rows of any task are from.

    Args:
        tasks: tasks to compare, each once.
        audited: names of tasks.
    """
    tasks = list(tasks)
    trained = {row.document for task in tasks for row in task.train} - {""}
    return {
        task.name: count
        for task in tasks
        if task.name in audited and (count := sum(row.document in trained for row in task.test))
    }


def shared_sources(tasks: Iterable[TaskRows], audited: Collection[str]) -> list[SharedSource]:
    """Sources used by both tracks, those of most tasks first.

    Sources are compared as `_source_keys` writes them; an entry may name several.

    Args:
        tasks: tasks to compare, each once.
        audited: names of tasks; a source without any of them is left out.
    """
    by_source: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"train": [], "test": []})
    for task in tasks:
        if task.track:
            for source in _source_keys(task.sources):
                by_source[source][task.track].append(task.name)
    found = [
        SharedSource(source, tuple(names["train"]), tuple(names["test"]))
        for source, names in by_source.items()
        if names["train"] and names["test"] and {*names["train"], *names["test"]} & set(audited)
    ]
    return sorted(found, key=lambda shared: -len(shared.train_tasks + shared.test_tasks))


def fold(text: str) -> str:
    """`text` without case, punctuation and white space differences."""
    words = re.sub(r"[^\w\s]|_", "", text.casefold()).split()
    return " ".join(words) if words else text  # a text of punctuation alone is kept as it is


def _differ(tested: set[str], trained: set[str]) -> bool:
    """Whether a task of one set and another task of the other can be picked."""
    return bool(tested and trained) and len(tested | trained) > 1


def _source_keys(sources: Iterable[str]) -> set[str]:
    """Names of data sets in letters and digits: 'wsc; Enhanced_WSC' is wsc and enhancedwsc.

    The release writes one data set in several ways (rocstories, roc_stories).
    """
    names = re.split(r"[;,]", ";".join(sources).casefold())
    return {key for name in names if (key := re.sub(r"[^a-z0-9]", "", name))}


def _question_only(row: Row) -> Row:
    """What is left when all that truncation may drop has been dropped."""
    row = replace(row, positive_examples=(), negative_examples=())
    # A row without input has its question in the definition.
    return replace(row, definition="") if row.input.strip() else row


def _frequent(texts: Iterable[str], chosen: Callable[[str], bool]) -> str:
    """The chosen characters of some texts, the one in most texts first."""
    counts = Counter(character for text in texts for character in sorted(set(text)))
    return "".join(character for character, _ in counts.most_common() if chosen(character))


def _lengths(tokens: np.ndarray) -> Lengths:
    p50, p95 = np.percentile(tokens, (50, 95))
    return Lengths(float(tokens.mean()), float(p50), float(p95), int(tokens.max()))
